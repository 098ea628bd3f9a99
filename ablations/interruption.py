"""Ctrl-C and SIGTERM as one exception, so that every part of the runner ends what it has begun."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """Ctrl-C or SIGTERM reached the runner."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Within it SIGINT and SIGTERM raise `Interrupted` in the main thread."""

    def interrupt(number: int, _frame: FrameType | None) -> None:
        raise Interrupted(signal.Signals(number).name)

    with _handled_by(interrupt):
        yield


@contextmanager
def deferred() -> Iterator[Callable[[], None]]:
    """Within it SIGINT and SIGTERM raise `Interrupted` when the yielded function is called, or else at the end.

    For work that must not be torn apart: between the start of a run and the note of it nobody would know what to end,
    and an exception that a handler raises inside compiled code comes out as another one (`SystemError` in Ray).
    """
    received: list[int] = []

    def heed() -> None:
        if received:
            raise Interrupted(signal.Signals(received[0]).name)

    with _handled_by(lambda number, _frame: received.append(number)):
        yield heed
    heed()


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
