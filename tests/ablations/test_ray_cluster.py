"""A real Ray cluster of two nodes on this machine: a node is killed, folders are not shared, tokens are wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ogp.results import TRAIN_LOG, load_plan, load_result, read_lines
from ogp.runs.progress import LOG
from ogp.runs.run_state import read_status
from tests.reliability.studies import STUDY, command, study_file

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="the extra `cluster` is not installed"),
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
    pytest.mark.timeout(3000),
]
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "one-token-for-all-nodes-of-the-test"}
STEPS = 20
TRAINING = {**STUDY["settings"]["training"], "steps": STEPS, "checkpoint_every": 4}
SETTINGS = {**STUDY["settings"], "training": TRAINING}
LONG = 1500.0  # seconds that nothing here takes on a machine that is not overwhelmed


@pytest.fixture(scope="module")
def empty_cluster() -> Iterator[Any]:
    """A head that runs nothing, and what adds nodes to it; every node asks for the token."""
    patch = pytest.MonkeyPatch()
    for name, value in {**TOKEN, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}.items():
        patch.setenv(name, value)
    patch.delenv("RAY_ADDRESS", raising=False)
    from ray.cluster_utils import Cluster  # not before: it reads the variables when it is imported

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield cluster
    cluster.shutdown()
    patch.undo()


@pytest.fixture
def cluster(empty_cluster: Any) -> Any:
    """The cluster with two nodes of one CPU each."""
    while len(empty_cluster.worker_nodes) < 2:
        empty_cluster.add_node(num_cpus=1, memory=1 << 30, wait=False)
    empty_cluster.wait_for_nodes(timeout=LONG)
    return empty_cluster


def on(cluster: Any, folder: Path, *more: str) -> list[str]:
    return command(folder, "--executor", "ray", "--address", cluster.address, "--memory-per-run", "0.25", *more)


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """With the study in it."""
    study_file(tmp_path, tiny_folder, settings=settings(tmp_path, tiny_folder))
    return tmp_path


def settings(folder: Path, model: Path) -> dict[str, Any]:
    return SETTINGS | {"model": {"source": str(model)}, "data": {"source": str(folder / "pairs.jsonl")}}


@pytest.fixture(scope="module")
def local(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the study finds on this machine alone, with as many threads per run."""
    folder = tmp_path_factory.mktemp("local")
    study_file(folder, tiny_folder, settings=settings(folder, tiny_folder))
    words = command(folder, "--workers", str(len(os.sched_getaffinity(0))))
    done = subprocess.run(words, capture_output=True, text=True, timeout=LONG)
    assert done.returncode == 0, done.stdout
    return evaluations(folder / "results")


def evaluations(results: Path) -> dict[str, Any]:
    """The figures of each arm, after a look that every run is done, complete, and there once."""
    plan = load_plan(results / "mine.study.json")
    found = {}
    for item in plan.runs:
        result = load_result(results / item.run_id)
        assert (result.status, result.run_id) == ("done", item.run_id)
        assert read_status(results / item.run_id).state == "done"
        if not item.reference:
            steps = [row["step"] for row in read_lines(results / item.run_id / TRAIN_LOG)]
            assert steps == list(range(1, STEPS + 1))
        found[item.arm] = result.evaluations
    assert len([path for path in results.iterdir() if path.is_dir()]) == len(plan.runs), "nothing is left over"
    return found


class Runner:
    """A runner that is at work while the test looks on."""

    def __init__(self, words: list[str]) -> None:
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def wait_until(self, happens: Callable[[], Any]) -> Any:
        """What `happens` says, once that is something; the runner must not end before."""
        deadline = time.monotonic() + LONG
        while not (found := happens()):
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return found

    def end(self) -> tuple[int, str]:
        output, _ = self.process.communicate(timeout=LONG)
        return self.process.returncode, output


