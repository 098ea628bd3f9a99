"""What the parent shows while runs execute: one live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ablations.job import Job

ROWS = 40
STYLE = {"done": "green", "running": "cyan", "queued": "dim"}  # anything else is red


def clock(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def watch(console: Console, jobs: Sequence[Job], estimate: Callable[[], float]) -> Iterator[Callable[[], None]]:
    """Yield the function to call whenever something may have changed. `estimate` gives the seconds left."""
    if console.is_terminal:
        with Live(_grid(jobs, estimate()), console=console, refresh_per_second=2) as live:
            yield lambda: live.update(_grid(jobs, estimate()))
    else:
        shown = {job.run_id: ("queued", "", False) for job in jobs}
        started = time.monotonic()

        def lines() -> None:
            for job in jobs:
                now = (job.state, job.message, job.halved)
                if now != shown[job.run_id]:
                    shown[job.run_id] = now
                    ended = sum(each.state not in ("queued", "running") for each in jobs)
                    text = f"[{clock(time.monotonic() - started)}] {ended}/{len(jobs)} {_name(job)}: {job.state}"
                    if job.state == "queued" and job.halved and not job.message:
                        text += " (out of memory: once more, with half the examples per forward pass)"
                    elif job.message:
                        text += f" ({job.message})"
                    elif job.state == "done" and job.seconds:
                        text += f" in {clock(job.seconds)}, about {clock(estimate())} left"
                    console.print(text, markup=False, highlight=False, soft_wrap=True)

        lines()
        yield lines


def _name(job: Job) -> str:
    return f"{job.config.arm} seed {job.config.seed}"


def _grid(jobs: Sequence[Job], left: float) -> Table:
    ended = sum(job.state not in ("queued", "running") for job in jobs)
    table = Table(title=Text(f"{ended}/{len(jobs)} runs, about {clock(left)} left"), title_justify="left", box=None)
    for column in ("run", "seed", "state", "step", "phase", "time"):
        table.add_column(column)
    for job in _telling(jobs):
        steps = job.config.training.all_steps
        step = job.progress.get("step", 0) if job.state == "running" else (steps if job.state == "done" else 0)
        phase = str(job.progress.get("phase", "")) if job.state == "running" else job.message[:60]
        table.add_row(
            Text(job.config.arm),
            str(job.config.seed),
            Text(job.state, style=STYLE.get(job.state, "red")),
            f"{step}/{steps}" if steps else "-",
            Text(phase),
            clock(job.seconds) if job.seconds else "",
        )
    return table


def _telling(jobs: Sequence[Job]) -> list[Job]:
    """The rows for a table that fits on a screen: what is running first, then what is broken, where there are many."""
    if len(jobs) <= ROWS:
        return list(jobs)
    rank = {"running": 0, "queued": 2, "done": 3}
    return sorted(jobs, key=lambda job: rank.get(job.state, 1))[:ROWS]
