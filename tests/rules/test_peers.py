"""torchjd's rules (extra `peers`) beside ours; without torchjd, the error that says how to get it."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from ogp.rules import orthogonal, weigh
from tests.rules.vectors import gradients, gramian, made, update

with_torchjd = pytest.mark.skipif(importlib.util.find_spec("torchjd") is None, reason="needs the extra `peers`")
without = pytest.mark.skipif(importlib.util.find_spec("torchjd") is not None, reason="torchjd is there")


@with_torchjd
@settings(max_examples=100, deadline=None)
@given(gradients(most=1))
def test_our_projection_both_ways_is_their_pcgrad(case: tuple[Tensor, Tensor]) -> None:
    """PCGrad frees each gradient of the other where they conflict, and adds both: our rule, there and back."""
    target, others = case
    table = gramian(target, others)
    if not (table.diagonal() > 0).all():
        return  # theirs divides 0 by 0
    ours = orthogonal(table, "conflicting", noise=0.0, roles=["protected"])
    back = orthogonal(table.flip(0, 1), "conflicting", noise=0.0, roles=["protected"]).flip(0)
    theirs = weigh(table, "torchjd:PCGrad", roles=["protected"])
    size = float(target.norm() + others.norm())
    assert (update(*case, ours + back) - update(*case, theirs)).norm() <= 1e-9 * size


@with_torchjd
@pytest.mark.parametrize("name", ["PCGrad", "UPGrad", "MGDA", "AlignedMTL", "IMTLG"])
def test_an_opposed_loss_is_one_to_raise(name: str) -> None:
    """Turning a gradient round and its role with it changes nothing."""
    if name == "UPGrad" and importlib.util.find_spec("quadprog") is None:
        pytest.skip("needs the extra `peers`")
    target, others = made(1.0, [(2.0, "random"), (0.5, "random")], seed=2)
    a = weigh(gramian(target, others), f"torchjd:{name}", roles=["protected", "protected"])
    turned = others * torch.tensor([[-1.0], [1.0]])
    b = weigh(gramian(target, turned), f"torchjd:{name}", roles=["opposed", "protected"])
    assert torch.allclose(update(target, others, a), update(target, turned, b), rtol=1e-9)
    broken = gramian(target, others) * float("nan")
    roles: list[Any] = ["opposed", "protected"]
    assert weigh(broken[None], f"torchjd:{name}", roles=roles).isnan().all()


@without
def test_its_absence_is_said_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"`method\.rule`: 'torchjd:MGDA' needs torchjd: pip install 'ogp\[peers\]'"):
        weigh(torch.eye(2, dtype=torch.float64), "torchjd:MGDA")
