"""Several processes for one run on this machine, as torchrun would start them, with exit codes that keep their meaning.

`torchrun --nproc-per-node N -m ogp.cli train ...` and `accelerate launch ... -m ogp.cli train ...` do as well, over
several machines too; they end with 1 whatever the matter was, and print a traceback of their own. No torch.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial

POLL_SECONDS = 0.1
GRACE_SECONDS = 10.0
SHARDED = {  # what `accelerate launch` would set for FSDP version 2
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",  # every process needs the weights: they are its teacher's
}

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def launched() -> bool:
    """Whether this process is one of several that were started for one run."""
    return "RANK" in os.environ


def launch(command: Sequence[str], processes: int, *, sharded: bool) -> int:
    """Run `command` in `processes` processes that train together; returns the exit code of the first one that failed.

    One that fails ends the others. Where it was ended by a signal, this process ends by the same one, so that a lack
    of memory is seen for what it is. Threads (`OMP_NUM_THREADS`) are shared out.
    """
    threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    common = {
        **os.environ,
        **(SHARDED if sharded else {}),
        "OMP_NUM_THREADS": str(max(1, threads // processes)),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }
    started: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(processes):
            environment = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            dies_with_us = partial(_die_with, os.getpid()) if _LIBC is not None else None
            started.append(subprocess.Popen(command, env=environment, preexec_fn=dies_with_us))
        code = _first_failure(started)
    finally:
        _end(started)
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def _first_failure(started: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait for all to end well (0), or for one that does not."""
    while True:
        codes = [process.poll() for process in started]
        failed = [code for code in codes if code]
        if failed:
            return failed[0]
        if None not in codes:
            return 0
        time.sleep(POLL_SECONDS)


def _end(started: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in started:
        process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for process in started:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _die_with(parent: int) -> None:
    assert _LIBC is not None
    _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it died before that
        os._exit(1)
