"""What a run is, how it is begun and how its end is judged; where it runs is the executor's business."""

from __future__ import annotations

import shutil
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablations.attempt import Ended
from ogp.config import RunConfig
from ogp.config_files import to_yaml
from ogp.results import CONFIG, RESULT, write_atomic
from ogp.runs.exit_codes import DISK_FULL, OUT_OF_MEMORY
from ogp.runs.progress import LOG, STATE, last_line
from ogp.runs.run_state import BROKEN, FINISHED, RunStatus, State, read_status, write_status
from ogp.training.checkpoints import CHECKPOINTS


@dataclass
class Job:
    """One run as the runner sees it; plain data, so that it can travel to another machine."""

    run_id: str
    config: RunConfig
    folder: Path
    state: State = "queued"
    message: str = ""
    seconds: float = 0.0
    """Of the latest try in this command."""
    processes: int = 1
    """Processes that train the run together, one per GPU."""
    sharded: bool = False
    """They share its weights (FSDP2) instead of holding copies (DDP)."""
    halved: bool = False
    """The next, or last, try takes half the examples per forward pass."""
    progress: dict[str, Any] = field(default_factory=dict)
    """The run's latest sign of life, while it is running."""

    @property
    def log(self) -> Path:
        """What the run printed, over all its tries."""
        return self.folder / LOG

    def command(self) -> list[str]:
        """The subprocess that executes the run; it needs `folder` with its settings, and nothing else of the runner."""
        command = [sys.executable, "-m", "ogp.cli", "train", str(self.folder / CONFIG), "--out", str(self.folder)]
        if self.processes > 1:
            command += ["--processes", str(self.processes)] + ["--sharded"] * self.sharded
        return [*command, "--halved"] if self.halved else command


def take_stock(job: Job, *, retry_failed: bool = False) -> None:
    """Set the job to where its folder says it stands. What a runner that is gone left `running` is queued again."""
    status = read_status(job.folder)
    job.state, job.message, job.halved = status.state, status.message, status.halved
    if job.state == "running":
        job.state, job.message = "queued", _goes_on(job)
    elif job.state in BROKEN and retry_failed:
        job.state, job.message, job.halved = "queued", "", False


def begin(job: Job) -> None:
    """Make the folder ready and record that the run is running; the job's command may be started then."""
    job.folder.mkdir(parents=True, exist_ok=True)
    resumes = (job.folder / CHECKPOINTS).exists()
    for left in job.folder.iterdir():  # a torn result, the sign of life of an earlier try, what a new start writes anew
        if left.name in (RESULT, STATE) or not (resumes or left.name == LOG):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    write_atomic(job.folder / CONFIG, to_yaml(job.config))
    job.progress = {}
    _move(job, "running")


def settle(job: Job, ended: Ended) -> None:
    """Judge how the job's subprocess ended and record it. A job that is `queued` again has to be begun once more.

    A trusted result decides, whatever the exit code: it is written last. Out of memory gives one more try with half
    the examples per forward pass. A run ended from outside, or by a full disk, stays queued for the next command.
    """
    job.seconds = ended.seconds
    status = read_status(job.folder)
    if status.state in FINISHED:
        _move(job, status.state, status.message)
    elif ended.silent:
        _move(job, "timeout", f"no sign of life for {ended.silent:.0f} s, last in phase {job.progress.get('phase')!r}")
    elif ended.code == OUT_OF_MEMORY or ended.killed_by_kernel:
        _settle_out_of_memory(job)
    elif ended.code == DISK_FULL:
        _move(job, "queued", last_line(job.log))
    elif ended.code < 0:
        _move(job, "queued", f"ended by {signal.Signals(-ended.code).name}; {_goes_on(job)}")
    elif ended.code == 0:
        _move(job, "failed", status.message or "the run returned without a result")
    else:
        _move(job, "failed", f"exit code {ended.code}: {last_line(job.log)}")


def give_up(job: Job, message: str) -> None:
    """Record that the job cannot be executed, for a reason its subprocess knows nothing of."""
    _move(job, "failed", message)


def put_back(job: Job, message: str) -> None:
    """Record that the job is queued again, for a reason its subprocess knows nothing of."""
    _move(job, "queued", message)


def wants_another_try(job: Job) -> bool:
    """Whether this command goes on with the job at once: after its first lack of memory."""
    return job.state == "queued" and job.halved and not job.message


def _settle_out_of_memory(job: Job) -> None:
    smallest = job.config.training.micro_batch == job.config.evaluation.batch_size == 1
    if job.halved or smallest:
        _move(job, "oom", "out of memory" + ("" if smallest else " with half the examples per forward pass too"))
        return
    job.halved = True
    shutil.rmtree(job.folder / CHECKPOINTS, ignore_errors=True)  # steps of two roundings are not mixed
    _move(job, "queued")


def _move(job: Job, state: State, message: str = "") -> None:
    job.state, job.message = state, message
    write_status(job.folder, RunStatus(state=state, message=message, seconds=job.seconds, halved=job.halved))


def _goes_on(job: Job) -> str:
    whole = any((job.folder / CHECKPOINTS).rglob("manifest.json"))
    return "goes on from its newest checkpoint" if whole else "starts again"
