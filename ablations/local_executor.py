"""Runs on this machine: one subprocess each, a number of them side by side."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ablations.attempt import POLL_SECONDS, Attempt, stop
from ablations.job import Job, begin, settle, wants_another_try
from ogp.config_files import ConfigError

RUN_MEMORY = 8 << 30  # bytes a run may need; bounds how many run side by side


@dataclass(frozen=True)
class Slot:
    """What one of the runs that go side by side may use: CPU threads, and GPUs as CUDA_VISIBLE_DEVICES names them."""

    threads: int
    devices: str | None = None


def slots(workers: int, processes: int = 1) -> list[Slot]:
    """The cores, and the GPUs where there are any, shared out to `workers` runs of `processes` processes each.

    Errors: `ConfigError` where a run is to have more processes than there are GPUs.
    """
    threads = max(1, len(os.sched_getaffinity(0)) // workers)
    gpus = visible_gpus()
    if not gpus:
        return [Slot(threads) for _ in range(workers)]
    if len(gpus) < processes:
        raise ConfigError(f"--processes-per-run {processes}: there are {len(gpus)} GPUs, and each process needs one")
    sets = [gpus[first : first + processes] for first in range(0, len(gpus) - processes + 1, processes)]
    return [Slot(threads, ",".join(sets[place % len(sets)])) for place in range(workers)]


def default_workers(processes: int = 1) -> int:
    """Runs side by side: as many as GPUs allow, or as cores and memory do (one thread per process scales best)."""
    if visible_gpus():
        return max(1, len(visible_gpus()) // processes)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(len(os.sched_getaffinity(0)), memory // RUN_MEMORY) // processes)


def visible_gpus() -> list[str]:
    """GPUs that runs may use, as CUDA_VISIBLE_DEVICES names them; all of the machine's where that is not set."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    return [str(number) for number, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]


def run_jobs(
    jobs: Sequence[Job], slots: Sequence[Slot], *, patience: float, changed: Callable[[], None] = lambda: None
) -> None:
    """Run all queued jobs, one per slot at a time; calls `changed` at every poll.

    A job that fails does not stop the others. When anything is raised in here, such as `Interrupted`, the children are
    ended and what became of them is recorded.
    """
    waiting = [job for job in jobs if job.state == "queued"]
    running: list[tuple[Job, Slot, Attempt]] = []
    free = list(slots)
    try:
        while waiting or running:
            while free and waiting:
                job, slot = waiting.pop(0), free.pop()
                begin(job)
                attempt = Attempt(
                    job.command(),
                    job.folder,
                    job.log,
                    threads=slot.threads,
                    devices=slot.devices,
                    patience=patience,
                )
                running.append((job, slot, attempt))
            time.sleep(POLL_SECONDS)
            for entry in list(running):
                job, slot, attempt = entry
                ended = attempt.poll()
                job.progress, job.seconds = attempt.progress, attempt.seconds
                if ended is not None:
                    running.remove(entry)
                    free.append(slot)
                    settle(job, ended)
                    if wants_another_try(job):
                        waiting.insert(0, job)
            changed()
    finally:
        for (job, _, _), ended in zip(running, stop([attempt for *_, attempt in running]), strict=True):
            settle(job, ended)
