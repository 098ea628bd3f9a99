"""Where a run stands, on disk: `status.json`, written by whoever executes runs, read by whoever wants to know."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from ogp.results import RESULT, Record, RecordError, load_record, load_result, write_record

STATUS = "status.json"

State = Literal["queued", "running", "done", "diverged", "failed", "oom", "timeout"]
STATES: tuple[State, ...] = get_args(State)
FINISHED: tuple[State, ...] = ("done", "diverged")
"""There is a result; the run is never executed again."""
BROKEN: tuple[State, ...] = ("failed", "oom", "timeout")
"""There is none, and trying again as it is would end the same; `--retry-failed` tries all the same."""


class RunStatus(Record):
    """What is known about a run.

    queued: nothing came of it yet; `message` says what became of an earlier try, and where the next one goes on.
    running: being executed; the run's own sign of life is in `state.json`.
    done, diverged: `result.json` holds its figures, or says why there are none.
    failed: it raised, or ended without a result. oom: out of memory, also in smaller batches. timeout: it went silent.
    """

    state: State = "queued"
    message: str = ""
    seconds: float = 0.0
    halved: bool = False
    """Tried a second time with half the examples per forward pass, because the first ran out of memory."""
    result: tuple[int, int] | None = None
    """Size and time of change (ns) of the `result.json` this was written after: with these it need not be read."""


def read_status(folder: Path) -> RunStatus:
    """Where the run in `folder` stands; `result.json` decides wherever there is one."""
    status = _recorded(folder)
    stamp = _stamp(folder)
    if stamp is None:
        if status.state in FINISHED:
            return RunStatus(message=f"{folder / RESULT} is missing")
        return status
    if status.state in FINISHED and status.result == stamp:
        return status
    try:
        result = load_result(folder)
    except RecordError as error:
        return RunStatus(message=str(error))
    if result.run_id != folder.name:
        return RunStatus(message=f"{folder / RESULT} belongs to run {result.run_id}")
    return RunStatus(state=result.status, message=result.message, seconds=result.seconds, halved=result.halved)


def write_status(folder: Path, status: RunStatus) -> None:
    """Record where a run stands, atomically."""
    write_record(folder / STATUS, status.model_copy(update={"result": _stamp(folder)}))


def _recorded(folder: Path) -> RunStatus:
    try:
        return load_record(folder / STATUS, RunStatus)
    except RecordError:  # none yet, or torn: what the run itself has written counts
        return RunStatus()


def _stamp(folder: Path) -> tuple[int, int] | None:
    try:
        found = (folder / RESULT).stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
