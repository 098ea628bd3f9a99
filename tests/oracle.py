"""The oracle that every engine is held against, and one optimizer step's gradients as an engine finds them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ogp.rules import OPPOSED
from ogp.step.batches import IGNORE, Example, PackedCollator, PaddedCollator, Positions
from ogp.step.causal_lm import adapter_off
from ogp.step.engines import DualEngine, TokenCounts
from ogp.step.ghost import GhostEngine, GhostPair
from ogp.step.gradients import GradientSet
from ogp.step.reference import ReferenceEngine
from tests import tiny
from tests.asserts import assert_same_gradients

PAD = 0
EXAMPLES = tiny.examples(8)


AnyEngine = type[DualEngine] | type[ReferenceEngine] | type[GhostEngine]


class Outcome(NamedTuple):
    target_loss: float
    opposed_loss: float
    target: list[Tensor | None]
    opposed: list[Tensor | None]


def trainable(model: Any) -> list[torch.nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def plain_backward(loss: Tensor, *, retain_graph: bool, last: bool) -> None:
    loss.backward(retain_graph=retain_graph)


def oracle(student: Any, teacher: Any, examples: Sequence[Example], opposed: str, direction: str) -> Outcome:
    """One example at a time, unpadded, full logits, torch's own losses, autograd.grad on the sums."""
    width = max(len(e["input_ids"]) for e in examples)
    targets, divergences, answers, carriers = [], [], 0, 0
    for example in examples:
        tokens, mask = torch.tensor([example["input_ids"]]), None
        if opposed == "all":
            mask = torch.ones_like(tokens)
            tokens, mask = (F.pad(t, (0, width - t.shape[1]), value=PAD) for t in (tokens, mask))
        labels = torch.tensor(example["labels"][1:])
        logits = student(tokens, attention_mask=mask).logits[0]
        with torch.no_grad(), adapter_off(teacher):
            log_t = torch.log_softmax(teacher(tokens, attention_mask=mask).logits[0], -1)
        log_s = torch.log_softmax(logits, -1)
        targets.append(F.nll_loss(log_s[: len(labels)], labels, ignore_index=IGNORE, reduction="sum"))
        answers += int((labels != IGNORE).sum())
        chosen = (labels != IGNORE).nonzero().flatten() if opposed == "answer" else torch.arange(len(log_s))
        carriers += len(chosen)
        s, t = log_s[chosen], log_t[chosen]
        m = ((s.exp() + t.exp()) / 2).log()
        pairs = {"forward": [(s, t)], "reverse": [(t, s)], "jensen_shannon": [(m, t), (m, s)]}[direction]
        divergences += [F.kl_div(a, b, reduction="sum", log_target=True) / len(pairs) for a, b in pairs]
    losses = torch.stack(targets).sum() / answers, torch.stack(divergences).sum() / carriers
    parameters = trainable(student)
    gradients = [list(torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)) for loss in losses]
    return Outcome(losses[0].item(), losses[1].item(), *gradients)


def run(
    kind: AnyEngine,
    model: Any,
    cache: Path,
    *,
    layout: str = "padded",
    micro_batch: int = 8,
    opposed: Any = "answer",
    direction: Any = "forward",
    examples: Sequence[Example] = EXAMPLES,
    stored_as: torch.dtype | None = None,
) -> tuple[GradientSet, float, float]:
    """The pair, after one step's micro-batches of an engine that has `model` as teacher and then nudged as student.

    With the pair the two losses.
    """
    positions = Positions(examples, opposed)
    parameters = trainable(model)
    groups = [0] * len(parameters)
    pair = GhostPair(parameters, groups) if kind is GhostEngine else GradientSet(parameters, groups, 1, stored_as)
    engine: Any = kind(model, pair, kl_direction=direction)  # type: ignore[arg-type]
    if isinstance(engine, DualEngine):
        engine.load_teacher(model, examples, positions, cache)
    tiny.nudged(model)
    collate = PaddedCollator(positions, PAD) if layout == "padded" else PackedCollator(positions)
    batches = [collate(examples[i : i + micro_batch]) for i in range(0, len(examples), micro_batch)]
    counts = TokenCounts(
        sum(int((b["targets"] != IGNORE).sum()) for b in batches), sum(len(b["targets"]) for b in batches)
    )
    with engine.installed():
        losses = [engine.accumulate(model, batch, counts, plain_backward) for batch in batches]
    return pair, sum(loss.target.item() for loss in losses), sum(loss.opposed.item() for loss in losses)


def outcome(*args: Any, **options: Any) -> Outcome:
    """The losses and gradients of `run`."""
    pair, target_loss, opposed_loss = run(*args, **options)
    return Outcome(target_loss, opposed_loss, *gradients_of(pair))


def gradients_of(pair: GradientSet) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Both gradients, formed where they are not; the pair stays as it is."""
    target = combined(pair, torch.tensor([[1.0, 0.0]]).repeat(int(pair.groups.max()) + 1, 1))
    return target, [pair.held(OPPOSED, i) for i in range(len(pair.parameters))]


def combined(pair: GradientSet, weights: Tensor) -> list[Tensor | None]:
    """What `combine` makes of the pair, which stays as it is."""
    before = [p.grad for p in pair.parameters]
    for p in pair.parameters:
        p.grad = None if p.grad is None else p.grad.clone()
    pair.combine(weights)
    result = [None if p.grad is None else p.grad.clone() for p in pair.parameters]
    for p, gradient in zip(pair.parameters, before, strict=True):
        p.grad = gradient
    return result


def make(kind: str, tied: bool, dtype: torch.dtype = torch.float64) -> Any:
    model = tiny.gpt2(dtype=dtype) if kind == "gpt2" else tiny.llama(tied=tied, dtype=dtype)
    return tiny.with_lora(model) if kind == "lora" else model


def assert_same(found: Outcome, expected: Outcome, relative: float) -> None:
    assert found.target_loss == pytest.approx(expected.target_loss, rel=relative)
    assert found.opposed_loss == pytest.approx(expected.opposed_loss, rel=100 * relative)  # a small difference
    assert_same_gradients(found.target, expected.target, relative)
    assert_same_gradients(found.opposed, expected.opposed, relative)
