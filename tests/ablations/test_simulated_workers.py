"""A thousand workers on one machine that fail at random finish a grid: no run is lost or made twice."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from ablations import local_executor
from ablations.attempt import Ended
from ablations.interruption import Interrupted
from ablations.job import Job, take_stock
from ablations.local_executor import Slot
from tests.ablations.simulation import Fate, assert_nothing_is_lost_or_doubled, grid, quick_files


class SimulatedAttempt:
    """Stands for a subprocess: goes on for a few polls, then ends as fate has it."""

    fate: Fate
    alive = 0
    most_alive = 0

    def __init__(self, job: Job, *_: Any, **__: Any) -> None:
        self.job, self.left, self.progress, self.seconds = job, self.fate.draw.randrange(1, 6), {}, 1.0
        type(self).alive += 1
        type(self).most_alive = max(self.alive, self.most_alive)

    def poll(self) -> Ended | None:
        self.left -= 1
        if self.left:
            return None
        type(self).alive -= 1
        return self.fate.end(self.job)


@pytest.mark.slow
def test_a_thousand_local_workers_with_random_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fate = SimulatedAttempt.fate = Fate(seed=1)
    monkeypatch.setattr(local_executor, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(Job, "command", lambda job: job)
    monkeypatch.setattr(local_executor, "Attempt", SimulatedAttempt)
    monkeypatch.setattr(local_executor, "stop", lambda attempts: [Ended(-signal.SIGTERM, 1.0) for _ in attempts])
    quick_files(monkeypatch)

    def interrupted() -> None:
        if fate.draw.random() < 0.05:
            raise Interrupted("SIGTERM")

    rounds = 0
    while True:
        jobs = grid(tmp_path, 2000)
        for job in jobs:
            take_stock(job, retry_failed=True)
        if all(job.state == "done" for job in jobs):
            break
        rounds += 1
        SimulatedAttempt.alive = 0
        try:
            local_executor.run_jobs(jobs, [Slot(1)] * 1000, patience=60.0, changed=interrupted)
        except Interrupted:
            continue
    assert rounds > 1
    assert SimulatedAttempt.most_alive == 1000
    assert_nothing_is_lost_or_doubled(jobs, fate)
