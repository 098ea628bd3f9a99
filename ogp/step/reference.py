"""The oracle among the engines: slow and obvious."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ogp.step.batches import IGNORE, Batch, model_inputs
from ogp.step.causal_lm import adapter_off
from ogp.step.engines import BOTH, Backward, Feeds, Losses, TokenCounts
from ogp.step.gradients import GradientSet
from ogp.step.objectives import KlDirection


class ReferenceEngine:
    """The oracle: a copy of the model as teacher, full logits, one `torch.autograd.grad` per loss. One process only.

    Takes the same arguments and batches as `DualEngine`, and shares none of its arithmetic.
    """

    def __init__(
        self,
        model: nn.Module,
        gradients: GradientSet,
        *,
        kl_direction: KlDirection,
        autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.gradients, self.kl_direction, self.autocast = gradients, kl_direction, autocast
        self.teacher = copy.deepcopy(model).eval().requires_grad_(False)

    def installed(self) -> AbstractContextManager[None]:
        """Nothing to install: the model is called as it is."""
        return nullcontext()

    def accumulate(
        self, model: nn.Module, batch: Batch, counts: TokenCounts, backward: Backward, feeds: Feeds = BOTH
    ) -> Losses:
        """Add the gradients of one micro-batch to those that `feeds` names."""
        nll, kl = self._losses(model, batch, counts, feeds)
        if feeds.kl is not None:
            with self.gradients.in_place(feeds.kl):
                self._add(kl, retain_graph=True)
        if feeds.nll is not None:
            with self.gradients.in_place(feeds.nll):
                self._add(nll, retain_graph=False)
        return Losses(nll.detach(), kl.detach())

    @torch.no_grad()
    def losses(self, model: nn.Module, batch: Batch, counts: TokenCounts, feeds: Feeds) -> Losses:
        """What `accumulate` returns, without its gradients."""
        return self._losses(model, batch, counts, feeds)

    def _losses(self, model: nn.Module, batch: Batch, counts: TokenCounts, feeds: Feeds) -> Losses:
        inputs = model_inputs(batch)
        inputs.pop("packed_rows", None)  # the dense mask says the same, slowly and obviously
        log_s = self._log_probabilities(model, inputs, batch["positions"])
        nll = F.nll_loss(log_s, batch["targets"], ignore_index=IGNORE, reduction="sum") / counts.target
        nll = nll if feeds.shape is None else feeds.shape(nll)
        kl = torch.zeros_like(nll)
        if feeds.kl is not None:
            with torch.no_grad(), adapter_off(self.teacher), self.autocast():
                log_t = self._log_probabilities(self.teacher, inputs, batch["positions"])
            kl = _divergence(log_s, log_t, self.kl_direction).sum() / counts.opposed
        return Losses(nll, kl)

    def _log_probabilities(self, model: nn.Module, inputs: dict[str, Tensor], positions: Tensor) -> Tensor:
        logits = model(**inputs, use_cache=False).logits.flatten(0, 1)[positions]
        return torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)

    def _add(self, loss: Tensor, *, retain_graph: bool) -> None:
        parameters = self.gradients.parameters
        gradients = torch.autograd.grad(loss, parameters, retain_graph=retain_graph, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def _divergence(log_s: Tensor, log_t: Tensor, direction: KlDirection) -> Tensor:
    """Divergence [rows] of student and teacher in nats."""
    if direction == "forward":
        return (log_t.exp() * (log_t - log_s)).sum(-1)
    if direction == "reverse":
        return (log_s.exp() * (log_s - log_t)).sum(-1)
    log_m = torch.logaddexp(log_s, log_t) - math.log(2.0)
    return _divergence(log_m, log_s, "forward") / 2 + _divergence(log_m, log_t, "forward") / 2
