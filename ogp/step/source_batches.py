"""Batches for gradients that are taken on data of their own, step by step."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from ogp.method_settings import GradientSettings
from ogp.rules import OPPOSED
from ogp.step.batches import Batch, Example, Positions
from ogp.step.causal_lm import choose_collator
from ogp.step.engines import Feeds
from ogp.step.preference import NegativePreference


class SourceBatches:
    """The micro-batches of one gradient at every optimizer step, decided by seed and step alone.

    So a resumed run sees what the uninterrupted one saw. Passes over the data follow each other, each in a random order
    of its own; a step may end one and begin the next.

    Args:
        which: the gradient's number.
        examples: its data, never empty; each one's `index` is its position.
        micro_batch: most examples in one forward pass.
        accelerator: knows the processes; each takes every `num_processes`-th example of a step.
    """

    def __init__(
        self,
        which: int,
        settings: GradientSettings,
        examples: Sequence[Example],
        model: Any,
        pad_id: int,
        *,
        micro_batch: int,
        seed: int,
        accelerator: Any,
    ) -> None:
        if settings.batch_size % accelerator.num_processes:
            raise ValueError(
                f"`method.gradients`: `batch_size` {settings.batch_size} of {settings.name} cannot be shared by "
                f"{accelerator.num_processes} processes: choose a multiple"
            )
        self.feeds = Feeds(None, which, which) if settings.loss == "kl" else Feeds(which, None, which)
        self.unlearned = None
        if settings.loss == "npo":  # each answer has a weight of its own: one at a time
            micro_batch, processes = 1, accelerator.num_processes
            self.unlearned = NegativePreference(settings.beta, settings.batch_size, processes)
        self.examples, self.positions = examples, Positions(examples, "answer")
        self._collate, _ = choose_collator(model, self.positions, pad_id)
        self._batch_size, self._micro_batch, self._seed = settings.batch_size, micro_batch, seed
        self._rank, self._processes = accelerator.process_index, accelerator.num_processes
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def at(self, step: int) -> list[Batch]:
        """The micro-batches of optimizer step `step`, counted from 0."""
        first, count = step * self._batch_size, len(self.examples)
        numbers = [self._order(n // count)[n % count] for n in range(first, first + self._batch_size)]
        mine = [self.examples[number] for number in numbers[self._rank :: self._processes]]
        return [self._collate(mine[i : i + self._micro_batch]) for i in range(0, len(mine), self._micro_batch)]

    def one_by_one(self) -> Iterator[Batch]:
        """Every example alone."""
        return (self._collate([example]) for example in self.examples)

    def _shuffled(self, turn: int) -> list[int]:
        order = list(range(len(self.examples)))
        random.Random(f"{self._seed}/{turn}").shuffle(order)
        return order


def own_data(used: Sequence[GradientSettings], examples: Sequence[Any]) -> Iterator[tuple[int, GradientSettings, Any]]:
    """Number, settings and examples of every gradient with data of its own; ValueError where they do not match."""
    listed = [(which, gradient) for which, gradient in enumerate(used, OPPOSED) if gradient.data is not None]
    if len(listed) != len(examples):
        raise ValueError(f"`sources`: {len(listed)} gradients have data of their own, found {len(examples)}")
    return ((which, gradient, own) for (which, gradient), own in zip(listed, examples, strict=True))
