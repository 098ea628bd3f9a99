"""A tied weight's gradient in one buffer: equal to autograd's, padding token included, and only where it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ogp.step.batches import IGNORE, PackedCollator, Positions
from ogp.step.engines import DualEngine, TokenCounts
from ogp.step.gradients import GradientSet
from ogp.step.shared_embedding import SharedEmbedding
from tests import tiny

PADDING = 7
EXAMPLES = [
    {"index": 0, "input_ids": [3, PADDING, 5, 9, PADDING, 4], "labels": [IGNORE, IGNORE, IGNORE, 9, PADDING, 4]},
    {"index": 1, "input_ids": [3, 5, 5, 8], "labels": [IGNORE, IGNORE, 5, 8]},
]


def gradients(model: Any, folder: Path, *, shared: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Target and opposed gradients of one step, in `model`'s order of parameters."""
    parameters = list(model.parameters())
    pair, positions = GradientSet(parameters, [0] * len(parameters)), Positions(EXAMPLES, "answer")
    engine = DualEngine(model, pair, kl_direction="forward")
    engine.load_teacher(model, EXAMPLES, positions, folder)
    assert engine.shared is not None
    if not shared:
        engine.shared = None
    with torch.no_grad():
        for p in parameters:
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)).to(p), alpha=0.05)

    def backward(loss: Tensor, *, retain_graph: bool, last: bool) -> None:
        loss.backward(retain_graph=retain_graph)

    batch = PackedCollator(positions)(EXAMPLES)
    for p in parameters:
        p.grad = None
    with engine.installed():
        for _ in range(2):  # the second one accumulates
            engine.accumulate(model, batch, TokenCounts(5, 5), backward)
    return [p.grad for p in parameters if p.grad is not None], [o for o in pair.others[0] if o is not None]


@pytest.mark.parametrize("padding", [None, PADDING])
def test_equal_to_autograd(padding: int | None, tmp_path: Path) -> None:
    def model() -> Any:
        return tiny.llama(tied=True, dtype=torch.float64, pad_token_id=padding)

    for ours, theirs in zip(
        gradients(model(), tmp_path, shared=True), gradients(model(), tmp_path, shared=False), strict=True
    ):
        assert len(ours) == len(theirs) > 1
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_the_heads_buffer_becomes_the_gradient() -> None:
    shared = SharedEmbedding.of(tiny.llama(tied=True))
    assert shared is not None
    shared.hand_over(torch.ones(tiny.VOCABULARY, 16))
    assert shared._gradient is not None
    where = shared._gradient.data_ptr()
    with shared.installed():
        states = shared.embedding(torch.tensor([[2, 2]]))
    states.sum().backward()
    gradient = shared.embedding.weight.grad
    assert gradient is not None
    assert gradient.data_ptr() == where
    assert gradient[:, 0].tolist() == [3.0 if token == 2 else 1.0 for token in range(tiny.VOCABULARY)]


def test_only_where_it_holds() -> None:
    assert SharedEmbedding.of(tiny.llama(tied=False)) is None
    frozen = tiny.llama(tied=True)
    frozen.requires_grad_(False)
    assert SharedEmbedding.of(frozen) is None
    scaled = tiny.of_family("gemma3_text")
    assert SharedEmbedding.of(scaled) is None
