"""How the ends of runs are judged, with processes that end in every way; docs/reliability.md numbers the faults."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from ablations import attempt
from ablations.job import Job, take_stock
from ablations.local_executor import Slot, run_jobs
from ogp import identity
from ogp.config import RunConfig
from ogp.config_files import validate
from ogp.results import RESULT, RunResult, TrainingSummary, load_result, write_record
from ogp.runs.run_state import read_status
from tests.reliability.studies import alive

STANDIN = Path(__file__).with_name("standin.py")
HALVES = validate(RunConfig, {"training": {"steps": 2, "batch_size": 8, "micro_batch": 4}}, "test")


@dataclass
class Scripted(Job):
    """A job whose tries end as the words of `ends` say, one after the other."""

    ends: str = "done"

    def command(self) -> list[str]:
        """The stand-in instead of `ogp train`; without the site packages it starts at once."""
        command = [sys.executable, "-I", "-S", str(STANDIN), str(self.folder), self.ends]
        return [*command, "--halved"] if self.halved else command


def result(run_id: str) -> RunResult:
    """A trusted result."""
    training = TrainingSummary(
        steps=2,
        examples=16,
        seconds=1.0,
        seconds_per_step=0.5,
        **dict.fromkeys(("conflicting", "aligned", "skipped", "projected")),
    )
    return RunResult(
        run_id=run_id,
        study="s",
        arm="a",
        seed=0,
        status="done",
        config={},
        judge="j",
        decoding="greedy",
        evaluations=(),
        training=training,
        peak_memory_bytes=1,
        seconds=1.0,
        environment={},
    )


def grid(results: Path, *ends: str, config: RunConfig = HALVES) -> list[Scripted]:
    """Jobs of an own folder each, so that each finds its result."""
    jobs = []
    for number, each in enumerate(ends):
        home = results / str(number)
        home.mkdir(parents=True, exist_ok=True)
        write_record(home / "result.template", result("run"))
        jobs.append(Scripted("run", config, home / "run", ends=each))
    return jobs


def execute(jobs: Sequence[Job], *, workers: int = 2, patience: float = 60.0) -> None:
    """Run the queued ones to their ends."""
    run_jobs(jobs, [Slot(threads=1)] * workers, patience=patience)


def tries(job: Job) -> list[str]:
    """The arguments of each try."""
    return (job.folder.parent / "run.tries").read_text().splitlines()


def states(jobs: Sequence[Job]) -> list[str]:
    """The states, which have to be those on disk."""
    assert [job.state for job in jobs] == [read_status(job.folder).state for job in jobs]
    return [job.state for job in jobs]


def test_fault_03_killed_after_the_result_is_done_and_never_repeated(tmp_path: Path) -> None:
    killed, killed_with_runner = grid(tmp_path, "killed-after-result", "done")
    execute([killed])
    assert (killed.state, len(tries(killed))) == ("done", 1)
    execute([killed_with_runner])
    (killed_with_runner.folder / "status.json").write_text('{"state": "running"}')  # as a killed runner leaves it
    for job in (killed, killed_with_runner):
        take_stock(job, retry_failed=True)
        assert (job.state, load_result(job.folder)) == ("done", result("run"))
        execute([job])
        assert len(tries(job)) == 1


def test_fault_13_out_of_memory_gives_one_more_try_with_half_the_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counters = tmp_path / "vmstat"
    counters.write_text("pgfault 7\noom_kill 0\n")
    monkeypatch.setenv("KERNEL_COUNTERS", str(counters))
    monkeypatch.setattr(attempt, "KERNEL_COUNTERS", counters)
    ends = ["out-of-memory,done", "out-of-memory,out-of-memory,done", "killed-by-kernel,done", "killed,done"]
    jobs = grid(tmp_path, *ends)
    execute(jobs, workers=1)
    assert states(jobs) == ["done", "oom", "done", "queued"]
    assert [tries(job) for job in jobs] == [["", "--halved"]] * 3 + [[""]]
    assert "half" in jobs[1].message
    assert "SIGKILL" in jobs[3].message, "killed by somebody: no sign that memory was short"

    one = validate(
        RunConfig, {"training": {"batch_size": 1, "micro_batch": 1}, "evaluation": {"batch_size": 1}}, "test"
    )
    (smallest,) = grid(tmp_path / "smallest", "out-of-memory", config=one)
    execute([smallest])
    assert (states([smallest]), len(tries(smallest))) == (["oom"], 1)


def test_fault_13_a_kill_by_the_kernel_itself_counts_as_out_of_memory(
    tmp_path: Path, memory_group: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMORY_GROUP", str(memory_group))
    (job,) = grid(tmp_path, "exceeds,done")
    execute([job])
    assert (states([job]), job.halved, tries(job)) == (["done"], True, ["", "--halved"])


@pytest.mark.parametrize(("micro", "half"), [(8, 4), (6, 3), (5, 1), (2, 1), (1, 1)])
def test_a_halved_run_keeps_its_effective_batch(micro: int, half: int) -> None:
    settings = {"training": {"batch_size": 120, "micro_batch": micro}, "evaluation": {"batch_size": 3}}
    config = validate(RunConfig, settings, "test")
    halved = validate(RunConfig, config.halved().model_dump(mode="json"), "test")
    assert (halved.training.batch_size, halved.training.micro_batch, halved.evaluation.batch_size) == (120, half, 1)


def test_fault_14_an_arm_that_raises_does_not_stop_the_others_and_waits_for_retry_failed(tmp_path: Path) -> None:
    jobs = grid(tmp_path, "raises,done", "done", "no-room,done", "returns,done", "done")
    execute(jobs)
    assert states(jobs) == ["failed", "done", "queued", "failed", "done"]
    assert "the arm is broken" in jobs[0].message
    assert "disk full: needs 2 MB" in jobs[2].message, "the machine's fault: the same command goes on"
    assert "without a result" in jobs[3].message, "fault 23: a normal return alone is never done"

    def again(*, retry_failed: bool) -> list[int]:
        for job in jobs:
            take_stock(job, retry_failed=retry_failed)
        execute(jobs)
        return [len(tries(job)) for job in jobs]

    assert again(retry_failed=False) == [1, 1, 2, 1, 1]
    assert states(jobs) == ["failed", "done", "done", "failed", "done"]
    assert again(retry_failed=True) == [2, 1, 2, 2, 1]
    assert states(jobs) == ["done"] * 5


def test_fault_15_a_silent_run_is_ended_with_all_it_started(tmp_path: Path) -> None:
    hanging, other = grid(tmp_path, "hangs", "done")
    execute([hanging, other], patience=6.0)
    assert states([hanging, other]) == ["timeout", "done"]
    assert "no sign of life for 6 s" in hanging.message
    assert "training" in hanging.message
    child = int((hanging.folder.parent / "child").read_text())
    deadline = time.monotonic() + 10
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)


@pytest.mark.parametrize("content", ["", "{", '{"run_id": "run"}', "edited"])
def test_fault_08_a_torn_or_foreign_result_is_named_and_made_again(tmp_path: Path, content: str) -> None:
    torn, other = grid(tmp_path, "done", "done")
    execute([torn, other])
    if content == "edited":
        write_record(torn.folder / RESULT, result("another"))
    else:
        (torn.folder / RESULT).write_text(content)
    for job in (torn, other):
        take_stock(job)
    assert (torn.state, other.state) == ("queued", "done")
    assert RESULT in torn.message
    execute([torn, other])
    assert states([torn, other]) == ["done", "done"]
    assert [len(tries(job)) for job in (torn, other)] == [2, 1]


def test_a_rejudged_result_stays_done(tmp_path: Path) -> None:
    (job,) = grid(tmp_path, "done")
    execute([job])
    write_record(job.folder / RESULT, result("run").model_copy(update={"judge": "another"}))
    take_stock(job)
    assert job.state == "done"


def test_fault_09_whatever_decides_the_numbers_decides_the_run_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "ogp"
    shutil.copytree(identity.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(identity, "PACKAGE", package)
    monkeypatch.setattr(identity, "code_key", identity.code_key.__wrapped__)  # it is hashed once per process otherwise
    data = tmp_path / "pairs.jsonl"
    data.write_text('{"prompt": "a", "answer": "b"}\n')
    config = validate(RunConfig, {"data": {"source": str(data)}}, "test")
    before = identity.run_id(config)

    def changed(path: Path, old: str, new: str) -> bool:
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        found = identity.run_id(config)
        path.write_text(text, encoding="utf-8")
        assert identity.run_id(config) == before
        return found != before

    assert changed(data, "a", "c"), "training data"
    assert changed(package / "step" / "objectives.py", "import torch", "LIMIT = 1\nimport torch"), "code"
    assert not changed(package / "step" / "objectives.py", '"""', '"""Another word. '), "words about code"
    assert not changed(package / "runs" / "progress.py", "BEAT_SECONDS = 1.0", "BEAT_SECONDS = 2.0"), (
        "code that decides nothing"
    )
    assert changed(package / "evaluation" / "tasks" / "ogp_facts.jsonl", '"gold": 0', '"gold": 1'), "a task"
    assert changed(package / "prompts" / "harmful.jsonl", "?", "!"), "a prompt"
    other = config.model_copy(update={"seed": 1})
    assert identity.run_id(other) != before, "a setting"
    monkeypatch.setattr(identity, "version", lambda name: "0")
    assert identity.run_id(config) != before, "a library"
