"""Ctrl-C and SIGTERM as one exception, so that every part of the runner ends what it has begun."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """Ctrl-C or SIGTERM reached the runner."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Within it SIGINT and SIGTERM raise `Interrupted` in the main thread."""
    before = {number: signal.signal(number, _raise) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(signal.Signals(number).name)
