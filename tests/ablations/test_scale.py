"""Ten thousand runs planned and surveyed; a thousand workers that fail at random finish a grid, no run lost or doubled.

The workers are simulated, since no test machine has a thousand; dispatcher, policy and every file are the real ones.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ablations import local_executor, ray_executor
from ablations.attempt import Ended
from ablations.interruption import Interrupted
from ablations.job import Job, take_stock
from ablations.local_executor import Slot
from ablations.ray_cluster import Need
from ogp.config import ModelSettings, RunConfig
from ogp.results import RESULT, TrainingSummary, write_record
from ogp.results import RunResult as Result
from ogp.runs.exit_codes import OUT_OF_MEMORY
from ogp.runs.run_state import read_status
from tests.reliability.studies import ROOT, study_file

ARMS, SEEDS = 100, 100
PLAIN = RunConfig(model=ModelSettings(source="embedded:original"))
MEASURED = (  # a command's peak memory, and how many files it opens outside the runs' folders
    "import sys\n"
    "opened = 0\n"
    "def hook(event, args):\n"
    "    global opened\n"
    "    opened += event == 'open' and '/results/' not in str(args[0]) and not str(args[0]).endswith(('.py', '.pyc'))\n"
    "sys.addaudithook(hook)\n"
    "sys.argv = sys.argv[1:]\n"
    "import runpy\n"
    "try:\n"
    "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
    "except SystemExit as end:\n"
    "    assert not end.code, end.code\n"
    "status = open('/proc/self/status').read()\n"  # ru_maxrss would be the test process's: it survives fork and exec
    "print(status.split('VmHWM:')[1].split()[0], opened - 1, file=sys.stderr)\n"
)


def measured(*words: str) -> tuple[str, int, int]:
    """Output, peak memory in bytes and opened files of a Python command."""
    done = subprocess.run([sys.executable, "-c", MEASURED, *words], capture_output=True, text=True, check=True)
    peak, opened = map(int, done.stderr.split()[-2:])
    return done.stdout, peak * 1024, opened


def result_of(job: Job) -> Result:
    """What a run leaves behind."""
    return Result(
        run_id=job.run_id,
        study="mine",
        arm=job.config.arm,
        seed=job.config.seed,
        status="done",
        config={},
        judge="none",
        decoding="none",
        evaluations=(),
        training=TrainingSummary(
            steps=0, examples=0, seconds=0, seconds_per_step=None, conflicting=None, aligned=None, skipped=None,
            projected=None,
        ),
        peak_memory_bytes=1,
        seconds=1.0,
        environment={},
    )  # fmt: skip


@pytest.mark.slow
def test_ten_thousand_runs_are_planned_and_surveyed_in_little_memory(tiny_folder: Path, tmp_path: Path) -> None:
    """Time is measured by hand (docs/reliability.md); here, that no file is read once per run."""
    arms = {
        f"arm-{i}": {"description": "x", "settings": {"training": {"learning_rate": 1e-5 * (i + 1)}}}
        for i in range(ARMS)
    }
    study_file(tmp_path, tiny_folder, arms=arms, smoke={"arms": ["arm-0"], "settings": {}})
    run_all, seeds = str(ROOT / "ablations" / "run_all.py"), [str(seed) for seed in range(SEEDS)]
    words = ["--study", str(tmp_path / "mine.yaml"), "--seeds", *seeds, "--results", str(tmp_path / "results")]
    shown, peak, opened = measured(run_all, *words, "--dry-run")
    assert f"{ARMS * SEEDS + 1} runs, 0 finished" in shown
    assert peak < 500 << 20
    assert opened < 1000

    code = (
        "import sys; from pathlib import Path; from ablations.studies import plan_study; from ogp.results import *\n"
        "planned = plan_study(Path(sys.argv[1]), seeds=range(100)); results = Path(sys.argv[2])\n"
        "write_record(results / 'mine.study.json', planned.plan)\n"
        "from ogp.runs.run_state import *\n"
        "for run in planned.configs: (results / run).mkdir(); (results / run / 'status.json').write_text("
        "RunStatus(state='failed', message='m').model_dump_json())\n"
    )
    (tmp_path / "results").mkdir()
    subprocess.run([sys.executable, "-c", code, words[1], words[-1]], check=True, cwd=ROOT)
    shown, peak, opened = measured(str(ROOT / "ogp" / "cli.py"), "status", words[-1])
    assert str(ARMS * SEEDS + 1) in shown
    assert peak < 500 << 20
    assert opened < 1000


class Fate:
    """What becomes of each try: most end well, some fail in every way a machine can fail. Counts what was made."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.made: Counter[str] = Counter()
        self.tries: Counter[str] = Counter()

    def end(self, job: Job) -> Ended:
        self.tries[job.run_id] += 1
        chance = self.draw.random()
        if chance < 0.02:
            return Ended(-signal.SIGKILL, 1.0, killed_by_kernel=True)
        if chance < 0.04:
            return Ended(OUT_OF_MEMORY, 1.0)
        if chance < 0.06:
            return Ended(-signal.SIGTERM, 1.0)
        if chance < 0.08:
            return Ended(1, 1.0)
        if chance < 0.10:
            return Ended(-signal.SIGKILL, 1.0, silent=99.0)
        write_record(job.folder / RESULT, result_of(job))
        self.made[job.run_id] += 1
        # killed between writing the result and ending: the result counts
        return Ended(-signal.SIGKILL if chance < 0.12 else 0, 1.0)


