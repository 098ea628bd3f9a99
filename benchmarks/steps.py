"""One optimizer step of every competitor: each set-up function returns a `step()` that gives the mean target loss.

Call every set-up while the student is still at the teacher's weights; batches are collated then, outside the clock.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.workloads import Workload, stock_batch, trainable
from ogp.rules import OPPOSED, orthogonal
from ogp.step.applied_update import update_products
from ogp.step.batches import IGNORE, Batch, Positions
from ogp.step.causal_lm import adapter_off, base_causal_lm, head_of, hidden_states
from ogp.step.engines import BOTH, DualEngine, Feeds, TokenCounts
from ogp.step.ghost import GhostEngine, GhostPair
from ogp.step.gradients import GradientSet
from ogp.step.products import linear
from ogp.training.trainer import choose_collator

INPUTS = ("input_ids", "attention_mask")
Step = Callable[[], float]
SetUp = Callable[[Workload, Path], Step]

NEED_TORCHJD = {"full": ("torchjd_pcgrad", "torchjd_orthogonal"), "study": ("torchjd_orthogonal",)}
"""Steps of benchmarks/torchjd_steps.py, by workload."""
SAME_PRODUCTS = "_same_products"
"""End of a name: the same step with the matrix products that ours takes."""
ALSO_SO = ("sft", "original", "torchjd_orthogonal")
NOISE = 1e-4
GUARD = 1e-9
"""Squared norm of the opposed gradient at or below which the original does not project."""


def sft(workload: Workload, cache: Path) -> Step:
    """Stock transformers supervised fine-tuning, the denominator: padded batch, the model's own loss."""
    model, parts = workload.model, workload.micro_batches
    steps = cycle([[stock_batch(part, workload.pad_id) for part in workload.parts(b)] for b in workload.batches])

    def step() -> float:
        total = torch.zeros(())
        for batch in next(steps):
            loss = model(**batch, use_cache=False).loss / parts
            loss.backward()
            total += loss.detach()
        return finish(workload, total)

    return step


