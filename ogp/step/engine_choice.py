"""Which engine takes a run's gradients: the one that is asked for, or with `auto` the cheaper one, and why in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import nn

from ogp.method_settings import MethodSettings
from ogp.step.batches import Batch
from ogp.step.causal_lm import base_causal_lm
from ogp.step.engines import DualEngine
from ogp.step.ghost import GhostEngine, GhostPair
from ogp.step.gradients import GradientSet
from ogp.step.original import OriginalEngine, OriginalGradients
from ogp.step.outer_products import TRAFFIC, pays
from ogp.step.reference import ReferenceEngine

EngineName = Literal["dual", "ghost", "reference", "original"]
WORTH_IT = 0.95
"""`auto` takes ghost where it is expected to cost at most this share of dual: what it keeps on its tape is not free."""


def choose_engine(
    method: MethodSettings, model: nn.Module, step: Sequence[Batch], others: int, processes: int
) -> tuple[EngineName, str]:
    """Name of the engine, and the reason for the log; ValueError where the one asked for cannot do what is asked.

    Args:
        step: the micro-batches of one optimizer step of usual size.
        others: gradients beside the target's.
        processes: that train together.
    """
    if method.engine in ("reference", "original") and processes > 1:
        raise ValueError(f"`method.engine`: {method.engine!r} runs in one process only: choose 'dual'")
    if method.engine != "auto" and method.engine != "ghost":
        return method.engine, "asked for"
    if others == 0:
        return "dual", "there is one gradient only"
    obstacle = _obstacle(method, others, processes)
    if method.engine == "ghost":
        if obstacle is not None:
            raise ValueError(f"`method.engine`: 'ghost' {obstacle}: choose 'dual'")
        return "ghost", "asked for"
    if obstacle is not None:
        return "dual", f"ghost {obstacle}"
    if next(model.parameters()).device.type != "cpu":
        return "dual", "what ghost costs was measured on CPUs only"
    share = expected_cost(method, model, step)
    tokens = sum(batch["input_ids"].numel() for batch in step)
    name: EngineName = "ghost" if share <= WORTH_IT else "dual"
    return name, f"for {tokens} tokens a step ghost is expected to cost {share:.2f} times as much as dual"


def make_engine(
    name: EngineName,
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    groups: Sequence[int],
    others: int,
    method: MethodSettings,
    autocast: Callable[[], AbstractContextManager[None]],
) -> tuple[DualEngine | ReferenceEngine, GradientSet]:
    """The engine, and the gradients it fills."""
    if name == "ghost":
        pair = GhostPair(parameters, groups)
        return GhostEngine(model, pair, kl_direction=method.kl_direction, autocast=autocast), pair
    if name == "original":
        published = (OriginalGradients if method.rule != "none" else GradientSet)(parameters, groups, others)
        return OriginalEngine(model, published, kl_direction=method.kl_direction, autocast=autocast), published
    stored_as = torch.bfloat16 if method.stored_as == "bfloat16" else None
    gradients = GradientSet(parameters, groups, others, stored_as)
    kind = DualEngine if name == "dual" else ReferenceEngine
    return kind(model, gradients, kl_direction=method.kl_direction, autocast=autocast), gradients


def expected_cost(method: MethodSettings, model: nn.Module, step: Sequence[Batch]) -> float:
    """Multiply-adds of a step with the ghost engine over those with the dual one; matrix products with weights only.

    Per weight and token 1 for the forward pass and 2 for both gradients of the activations. A formed gradient costs 1
    and its traffic; ghost forms one instead of two where its inner products are cheaper, and the opposed one again in
    those steps whose applied update is compared with it.
    """
    causal_lm: Any = base_causal_lm(model)
    tokens = sum(batch["input_ids"].numel() for batch in step)
    rows = sum(len(batch["positions"]) for batch in step)
    dual = ghost = 0.0
    for module in causal_lm.modules():
        if type(module) is nn.Linear:
            head, (out, into) = module is causal_lm.get_output_embeddings(), module.weight.shape
            count, size, trained = rows if head else tokens, out * into, module.weight.requires_grad
            passes = (4 if head and trained else 3) * count * size  # the teacher has a head, too
            formed = (count + TRAFFIC) * size if trained else 0
            dual += passes + 2 * formed
            ghost += passes + 2 * formed
            if trained and pays(count, into, out):
                ghost += count**2 * (into + 2 * out) - formed * (1 - _share_with_opposed_formed(method))
    return ghost / dual if dual else 1.0


def _obstacle(method: MethodSettings, others: int, processes: int) -> str | None:
    """Why the ghost engine cannot do what `method` asks for."""
    if others != 1 or method.gradients[0].data is not None:
        return "takes one gradient beside the target's, on the training batch: `method.gradients` says otherwise"
    if processes > 1:
        return "runs in one process only"
    if method.refresh > 1 or method.ema > 0:
        return "forms no gradient that `method.refresh` or `method.ema` could keep"
    if method.space == "update":
        return "forms no gradient that `method.space: update` could project the update on"
    if method.stored_as != "weights":
        return "stores no gradient, so `method.stored_as` has to stay 'weights'"
    return None


def _share_with_opposed_formed(method: MethodSettings) -> float:
    """Share of the steps in which the opposed gradient is formed, to be compared with the applied update."""
    return min(1.0, sum(1 / every for every in (method.update_cosine_every, method.check_every) if every))
