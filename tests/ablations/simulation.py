"""Runs that are simulated, since no test machine has room for a thousand; policy and every file are the real ones."""

from __future__ import annotations

import random
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from ablations.attempt import Ended
from ablations.job import Job
from ogp.config import ModelSettings, RunConfig
from ogp.results import RESULT, TrainingSummary, write_record
from ogp.results import RunResult as Result
from ogp.runs.exit_codes import OUT_OF_MEMORY
from ogp.runs.run_state import read_status

PLAIN = RunConfig(model=ModelSettings(source="embedded:original"))


def result_of(job: Job) -> Result:
    """What a run leaves behind."""
    return Result(
        run_id=job.run_id,
        study="mine",
        arm=job.config.arm,
        seed=job.config.seed,
        status="done",
        config={},
        judge="none",
        decoding="none",
        evaluations=(),
        training=TrainingSummary(
            steps=0, examples=0, seconds=0, seconds_per_step=None, conflicting=None, aligned=None, skipped=None,
            projected=None,
        ),
        peak_memory_bytes=1,
        seconds=1.0,
        environment={},
    )  # fmt: skip


class Fate:
    """What becomes of each try: most end well, some fail in every way a machine can fail. Counts what was made."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.made: Counter[str] = Counter()
        self.tries: Counter[str] = Counter()

    def end(self, job: Job) -> Ended:
        self.tries[job.run_id] += 1
        chance = self.draw.random()
        if chance < 0.02:
            return Ended(-signal.SIGKILL, 1.0, killed_by_kernel=True)
        if chance < 0.04:
            return Ended(OUT_OF_MEMORY, 1.0)
        if chance < 0.06:
            return Ended(-signal.SIGTERM, 1.0)
        if chance < 0.08:
            return Ended(1, 1.0)
        if chance < 0.10:
            return Ended(-signal.SIGKILL, 1.0, silent=99.0)
        write_record(job.folder / RESULT, result_of(job))
        self.made[job.run_id] += 1
        # killed between writing the result and ending: the result counts
        return Ended(-signal.SIGKILL if chance < 0.12 else 0, 1.0)


def grid(folder: Path, count: int) -> list[Job]:
    ids = [f"{number:016x}" for number in range(count)]
    return [Job(each, PLAIN.model_copy(update={"seed": seed}), folder / each) for seed, each in enumerate(ids)]


def assert_nothing_is_lost_or_doubled(jobs: Sequence[Job], fate: Fate) -> None:
    assert {job.run_id for job in jobs} == set(fate.made), "every run has a result"
    assert set(fate.made.values()) == {1}, "and none was made twice"
    assert all(read_status(job.folder).state == "done" for job in jobs)
    assert max(fate.tries.values()) > 1, "some had to be tried again"


def quick_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is forced to the disk, and no settings are written; the order of all other writes stays."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setattr("ablations.job.to_yaml", lambda _: "{}")
