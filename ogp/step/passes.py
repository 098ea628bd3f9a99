"""The forward and backward passes of one optimizer step: over the training set's batches, and over other data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ogp.rules import TARGET
from ogp.step.batches import IGNORE, Batch
from ogp.step.causal_lm import eval_mode
from ogp.step.engines import Backward, DualEngine, Feeds, TokenCounts
from ogp.step.gradients import GradientSet
from ogp.step.reference import ReferenceEngine
from ogp.step.source_batches import SourceBatches
from ogp.training.distributed import begin_average, reshard

SUM = TokenCounts(1, 1)
"""Losses that are summed over tokens."""


class Passes:
    """Fills the gradients of each optimizer step, exactly those of the mean losses over all processes' batches.

    Args:
        gradients: what the engine fills.
        feeds: which gradients the training set's batches go to when all are taken.
        sources: the batches of gradients with data of their own.
        prepare: moves a batch to the device.
    """

    def __init__(
        self,
        engine: DualEngine | ReferenceEngine,
        gradients: GradientSet,
        feeds: Feeds,
        sources: Sequence[SourceBatches],
        accelerator: Any,
        prepare: Callable[[Batch], Batch],
    ) -> None:
        self.engine, self.gradients, self.feeds, self.sources = engine, gradients, feeds, sources
        self.accelerator, self.prepare = accelerator, prepare
        self.counts = TokenCounts(0, 0)
        self._done: list[_Pass] = []
        self._fresh = True
        self._losses: list[Tensor] = []

    def announce(self, batches: Sequence[Batch], device: torch.device) -> float:
        """Begin a step with the training set's `batches`; returns the tokens of their examples, over all processes."""
        *counts, tokens = self._total(batches, device)
        self.counts, self._done, self._losses = TokenCounts(*counts), [], []
        return tokens

    @property
    def begun(self) -> bool:
        """Whether the step has had its first pass."""
        return bool(self._done)

    def over_sources(self, model: nn.Module, step: int, device: torch.device) -> None:
        """Accumulate the gradients that have data of their own."""
        for source in self.sources:
            batches = source.at(step)
            counts = TokenCounts(*self._total(batches, device)[:2])
            for batch in batches:
                if source.unlearned is None:
                    self._run(model, batch, counts, source.feeds)
                else:
                    shape = source.unlearned.shape(int(batch["cache_rows"][0]))
                    self._run(model, batch, SUM, source.feeds._replace(shape=shape))

    @torch.no_grad()
    def remember(self, model: nn.Module) -> None:
        """Let unlearning know what the starting model, which is the teacher, makes of every answer."""
        for source in self.sources:
            if source.unlearned is not None:
                with eval_mode(model):
                    for batch in map(self.prepare, source.one_by_one()):
                        loss = self.engine.losses(model, batch, SUM, source.feeds).target
                        source.unlearned.reference[int(batch["cache_rows"][0])] = loss.item()

    def over_batch(self, model: nn.Module, batch: Batch, fresh: bool) -> Tensor:
        """Accumulate the gradients of one micro-batch of the training set; returns its share of the target loss.

        `fresh`: whether the other gradients are taken in this step.
        """
        self._fresh = fresh
        return self._run(model, batch, self.counts, self.feeds if fresh else Feeds(kl=None))

    def losses(self) -> Tensor:
        """[1 + k] float64: mean losses of the step behind the gradients, over all processes."""
        return self._mean(self._losses)

    @torch.no_grad()
    def losses_again(self, model: nn.Module) -> Tensor:
        """[1 + k] float64: the same losses of the other gradients at the present weights; 0 for the target's."""
        other = [done for done in self._done if done.feeds.kl is not None or done.feeds.nll != TARGET]
        placed = [self._placed(self.engine.losses(model, *done), done.feeds) for done in other]
        reshard(model)
        return self._mean(placed)

    def hooks_off(self, model: nn.Module) -> AbstractContextManager[None]:
        """DDP's own averaging, off where there are other gradients: it knows one backward pass per forward pass."""
        if isinstance(model, DistributedDataParallel) and self.gradients.others:
            context: AbstractContextManager[None] = model.no_sync()  # accelerate's does nothing for a single process
            return context
        return nullcontext()

    def _run(self, model: nn.Module, batch: Batch, counts: TokenCounts, feeds: Feeds) -> Tensor:
        # DDP and FSDP2 average gradients over processes, and ours are those of the mean over all of them
        shared = TokenCounts(*(count / self.accelerator.num_processes for count in counts))
        done = _Pass(self.prepare(batch), shared, feeds)
        with self.hooks_off(model):
            losses = self.engine.accumulate(model, done.batch, shared, self._backward(model), feeds)
        self._done.append(done)
        self._losses.append(self._placed(losses, feeds))
        return losses.target

    def _placed(self, losses: Sequence[Tensor], feeds: Feeds) -> Tensor:
        """[1 + k]: each loss at the number of its gradient."""
        placed = torch.zeros(1 + len(self.gradients.others), dtype=torch.float64, device=losses[0].device)
        for which, loss in zip((feeds.nll, feeds.kl), losses, strict=True):
            if which is not None:
                placed[which] += loss
        return placed

    def _mean(self, parts: Sequence[Tensor]) -> Tensor:
        mean: Tensor = self.accelerator.reduce(torch.stack(list(parts)).sum(0), "mean")
        return mean.cpu()

    def _total(self, batches: Sequence[Batch], device: torch.device) -> list[float]:
        """Answer tokens, loss-carrying positions and tokens of `batches`, over all processes."""
        sums = [[int((b["targets"] != IGNORE).sum()), len(b["targets"]), int(b["tokens"])] for b in batches]
        total = self.accelerator.reduce(torch.tensor(sums, device=device).sum(0), "sum")
        return [float(count) for count in total.tolist()]

    def _backward(self, model: nn.Module) -> Backward:
        """The engine's `backward`. DDP synchronises one backward pass per forward pass: the last, target one.

        The other gradients are averaged by us while that one is under way.
        """

        def backward(loss: Tensor, *, retain_graph: bool, last: bool) -> None:
            together = last and self.accelerator.sync_gradients and isinstance(model, DistributedDataParallel)
            if not together or not self.gradients.others:
                self.accelerator.backward(loss, retain_graph=retain_graph)
                return
            others = [g for held in self.gradients.others for g in held if g is not None] if self._fresh else []
            finish = begin_average(others)
            with self.accelerator.trigger_sync_in_backward(model):
                self.accelerator.backward(loss, retain_graph=retain_graph)
            finish()

        return backward


class _Pass(NamedTuple):
    """One forward pass of the step: enough to do it again."""

    batch: Batch
    counts: TokenCounts
    feeds: Feeds
