"""One try of a run: a subprocess in a group of its own, watched by exit code and sign of life, wherever it is started.

The parent never imports torch.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ogp.runs.progress import read_state

POLL_SECONDS = 0.5
GRACE_SECONDS = 10.0
KERNEL_COUNTERS = Path("/proc/vmstat")

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: little may be done after a fork


@dataclass(frozen=True)
class Ended:
    """How a try ended.

    Args:
        code: exit code; negative, the signal that ended it.
        seconds: how long it took.
        silent: seconds without a sign of life after which it was ended by us; 0 where it ended by itself.
        killed_by_kernel: SIGKILL that came neither from us nor, as far as can be known, from anyone but the kernel.
    """

    code: int
    seconds: float
    silent: float = 0.0
    killed_by_kernel: bool = False


class Attempt:
    """A started subprocess. Every one that is made has to end by `poll` or `stop`.

    Args:
        command: program and arguments.
        folder: the run's folder: `log` is appended to, `state.json` in it is the sign of life.
        threads: CPU threads it may use.
        devices: value of CUDA_VISIBLE_DEVICES; None leaves it as it is.
        patience: seconds without a new sign of life after which it counts as hung.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        log: Path,
        *,
        threads: int,
        devices: str | None = None,
        patience: float = float("inf"),
    ) -> None:
        self._folder, self._patience = folder, patience
        self._kills_before = kernel_kills()
        self._began = self._seen = time.monotonic()
        self.progress = read_state(folder)
        """The latest sign of life."""
        self.process = start(command, log, threads=threads, devices=devices)

    @property
    def seconds(self) -> float:
        """How long it has been going on."""
        return time.monotonic() - self._began

    def poll(self) -> Ended | None:
        """How it ended, None while it goes on. Time is ours, not the run's: its clock may be wrong or set back."""
        code = self.process.poll()
        if code is not None:
            return self._ended(code)
        progress, now = read_state(self._folder), time.monotonic()
        if progress and progress != self.progress:
            self.progress, self._seen = progress, now
        if now - self._seen < self._patience:
            return None
        (ended,) = stop([self], grace=0.0)  # what hangs may not heed a request
        return replace(ended, silent=now - self._seen)

    def _ended(self, code: int, *, by_us: bool = False) -> Ended:
        _signal(self.process, signal.SIGKILL)  # whatever is left of its group
        kills = kernel_kills()
        by_kernel = code == -signal.SIGKILL and not by_us and (kills is None or kills != self._kills_before)
        return Ended(code, self.seconds, killed_by_kernel=by_kernel)


def stop(attempts: Sequence[Attempt], *, grace: float = GRACE_SECONDS) -> list[Ended]:
    """End attempts with all they started: ask, wait `grace` seconds in all, then kill."""
    for attempt in attempts:
        if grace:
            _signal(attempt.process, signal.SIGTERM)
    deadline = time.monotonic() + grace
    ended = []
    for attempt in attempts:
        with contextlib.suppress(subprocess.TimeoutExpired):
            attempt.process.wait(max(0.0, deadline - time.monotonic()))
        _signal(attempt.process, signal.SIGKILL)
        ended.append(attempt._ended(attempt.process.wait(), by_us=True))
    return ended


def start(command: Sequence[str], log: Path, *, threads: int, devices: str | None = None) -> subprocess.Popen[bytes]:
    """Start a child in its own process group, output to `log`; the kernel kills it when the parent dies."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if devices is not None:
        environment["CUDA_VISIBLE_DEVICES"] = devices
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            preexec_fn=partial(_die_with, os.getpid()) if _LIBC is not None else None,
        )


def kernel_kills() -> int | None:
    """Processes the kernel has killed for want of memory since it started; None where it does not tell."""
    try:
        lines = KERNEL_COUNTERS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


def _die_with(parent: int) -> None:
    assert _LIBC is not None
    _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it died before that
        os._exit(1)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
