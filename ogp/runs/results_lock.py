"""One runner per results folder: the second is told so. The kernel frees the lock when its holder dies."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ogp.config_files import ConfigError

LOCK = ".lock"
PROBE_SECONDS = 1.0


@contextmanager
def results_lock(results: Path) -> Iterator[None]:
    """Hold the lock of a results folder; `ConfigError` when another runner holds it."""
    deadline = time.monotonic() + PROBE_SECONDS
    with (results / LOCK).open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise ConfigError(
                        f"--results {results}: another run_all is working on it: wait for it, or give another folder"
                    ) from error
                time.sleep(0.05)  # somebody may only be looking whether it is held
        yield


def is_locked(results: Path) -> bool:
    """Whether a runner is at work on the folder."""
    try:
        with (results / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
