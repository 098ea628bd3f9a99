"""A real Ray cluster of two nodes on this machine, and one of them is killed."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ogp.results import TRAIN_LOG, load_plan, load_result, read_lines
from ogp.run_state import read_status
from tests.reliability.studies import STUDY, command, study_file

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="the extra `cluster` is not installed"),
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
    pytest.mark.timeout(600),
]
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "one-token-for-all-nodes-of-the-test"}
CORES = len(os.sched_getaffinity(0))
SMALL = ("--memory-per-run", "0.25")
SETTINGS = {**STUDY["settings"], "training": {**STUDY["settings"]["training"], "steps": 6, "checkpoint_every": 2}}


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[Any]:
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
def two_nodes(ray_cluster: Any) -> Iterator[tuple[Any, list[Any]]]:
    """The cluster with two nodes of one CPU each."""
    nodes = [ray_cluster.add_node(num_cpus=1, memory=1 << 30) for _ in range(2)]
    yield ray_cluster, nodes
    for node in nodes:
        if node in ray_cluster.list_all_nodes():
            ray_cluster.remove_node(node)


def on(cluster: Any, folder: Path, *more: str) -> list[str]:
    return command(folder, "--executor", "ray", "--address", cluster.address, *SMALL, *more)


def mine(folder: Path, tiny_folder: Path) -> Path:
    return study_file(folder, tiny_folder, settings=SETTINGS | {"model": {"source": str(tiny_folder)}})


def assert_study_is_whole(results: Path) -> dict[str, Any]:
    """Every run done, none doubled; the evaluations of each arm."""
    plan = load_plan(results / "mine.study.json")
    found = {}
    for item in plan.runs:
        result = load_result(results / item.run_id)
        assert (result.status, result.run_id) == ("done", item.run_id)
        assert read_status(results / item.run_id).state == "done"
        if not item.reference:
            assert [row["step"] for row in read_lines(results / item.run_id / TRAIN_LOG)] == [1, 2, 3, 4, 5, 6]
        found[item.arm] = result.evaluations
    assert len([path for path in results.iterdir() if path.is_dir()]) == len(plan.runs), "nothing is left over"
    return found


@pytest.fixture(scope="module")
def local(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The study's figures from this machine alone."""
    folder = tmp_path_factory.mktemp("local")
    mine(folder, tiny_folder)
    done = subprocess.run(command(folder, "--workers", str(CORES)), capture_output=True, text=True)  # a thread each
    assert done.returncode == 0, done.stdout
    return assert_study_is_whole(folder / "results")


def running(results: Path) -> list[Path]:
    """Folders of the runs that have given a sign of life and no result."""
    return [path.parent for path in results.glob("*/state.json") if not (path.parent / "result.json").exists()]


def test_fault_16_a_killed_node_costs_no_run(
    two_nodes: Any, tiny_folder: Path, tmp_path: Path, local: dict[str, Any]
) -> None:
    cluster, nodes = two_nodes
    mine(tmp_path, tiny_folder)
    runner = subprocess.Popen(on(cluster, tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 200
    while len(running(tmp_path / "results")) < 2 and time.monotonic() < deadline and runner.poll() is None:
        time.sleep(0.1)
    before = {path.name: path.stat().st_ino for path in running(tmp_path / "results")}
    assert len(before) == 2, "both nodes are at work"
    cluster.remove_node(nodes[0], allow_graceful=False)
    output, _ = runner.communicate(timeout=300)
    assert runner.returncode == 0, output
    assert assert_study_is_whole(tmp_path / "results") == local
    again = subprocess.run(on(cluster, tmp_path), capture_output=True, text=True)
    assert again.returncode == 0
    assert "running" not in again.stdout, "nothing is run twice"