def trainers(results: Path) -> dict[int, str]:
    """Processes that train a run of this folder, by id, with the run's."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "ogp.cli" in words and "--out" in words and words[words.index("--out") + 1].startswith(str(results)):
            found[int(path.parent.name)] = Path(words[words.index("--out") + 1]).name
    return found


def node_of(process: int, cluster: Any) -> Any:
    """The node that a process was started on: its ancestor is the node's raylet."""
    raylets = {node.all_processes["raylet"][0].process.pid: node for node in cluster.worker_nodes}
    while process not in raylets:
        status = Path(f"/proc/{process}/status").read_text()
        process = int(status.split("PPid:")[1].split()[0])
    return raylets[process]


def test_fault_16_a_killed_node_costs_no_run(cluster: Any, folder: Path, local: dict[str, Any]) -> None:
    """Its run goes on elsewhere, from the newest whole checkpoint, and finds what it finds on one machine."""
    results = folder / "results"
    runner = Runner(on(cluster, folder))

    def with_a_checkpoint() -> list[tuple[int, str]]:
        living = trainers(results).items()
        return [(pid, run) for pid, run in living if list((results / run).glob("checkpoints/*/manifest.json"))]

    (process, lost), *_ = runner.wait_until(with_a_checkpoint)
    cluster.remove_node(node_of(process, cluster), allow_graceful=False)
    code, output = runner.end()
    assert code == 0, output
    assert output.count("queued (its node or worker was lost)") == 1
    assert "going on from checkpoint-" in (results / lost / LOG).read_text()
    assert evaluations(results) == local
    again = Runner(on(cluster, folder)).end()
    assert again[0] == 0
    assert "running" not in again[1], "nothing is run twice"


def test_without_a_shared_folder_results_are_brought_back(cluster: Any, folder: Path, local: dict[str, Any]) -> None:
    """The runner sees a file system over its results folder that the nodes do not see."""
    results, copy = folder / "results", folder / "copy"
    results.mkdir()
    hidden = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f'mount -t tmpfs none "{results}"'
    if subprocess.run([*hidden, mount], capture_output=True).returncode:
        pytest.skip("this system allows no mount, so no folder can be hidden from nodes")
    code, output = Runner([*hidden, f'{mount} && "$@" && cp -a "{results}" "{copy}"', "sh", *on(cluster, folder)]).end()
    assert code == 0, output
    assert not list(results.iterdir()), "the nodes have written nothing where the runner does not see it"
    assert evaluations(copy) == local


def test_an_interrupted_runner_leaves_no_trainer_and_goes_on_later(
    cluster: Any, folder: Path, local: dict[str, Any]
) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        runner = Runner(on(cluster, folder))
        runner.wait_until(lambda: trainers(folder / "results"))
        runner.process.send_signal(number)
        code, output = runner.end()
        assert code == 130, output
        assert f"{number.name}: stopped" in output
        assert "the same command goes on" in output
        assert "Traceback" not in output
        assert not trainers(folder / "results")
        states = {read_status(path.parent).state for path in (folder / "results").glob("*/status.json")}
        assert states <= {"queued", "done"}
    code, output = Runner(on(cluster, folder)).end()
    assert code == 0, output
    assert evaluations(folder / "results") == local


def test_what_a_cluster_cannot_give_is_told_and_not_waited_for(cluster: Any, folder: Path) -> None:
    """GPUs where there are none, more CPUs than any node has, a wrong token, nobody at the address."""
    wrong = {**os.environ, "RAY_AUTH_TOKEN": "another-token-that-nobody-knows-here"}
    cases: list[tuple[list[str], dict[str, str], str]] = [
        (on(cluster, folder, "--gpus-per-run", "1"), dict(os.environ), "1 GPUs"),
        (on(cluster, folder, "--cpus-per-run", "2"), dict(os.environ), "no node has that"),
        (on(cluster, folder), wrong, "token"),
        (on(cluster, folder, "--address", "127.0.0.1:9"), dict(os.environ), "ray start --head"),
        (on(cluster, folder, "--address", "ray://x"), dict(os.environ), "expected host:port"),
    ]
    for words, environment, says in cases:
        ended = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=LONG)
        assert ended.returncode == 2, ended.stdout + ended.stderr
        assert says in ended.stdout
        assert "Traceback" not in ended.stdout + ended.stderr
        assert wrong["RAY_AUTH_TOKEN"] not in ended.stdout + ended.stderr
    assert not list((folder / "results").glob("*/status.json")), "nothing was begun"
