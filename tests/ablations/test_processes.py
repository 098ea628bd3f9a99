"""One run in two processes (gloo), by the study command and torchrun: the result of one process, written once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from ogp.results import COMPLETIONS, ITEMS, TRAIN_LOG, RunResult, load_plan, load_result, read_lines
from ogp.training.distributed import check_ranks_agree
from ogp.training.launch import launch, launched
from tests.reliability.studies import STUDY, run, study_file

ROOT = Path(__file__).parent.parent.parent
SETTINGS = {
    **STUDY["settings"],
    "training": {"steps": 3, "batch_size": 4, "micro_batch": 4, "learning_rate": 1e-3},
    "evaluation": {**STUDY["settings"]["evaluation"], "tasks": ["ogp_grammar"], "task_limit": 4},
}


def mine(folder: Path, tiny_folder: Path) -> None:
    """A study of one arm."""
    settings = SETTINGS | {"model": {"source": str(tiny_folder)}}
    only = {"arms": {"ogp": STUDY["arms"]["ogp"]}, "smoke": {"arms": ["ogp"], "settings": {}}}
    study_file(folder, tiny_folder, settings=settings, **only)


@pytest.fixture(scope="module")
def alone(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study, every run in one process."""
    folder = tmp_path_factory.mktemp("alone")
    mine(folder, tiny_folder)
    done = run(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def results(folder: Path) -> dict[str, tuple[Path, RunResult]]:
    """Run folder and result of each arm."""
    plan = load_plan(folder / "results" / "mine.study.json")
    folders = {each.arm: folder / "results" / each.run_id for each in plan.runs}
    return {arm: (path, load_result(path)) for arm, path in folders.items()}


def assert_same_study(found: Path, expected: Path) -> None:
    """Equal ids, losses and figures up to rounding; every file written once."""
    theirs = results(expected)
    for arm, (path, result) in results(found).items():
        other_path, other = theirs[arm]
        assert (result.status, result.run_id) == ("done", other.run_id)
        names = ("step", "train_loss_step", "opposed_loss_step", "cosine", "norm_target", "tokens", "learning_rate")
        log, other_log = ([*read_lines(each / TRAIN_LOG)] if (each / TRAIN_LOG).exists() else []
                          for each in (path, other_path))  # fmt: skip
        assert len(log) == len(other_log) == (3 if arm != "base" else 0), "one process writes the steps"
        for row, other_row in zip(log, other_log, strict=True):
            shared = [name for name in names if name in other_row]
            # the opposed gradient of step 1 is rounding noise, and no two ways of rounding agree on it
            if row["step"] == 1:
                shared = [name for name in shared if name not in ("cosine", "opposed_loss_step")]
            assert {n: row[n] for n in shared} == pytest.approx({n: other_row[n] for n in shared}, rel=1e-3, abs=1e-5)
        for name in (COMPLETIONS, ITEMS):
            assert len([*read_lines(path / name)]) == len([*read_lines(other_path / name)]) > 0
        metrics, other_metrics = result.final().metrics, other.final().metrics
        assert metrics.keys() == other_metrics.keys()
        for name in ("kl_from_base", "own_nll", "validation_loss"):
            assert metrics[name].value == pytest.approx(other_metrics[name].value, rel=1e-3, abs=1e-6), name


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [(), ("--sharded",)], ids=["ddp", "fsdp2"])
def test_fault_24_two_processes_per_run_give_the_study_of_one(
    tiny_folder: Path, tmp_path: Path, alone: Path, sharded: tuple[str, ...]
) -> None:
    mine(tmp_path, tiny_folder)
    done = run(tmp_path, "--processes-per-run", "2", *sharded)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_study(tmp_path, alone)
    trained = results(tmp_path)["ogp"][1]
    assert trained.environment["processes"] == "2"
    again = run(tmp_path, "--dry-run")  # in how many processes a run was trained does not make it another run
    assert "2 runs, 2 finished" in again.stdout


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_torchrun_works_too(tiny_folder: Path, tmp_path: Path, alone: Path, processes: int) -> None:
    path, expected = results(alone)["ogp"]
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", "ogp.cli"]
    command = [sys.executable, "-m", *torchrun, "train", str(path / "config.yaml"), "--out", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    result = load_result(tmp_path)
    assert result.run_id == expected.run_id
    assert result.environment.get("processes", "1") == str(processes)
    for name in ("kl_from_base", "own_nll", "validation_loss"):
        assert result.final().metrics[name].value == pytest.approx(expected.final().metrics[name].value, rel=1e-3)


def worker(*code: str) -> list[str]:
    return [sys.executable, "-c", "import os, sys, time; rank = os.environ['RANK']\n" + "\n".join(code)]


def test_every_process_is_told_its_place_and_its_share_of_the_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "OMP_NUM_THREADS", "FSDP_VERSION")
    told = f"open({str(tmp_path)!r} + '/' + rank, 'w').write(' '.join(str(os.environ.get(n)) for n in {names}))"
    assert launch(worker(told), 3, sharded=True) == 0
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == [f"{r} {r} 3 2 2" for r in range(3)]
    assert not launched()


def test_one_that_fails_ends_the_others_and_its_exit_code_counts() -> None:
    code = worker("if rank == '1': sys.exit(2)", "time.sleep(600)")
    began = time.monotonic()
    assert launch(code, 2, sharded=False) == 2
    assert time.monotonic() - began < 300


def test_a_signal_that_ended_one_ends_the_launcher_the_same_way() -> None:
    """Killed for want of memory has to be seen as that by whoever watches the launcher."""
    child = "if rank == '1': os.kill(os.getpid(), 9)\ntime.sleep(600)"
    code = (
        "import sys; from ogp.training.launch import launch\n"
        f"sys.exit(launch([sys.executable, '-c', {('import os, time; rank = os.environ[chr(82)+chr(65)+chr(78)+chr(75)]' + chr(10) + child)!r}], 2, sharded=False))"  # noqa: E501
    )
    ended = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert ended.returncode == -signal.SIGKILL


def test_processes_that_hold_different_weights_are_found(tmp_path: Path) -> None:
    def agree(rank: int, other: float) -> Any:
        model = torch.nn.Linear(2, 2)
        torch.nn.init.constant_(model.weight, other if rank else 1.0)
        torch.nn.init.constant_(model.bias, 0.0)
        store = f"file://{tmp_path}/store-{other}"
        distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
        try:
            check_ranks_agree(model)
        finally:
            distributed.destroy_process_group()

    for other, code in ((1.0, 0), (1.0 + 1e-6, 1)):
        pid = os.fork()
        if pid == 0:
            try:
                agree(1, other)
            except RuntimeError:
                os._exit(1)
            os._exit(0)
        if code:
            with pytest.raises(RuntimeError, match=r"processes \[1\] hold other weights"):
                agree(0, other)
        else:
            agree(0, other)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code


def test_fewer_than_one_process_is_refused(tmp_path: Path, tiny_folder: Path) -> None:
    study_file(tmp_path, tiny_folder)
    ended = run(tmp_path, "--processes-per-run", "0")
    assert ended.returncode == 2
    assert "--processes-per-run 0: give at least 1" in ended.stdout