def grid(folder: Path, count: int) -> list[Job]:
    ids = [f"{number:016x}" for number in range(count)]
    return [Job(each, PLAIN.model_copy(update={"seed": seed}), folder / each) for seed, each in enumerate(ids)]


def assert_nothing_is_lost_or_doubled(jobs: Sequence[Job], fate: Fate) -> None:
    assert {job.run_id for job in jobs} == set(fate.made), "every run has a result"
    assert set(fate.made.values()) == {1}, "and none was made twice"
    assert all(read_status(job.folder).state == "done" for job in jobs)
    assert max(fate.tries.values()) > 1, "some had to be tried again"


def quick_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is forced to the disk, and no settings are written; the order of all other writes stays."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setattr("ablations.job.to_yaml", lambda _: "{}")


class SimulatedAttempt:
    """Stands for a subprocess: goes on for a few polls, then ends as fate has it."""

    fate: Fate
    alive = 0
    most_alive = 0

    def __init__(self, job: Job, *_: Any, **__: Any) -> None:
        self.job, self.left, self.progress, self.seconds = job, self.fate.draw.randrange(1, 6), {}, 1.0
        type(self).alive += 1
        type(self).most_alive = max(self.alive, self.most_alive)

    def poll(self) -> Ended | None:
        self.left -= 1
        if self.left:
            return None
        type(self).alive -= 1
        return self.fate.end(self.job)


