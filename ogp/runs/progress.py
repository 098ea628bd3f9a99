"""A run's signs of life: `state.json`, rewritten at every phase and step, and its log, read by whoever watches it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

STATE = "state.json"
LOG = "run.log"


BEAT_SECONDS = 1.0


class Progress:
    """Writes where a run is. Cheap enough for every step: a rename, no fsync; losing one does not matter."""

    def __init__(self, folder: Path, steps: int) -> None:
        self._path = folder / STATE
        self._state: dict[str, Any] = {"pid": os.getpid(), "phase": "loading", "step": 0, "steps": steps, "beats": 0}
        self._written = 0.0
        self._write()

    def at(self, phase: str, step: int | None = None) -> None:
        """Record the phase, and the optimizer step where there is one."""
        self._state["phase"] = phase
        if step is not None:
            self._state["step"] = step
        self._write()

    def beat(self) -> None:
        """Say that the run is alive. May be called as often as there is something to say; most calls do nothing."""
        if time.monotonic() - self._written >= BEAT_SECONDS:
            self._write()

    def _write(self) -> None:
        self._state["beats"] += 1  # two signs of life differ, whatever the clock does
        draft = self._path.with_suffix(".tmp")
        draft.write_text(json.dumps({**self._state, "time": time.time()}))
        draft.replace(self._path)
        self._written = time.monotonic()


class Silent(Progress):
    """Of a process that is not the one to speak."""

    def beat(self) -> None:
        """Say nothing."""


def read_state(folder: Path) -> dict[str, Any]:
    """The last state written in a run's folder; empty when there is none or it is torn."""
    try:
        state = json.loads((folder / STATE).read_text())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def last_line(log: Path) -> str:
    """The last line with text in a log, shortened."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 20_000))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return "no log"
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "empty log")