def sft_linear_cross_entropy(workload: Workload, cache: Path) -> Step:
    """The same loss through torch's chunked `F.linear_cross_entropy`, which never forms all logits."""
    causal_lm, batches = base_causal_lm(workload.model), stock_batches(workload)
    options = torch.nn.LinearCrossEntropyOptions()

    def step() -> float:
        batch = next(batches)
        hidden = hidden_states(causal_lm, input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        labels = batch["labels"][:, 1:].flatten()
        loss = F.linear_cross_entropy(
            hidden[:, :-1].flatten(0, 1), head_of(causal_lm).weight, labels, ignore_index=IGNORE, options=options
        )
        loss.backward()
        return finish(workload, loss)

    return step


def dual(
    workload: Workload, cache: Path, *, feeds: Feeds = BOTH, update_cosine: bool = False, few_tokens: bool = False
) -> Step:
    """Ours, as `OGPTrainer` runs it: layout chosen by it, warm teacher cache, global projection, diagnostics."""
    model, optimizer = workload.model, workload.optimizer
    positions = Positions(workload.examples, "answer")
    collate, _ = choose_collator(model, positions, workload.pad_id)
    parameters = trainable(model)
    pair = (GhostPair if few_tokens else GradientSet)(parameters, [0] * len(parameters))
    kind = GhostEngine if few_tokens else DualEngine
    engine = kind(model, pair, kl_direction="forward")  # type: ignore[arg-type]  # each engine gets its own pair
    engine.load_teacher(model, workload.examples, positions, cache)
    steps = cycle([[collate(part) for part in workload.parts(examples)] for examples in workload.batches])

    def backward(loss: Tensor, *, retain_graph: bool, last: bool) -> None:
        loss.backward(retain_graph=retain_graph)

    def step() -> float:
        batches = next(steps)
        targets = torch.cat([batch["targets"] for batch in batches])
        counts = TokenCounts(int((targets != IGNORE).sum()), len(targets))
        with engine.installed():
            losses = [engine.accumulate(model, batch, counts, backward, feeds).target for batch in batches]
        if feeds is BOTH:
            weights = orthogonal(pair.gramian(), noise=NOISE)
            pair.combine(weights)
            assert float(weights[0, OPPOSED]) != 0, "nothing was projected: the student is the teacher"
        optimizer.step()
        if update_cosine:
            update_products(optimizer, pair)
        pair.clear()
        optimizer.zero_grad()
        return float(sum(losses))

    return step


def dual_with_update_cosine(workload: Workload, cache: Path) -> Step:
    """`dual` and the diagnostic that OGPTrainer takes after every step unless told otherwise."""
    return dual(workload, cache, update_cosine=True)


def sft_ours(workload: Workload, cache: Path) -> Step:
    """Plain supervised fine-tuning as `OGPTrainer` runs it: `dual` without the second gradient."""
    return dual(workload, cache, feeds=Feeds(kl=None))


def ghost(workload: Workload, cache: Path) -> Step:
    """Ours for few tokens: the same losses and projection, each weight's gradient formed once."""
    return dual(workload, cache, few_tokens=True)


def original(workload: Workload, cache: Path) -> Step:
    """The original's arithmetic: one student forward, teacher forward, KL on all positions, clones, python loops."""
    model, teacher, batches = workload.model, teacher_logits(workload.model), stock_batches(workload)

    def step() -> float:
        batch = next(batches)
        out = model(**batch, use_cache=False)
        opposed_loss = divergence(out.logits, teacher(batch))
        out.loss.backward(retain_graph=True)
        target = _taken(workload)
        opposed_loss.backward()
        _project(workload, target, _taken(workload))
        return finish(workload, out.loss)

    return step


def two_forwards(workload: Workload, cache: Path) -> Step:
    """The same arithmetic with a student forward of its own for each loss."""
    model, teacher, batches = workload.model, teacher_logits(workload.model), stock_batches(workload)

    def step() -> float:
        batch = next(batches)
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        target = _taken(workload)
        inputs = {key: batch[key] for key in INPUTS if key in batch}
        divergence(model(**inputs, use_cache=False).logits, teacher(batch)).backward()
        _project(workload, target, _taken(workload))
        return finish(workload, loss)

    return step


def competitors(workload_name: str) -> dict[str, SetUp]:
    """Who takes part in a workload, stock SFT first; torchjd's where the extra `peers` is installed."""
    core: list[SetUp] = [sft, dual, sft_ours]
    peers: dict[str, list[SetUp]] = {
        "full": [sft_linear_cross_entropy, dual_with_update_cosine, original, two_forwards],
        "lora": [dual_with_update_cosine, original],
        "short": [ghost, original],
        "study": [original],
    }
    found = {set_up.__name__: set_up for set_up in core + peers[workload_name]}
    for name in NEED_TORCHJD.get(workload_name, ()):
        if torchjd_installed():
            from benchmarks import torchjd_steps

            found[name] = getattr(torchjd_steps, name)
    return found | {name + SAME_PRODUCTS: with_same_products(found[name]) for name in ALSO_SO if name in found}


def with_same_products(set_up: SetUp) -> SetUp:
    """The same step, whose linear layers take the products that ours take."""

    def set_up_so(workload: Workload, cache: Path) -> Step:
        step = set_up(workload, cache)

        def step_so() -> float:
            F.linear, before = linear, F.linear  # type: ignore[assignment]  # other argument names
            try:
                return step()
            finally:
                F.linear = before

        return step_so

    return set_up_so


def absent(workload_name: str) -> list[str]:
    """Who would take part if the extra `peers` were installed."""
    return [] if torchjd_installed() else list(NEED_TORCHJD.get(workload_name, ()))


def torchjd_installed() -> bool:
    """Whether the extra `peers` is there."""
    return importlib.util.find_spec("torchjd") is not None


def stock_batches(workload: Workload) -> Iterator[Batch]:
    """The padded batches in turn, for ever."""
    return cycle([stock_batch(examples, workload.pad_id) for examples in workload.batches])


def finish(workload: Workload, loss: Tensor) -> float:
    """The optimizer's part of a step, and the loss as a number."""
    workload.optimizer.step()
    workload.optimizer.zero_grad()
    return float(loss.detach())


def teacher_logits(model: nn.Module) -> Callable[[Batch], Tensor]:
    """Logits of the frozen starting model: a copy, or for adapters the model with them off."""
    adapted = isinstance(model, PeftModel)
    frozen: Any = model if adapted else copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def logits(batch: Batch) -> Tensor:
        inputs = {key: batch[key] for key in INPUTS if key in batch}
        with adapter_off(frozen):
            result: Tensor = frozen(**inputs, use_cache=False).logits
        return result

    return logits


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) summed over all positions, padding included, and divided by the rows."""
    return F.kl_div(torch.log_softmax(student, -1), torch.softmax(teacher, -1), reduction="batchmean")


def _taken(workload: Workload) -> list[Tensor | None]:
    """Clones of all gradients, which are then cleared."""
    gradients = [None if p.grad is None else p.grad.clone() for p in trainable(workload.model)]
    workload.optimizer.zero_grad()
    return gradients


def _project(workload: Workload, target: list[Tensor | None], opposed: list[Tensor | None]) -> None:
    pairs = [(t, o) for t, o in zip(target, opposed, strict=True) if t is not None and o is not None]
    product = sum((t * o).sum() for t, o in pairs)
    square = sum((o * o).sum() for _, o in pairs)
    share = product / square if square > GUARD else 0.0
    for p, t, o in zip(trainable(workload.model), target, opposed, strict=True):
        p.grad = t if t is None or o is None else t - share * o
