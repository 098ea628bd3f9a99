"""The original script's own arithmetic, its rounding included, for its preset (ablations/configs/original.yaml).

Source: arccoxx/OpposedGradientProjection. One process, the whole model as teacher, no accumulation: what the method was
when it was published, to compare with.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ogp.rules import OPPOSED, TARGET
from ogp.step.batches import IGNORE, Batch, model_inputs
from ogp.step.engines import Feeds, Losses, TokenCounts
from ogp.step.gradients import GradientSet
from ogp.step.method import Method
from ogp.step.reference import ReferenceEngine

SMALLEST_SQUARE = 1e-9
"""Squared norm of the opposed gradient up to which nothing is projected: absolute, whatever the losses' scale."""


class OriginalEngine(ReferenceEngine):
    """Both losses of the script, and their gradients by autograd."""

    def _losses(self, model: nn.Module, batch: Batch, counts: TokenCounts, feeds: Feeds) -> Losses:
        """Mean cross-entropy on answer tokens, and KL(teacher || student) summed over all positions / examples.

        The divergence is taken in the models' own precision, on padding too; the cross-entropy in float32.
        """
        inputs = model_inputs(batch)
        logits = model(**inputs, use_cache=False).logits
        rows = logits.flatten(0, 1)[batch["positions"]]
        nll = F.cross_entropy(rows.float(), batch["targets"], ignore_index=IGNORE)
        kl = torch.zeros_like(nll)
        if feeds.kl is not None:
            with torch.no_grad():
                wanted = self.teacher(**inputs, use_cache=False).logits
            kl = F.kl_div(F.log_softmax(logits, dim=-1), F.softmax(wanted, dim=-1), reduction="batchmean")
        return Losses(nll, kl)


class OriginalGradients(GradientSet):
    """Two gradients combined as the script combines them."""

    def combine(self, weights: Tensor) -> None:
        """p.grad <- w_target g_t + (w_opposed g_o), each product and the sum rounded to the gradients' precision."""
        w_target, w_opposed = weights[0, TARGET], weights[0, OPPOSED]
        for number, p in enumerate(self.parameters):
            opposed = self.held(OPPOSED, number)
            if p.grad is None or opposed is None:
                continue
            p.grad = w_target.to(p.grad) * p.grad + w_opposed.to(opposed) * opposed


class OriginalMethod(Method):
    """The unconditional global projection, its inner products summed in the gradients' own precision."""

    def _weigh(self, gramian: Tensor, noise: float) -> Tensor:
        """(w_target, -w_opposed <g_t, g_o> / <g_o, g_o>), or (w_target, 0) below `SMALLEST_SQUARE`; [1, 2]."""
        targets, opposed = [], []
        for number, p in enumerate(self.gradients.parameters):
            held = self.gradients.held(OPPOSED, number)
            if p.grad is not None and held is not None:
                targets.append(p.grad)
                opposed.append(held)
        square = inner_product(opposed, opposed)
        share = inner_product(targets, opposed) / square if square > SMALLEST_SQUARE else torch.zeros_like(square)
        both = [torch.full_like(share, self.settings.w_target), -self.settings.w_opposed * share]
        return torch.stack(both)[None].double().cpu()


def inner_product(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """<a, b> [] summed tensor by tensor in the tensors' own precision."""
    total = torch.zeros((), dtype=a[0].dtype, device=a[0].device)
    for x, y in zip(a, b, strict=True):
        total = total + (x * y).sum()
    return total
