"""Every engine gives the oracle's losses, inner products and final gradient: 1e-10 in float64, 1e-5 in float32.

In both layouts, tied and untied, with and without checkpointing, in one micro-batch and in four, full fine-tuning and
adapters, and projected globally, per layer and per tensor.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import ogp.step.ghost
from ogp.rules import orthogonal
from ogp.step.engines import DualEngine
from ogp.step.ghost import GhostEngine
from ogp.step.gradients import inner_products
from ogp.step.reference import ReferenceEngine
from tests import tiny
from tests.asserts import assert_same_gradients, combined_by_hand
from tests.oracle import EXAMPLES, Outcome, combined, gradients_of, make, oracle, run

RELATIVE = {torch.float64: 1e-10, torch.float32: 1e-5}


@cache
def expected_of(kind: str, tied: bool) -> Outcome:
    return oracle(tiny.nudged(make(kind, tied)), make(kind, tied), EXAMPLES, "answer", "forward")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("engine", [DualEngine, ReferenceEngine, GhostEngine], ids=["dual", "reference", "ghost"])
@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("micro_batch", [8, 2])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_engine_is_exact(
    kind: str,
    tied: bool,
    checkpointing: bool,
    micro_batch: int,
    layout: str,
    engine: Any,
    dtype: torch.dtype,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ogp.step.ghost, "pays", lambda *sizes: True)  # these weights are too small for it
    relative, expected, model = RELATIVE[dtype], expected_of(kind, tied), make(kind, tied, dtype)
    if checkpointing:
        model.train()
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    pair, target_loss, opposed_loss = run(engine, model, tmp_path, layout=layout, micro_batch=micro_batch)
    assert target_loss == pytest.approx(expected.target_loss, rel=relative)
    assert opposed_loss == pytest.approx(expected.opposed_loss, rel=100 * relative)  # a small difference
    for found, exact in zip(gradients_of(pair), (expected.target, expected.opposed), strict=True):
        assert_same_gradients(found, exact, relative)
    exact_products = inner_products(list(zip(expected.target, expected.opposed, strict=True)))
    norms = exact_products.sum(0).diagonal().sqrt()
    scale = norms[:, None] * norms
    assert ((pair.products() - exact_products).abs() <= relative * scale).all()
    for groups in ([0] * len(pair.parameters), layers_of(model), list(range(len(pair.parameters)))):
        pair.groups = torch.tensor(groups)
        by_hand = combined_by_hand(expected.target, expected.opposed, groups)
        assert_same_gradients(combined(pair, orthogonal(pair.gramian(), noise=0.0)), by_hand, relative)


def layers_of(model: Any) -> list[int]:
    """A group per decoder layer and one for the rest, from the names a Llama has."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    keys = [name.split("layers.")[1][0] if "layers." in name else "rest" for name in names]
    return [sorted(set(keys)).index(key) for key in keys]
