"""A step of each competitor per round, so that every ratio is one of neighbours in time: raw samples, FLOPs, losses.

Competitors run in two processes that take turns. In one memory is kept between steps, as `ogp train` keeps it; in the
other the C library does with it what it does for whoever trains with stock transformers. One process cannot do both:
the setting is its own for good.
"""

from __future__ import annotations

import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.steps import SetUp, Step, keeps_memory
from benchmarks.workloads import Workload, leave_teacher
from ogp.training.host_memory import keep_memory

CORE = ("sft_memory_kept", "dual")
"""The step alone: in one process and with the same memory."""
EVERY_ROUND = ("sft", *CORE, "ghost")
PEER_EVERY = 6
"""The others, up to three times as slow, run in every sixth round."""
MakeWorkload = Callable[[], Workload]
"""Picklable, since the other process makes its own."""


def product_flops(added_to: Sequence[int], a: Sequence[int], b: Sequence[int], **kwargs: Any) -> int:
    """FLOPs of a @ b from the shapes; the sum that it is added to is left out, as torch's counter does."""
    return 2 * math.prod(a) * b[-1]


def no_flops(*shapes: Sequence[int], **kwargs: Any) -> int:
    """Of attention: torch's counter knows no kernel of a CPU for it, so nobody's is counted, ours neither."""
    return 0


COUNTED = {
    torch.ops.aten.addmm_: product_flops,
    torch.ops.aten.baddbmm_: product_flops,
    torch.ops.aten.bmm: no_flops,
}
"""What torch's counter is told: it knows sums in place, as our head makes them, only out of place."""


@dataclass(frozen=True)
class Sample:
    """One timed step."""

    seconds: float
    optimizer_seconds: float


class Lane:
    """Some competitors on one model in this process.

    Args:
        workload: its student is at the teacher's weights and is moved off them here.
        set_ups: by name.
    """

    def __init__(self, workload: Workload, set_ups: dict[str, SetUp], cache: Path) -> None:
        self.workload = workload
        self.steps: dict[str, Step] = {name: set_up(workload, cache) for name, set_up in set_ups.items()}
        leave_teacher(workload.model)
        self._began = self._in_optimizer = 0.0
        workload.optimizer.register_step_pre_hook(self._optimizer_begins)
        workload.optimizer.register_step_post_hook(self._optimizer_ends)

    def warm_up(self, name: str) -> tuple[int, float]:
        """One untimed step per batch: its FLOPs and its mean loss."""
        with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
            loss = statistics.fmean(self.steps[name]() for _ in self.workload.batches)
        return counter.get_total_flops(), loss

    def sample(self, name: str) -> Sample:
        """One timed step."""
        began = time.perf_counter()
        self.steps[name]()
        return Sample(time.perf_counter() - began, self._in_optimizer)

    def _optimizer_begins(self, *args: Any) -> None:
        self._began = time.perf_counter()

    def _optimizer_ends(self, *args: Any) -> None:
        self._in_optimizer = time.perf_counter() - self._began


class Race:
    """All competitors of a workload, to be used as a context: the other process ends with it.

    Args:
        make_workload: of a student at the teacher's weights.
        set_ups: by name; those that keep memory run here, where it is kept from now on.
    """

    def __init__(self, make_workload: MakeWorkload, set_ups: dict[str, SetUp], cache: Path) -> None:
        keep_memory()
        self.names = sorted(set_ups, key=lambda name: name not in EVERY_ROUND)  # whom it is about, next to each other
        self.seconds: dict[str, list[float | None]] = {name: [] for name in set_ups}
        self.optimizer_seconds: dict[str, list[float | None]] = {name: [] for name in set_ups}
        self.losses: dict[str, float] = {}
        self.flops: dict[str, int] = {}
        self.lane = Lane(make_workload(), {n: s for n, s in set_ups.items() if keeps_memory(n)}, cache)
        stock = {n: s for n, s in set_ups.items() if not keeps_memory(n)}
        self.other: ProcessPoolExecutor | None = None
        if stock:
            context = multiprocessing.get_context("spawn")  # a fork would have this process's memory setting
            self.other = ProcessPoolExecutor(1, context, _open_lane, (make_workload, stock, cache))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.other is not None:
            self.other.shutdown()

    def warm_up(self) -> None:
        """One untimed step per batch and competitor, on which FLOPs are counted and the mean loss is kept."""
        for name in self.names:
            self.flops[name], self.losses[name] = self._run(Lane.warm_up, name)

    def round(self) -> None:
        """One timed step of each competitor whose turn it is; who begins changes from round to round."""
        number = len(self.seconds[self.names[0]])
        first = number % len(self.names)
        for name in self.names[first:] + self.names[:first]:
            out = name not in EVERY_ROUND and number % PEER_EVERY != 0
            sample: Sample | None = None if out else self._run(Lane.sample, name)
            self.seconds[name].append(None if sample is None else sample.seconds)
            self.optimizer_seconds[name].append(None if sample is None else sample.optimizer_seconds)

    def record(self) -> dict[str, Any]:
        """Raw samples by competitor, as they stand in the committed JSON; None where one sat a round out."""
        return {
            name: {
                "seconds": self.seconds[name],
                "optimizer_seconds": self.optimizer_seconds[name],
                "flops": self.flops[name],
                "loss": self.losses[name],
            }
            for name in self.names
        }

    def in_other(self, what: Callable[[Lane, str], Any], name: str) -> Any:
        """What `what` returns of the other process's lane."""
        assert self.other is not None
        return self.other.submit(_in_lane, what, name).result()

    def _run(self, what: Callable[[Lane, str], Any], name: str) -> Any:
        return what(self.lane, name) if name in self.lane.steps else self.in_other(what, name)


_lane: list[Lane] = []
"""The other process's."""


def _open_lane(make_workload: MakeWorkload, set_ups: dict[str, SetUp], cache: Path) -> None:
    _lane.append(Lane(make_workload(), set_ups, cache))


def _in_lane(what: Callable[[Lane, str], Any], name: str) -> Any:
    return what(_lane[0], name)