@pytest.mark.slow
def test_a_thousand_local_workers_with_random_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fate = SimulatedAttempt.fate = Fate(seed=1)
    monkeypatch.setattr(local_executor, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(Job, "command", lambda job: job)
    monkeypatch.setattr(local_executor, "Attempt", SimulatedAttempt)
    monkeypatch.setattr(local_executor, "stop", lambda attempts: [Ended(-signal.SIGTERM, 1.0) for _ in attempts])
    quick_files(monkeypatch)

    def interrupted() -> None:
        if fate.draw.random() < 0.05:
            raise Interrupted("SIGTERM")

    rounds = 0
    while True:
        jobs = grid(tmp_path, 2000)
        for job in jobs:
            take_stock(job, retry_failed=True)
        if all(job.state == "done" for job in jobs):
            break
        rounds += 1
        SimulatedAttempt.alive = 0
        try:
            local_executor.run_jobs(jobs, [Slot(1)] * 1000, patience=60.0, changed=interrupted)
        except Interrupted:
            continue
    assert rounds > 1
    assert SimulatedAttempt.most_alive == 1000
    assert_nothing_is_lost_or_doubled(jobs, fate)


class SimulatedRay:
    """As much of Ray as the dispatcher uses: nodes that come and go with the tasks on them."""

    class exceptions:
        class RayError(Exception): ...

        class RayTaskError(RayError): ...

    def __init__(self, fate: Fate, nodes: int, cpus: int) -> None:
        self.fate, self.cpus = fate, cpus
        self.alive = set(range(nodes))
        self.places: dict[int, list[Stream]] = {node: [] for node in self.alive}
        self.most = 0

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": node in self.alive, "Resources": {"CPU": self.cpus}} for node in self.places]

    def remote(self, **_: Any) -> Any:
        return lambda _: SimpleNamespace(remote=self._task)

    def put(self, value: Any) -> Any:
        return value

    def cancel(self, stream: Stream) -> None:
        stream.said = iter([self.exceptions.RayError("cancelled")])

    def _task(self, job: Job, *_: Any, **__: Any) -> Stream:
        node = min(self.alive, key=lambda each: len(self.places[each]))
        assert len(self.places[node]) < self.cpus, "no more tasks than the cluster has room for"
        stream = Stream(self, job, node)
        self.places[node].append(stream)
        self.most = max(self.most, sum(map(len, self.places.values())))
        return stream

    def wait(self, streams: list[Stream], **_: Any) -> tuple[list[Stream], list[Stream]]:
        """A node dies now and then, and comes back; about half of the tasks have something to say."""
        if self.fate.draw.random() < 0.2 and len(self.alive) > 1:
            dead = self.fate.draw.choice(sorted(self.alive))
            self.alive.discard(dead)
            for stream in self.places[dead]:
                stream.said = iter([self.exceptions.RayError("node died")])
            self.places[dead] = []
        elif len(self.alive) < len(self.places):
            self.alive.add(next(node for node in self.places if node not in self.alive))
        ready = [stream for stream in streams if self.fate.draw.random() < 0.5]
        return ready, [stream for stream in streams if stream not in ready]

    def get(self, said: Any) -> Any:
        if isinstance(said, Exception):
            raise said
        return said


class Stream:
    """What one task says, one by one."""

    def __init__(self, ray: SimulatedRay, job: Job, node: int) -> None:
        self.ray, self.node, self.said = ray, node, self._live(job)

    def _live(self, job: Job) -> Iterator[Any]:
        for _ in range(self.ray.fate.draw.randrange(3)):
            yield {"step": 1}, 1.0
        ended = self.ray.fate.end(job)
        self.ray.places[self.node].remove(self)
        yield ray_executor.Arrival(ended, None)

    def __next__(self) -> Any:
        return next(self.said)


@pytest.mark.slow
def test_a_thousand_ray_workers_on_nodes_that_die(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fate = Fate(seed=2)
    monkeypatch.setattr(ray_executor, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(ray_executor, "PAUSE_SECONDS", 0.0)
    quick_files(monkeypatch)
    ray = SimulatedRay(fate, nodes=100, cpus=10)
    cluster = ray_executor.Cluster(ray)
    for _ in range(20):
        jobs = grid(tmp_path, 2000)
        for job in jobs:
            take_stock(job, retry_failed=True)
        if all(job.state == "done" for job in jobs):
            break
        ray_executor.run_jobs(jobs, cluster, Need(1, 0, 0), patience=60.0)
    assert ray.most > 900
    assert_nothing_is_lost_or_doubled(jobs, fate)


def test_a_run_that_takes_its_node_with_it_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost three times, the run is taken for the cause, and the other runs go on."""
    fate = Fate(seed=3)
    monkeypatch.setattr(fate, "end", lambda job: Ended(0, 1.0))
    monkeypatch.setattr(ray_executor, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(ray_executor, "PAUSE_SECONDS", 0.0)
    ray = SimulatedRay(fate, nodes=2, cpus=1)
    deadly = "0" * 16

    def live(stream: Stream, job: Job) -> Iterator[Any]:
        stream.ray.places[stream.node].remove(stream)
        if job.run_id == deadly:
            yield ray.exceptions.RayError("node died")
        write_record(job.folder / RESULT, result_of(job))
        yield ray_executor.Arrival(Ended(0, 1.0), None)

    monkeypatch.setattr(Stream, "_live", live)
    monkeypatch.setattr(ray, "wait", lambda streams, **_: (streams, []))
    jobs = grid(tmp_path, 3)
    ray_executor.run_jobs(jobs, ray_executor.Cluster(ray), Need(1, 0, 0), patience=60.0)
    assert [job.state for job in jobs] == ["failed", "done", "done"]
    assert "lost 3 times" in read_status(jobs[0].folder).message


def test_a_cluster_without_nodes_is_left_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_executor, "NO_NODE_SECONDS", 0.2)
    monkeypatch.setattr(ray_executor, "POLL_SECONDS", 0.01)
    ray = SimulatedRay(Fate(seed=4), nodes=2, cpus=1)
    ray.alive.clear()
    jobs = grid(tmp_path, 2)
    with pytest.raises(ray_executor.ConfigError, match="no node with 1 CPUs"):
        ray_executor.run_jobs(jobs, ray_executor.Cluster(ray), Need(1, 0, 0), patience=60.0)
    assert [job.state for job in jobs] == ["queued", "queued"]
