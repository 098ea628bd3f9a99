"""Several gradients of one model: inner products, combination in place, missing tensors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ogp.rules import orthogonal
from ogp.step import gradients
from ogp.step.gradients import GradientSet, inner_products
from tests.asserts import assert_same_gradients, combined_by_hand

SHAPES = [(7, 3), (5,), (2, 2, 2), (1,), (4, 6)]
GROUPS = [0, 0, 1, 2, 1]
MISSING: list[dict[int, set[int]]] = [{}, {0: {0, 3}}, {1: {1, 4}}, {0: {2}, 1: {2}}, {1: set(range(5))}]
"""Numbers of the gradients, and of their tensors that are not there."""


def filled(others: int = 1, missing: dict[int, set[int]] | None = None, seed: int = 0) -> GradientSet:
    """Random gradients, the target's in `p.grad`."""
    generator = torch.Generator().manual_seed(seed)
    parameters = [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64)) for s in SHAPES]
    made = GradientSet(parameters, GROUPS, others)
    for i, p in enumerate(parameters):
        for which, gradient in enumerate(torch.randn(1 + others, *SHAPES[i], generator=generator, dtype=torch.float64)):
            if i not in (missing or {}).get(which, set()):
                if which == 0:
                    p.grad = gradient
                else:
                    made.others[which - 1][i] = gradient
    return made


def snapshot(made: GradientSet) -> list[list[Tensor | None]]:
    """All gradients, the target first."""
    rows = [[p.grad for p in made.parameters], *made.others]
    return [[None if g is None else g.clone() for g in row] for row in rows]


def flat(row: list[Tensor | None], members: list[int]) -> Tensor:
    tensors = [torch.zeros(SHAPES[i]).double() if row[i] is None else row[i] for i in members]
    return torch.cat([t.flatten() for t in tensors if t is not None])


@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize("block", [1 << 14, 4])
@pytest.mark.parametrize("others", [1, 3])
def test_gramian_and_combination_are_those_of_flat_vectors(
    missing: dict[int, set[int]], block: int, others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients, "BLOCK", block)
    made = filled(others, missing)
    before = snapshot(made)
    gramian = made.gramian()
    weights = torch.randn(3, 1 + others, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    made.combine(weights)
    for group in range(3):
        members = [i for i, g in enumerate(GROUPS) if g == group]
        rows = torch.stack([flat(row, members) for row in before])
        assert torch.allclose(gramian[group], rows @ rows.T, rtol=1e-13)
        found = flat([p.grad for p in made.parameters], members)
        assert torch.allclose(found, weights[group] @ rows, rtol=1e-12)
    for now, then in zip(snapshot(made)[1:], before[1:], strict=True):
        assert all((a is None and b is None) or torch.equal(a, b) for a, b in zip(now, then, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", MISSING)
def test_projection_by_group_is_that_by_hand(missing: dict[int, set[int]]) -> None:
    made = filled(missing=missing)
    target, opposed = snapshot(made)
    made.combine(orthogonal(made.gramian(), noise=0.0))
    zeros = [torch.zeros(s).double() if t is None else t for t, s in zip(target, SHAPES, strict=True)]
    expected = [
        None if t is None and o is None else e
        for t, o, e in zip(target, opposed, combined_by_hand(zeros, opposed, GROUPS), strict=True)
    ]
    assert_same_gradients([p.grad for p in made.parameters], expected, 1e-12)


def test_combination_is_in_place() -> None:
    made = filled(2)
    before = [p.grad.data_ptr() for p in made.parameters if p.grad is not None]
    made.combine(torch.tensor([[0.5, -2.0, 1.0]] * 3, dtype=torch.float64))
    assert before == [p.grad.data_ptr() for p in made.parameters if p.grad is not None]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_sums_are_more_precise_than_the_gradients(dtype: torch.dtype) -> None:
    """Two long, nearly orthogonal vectors: a sum kept in their own precision would be far off."""
    a, b = torch.randn(2, 300_000, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = inner_products([(a, b)])[0]
    rows = torch.stack([a, b]).double()
    exact = rows @ rows.T
    assert float((found - exact).abs().max() / exact.abs().max()) < 1e-5


@pytest.mark.parametrize("which", [1, 3])
def test_each_gradient_takes_the_place_of_the_target_and_gives_it_back_after_an_error(which: int) -> None:
    made = filled(3)
    before = snapshot(made)

    def fail_inside() -> None:
        with made.in_place(which):
            assert all(torch.equal(p.grad, o) for p, o in zip(made.parameters, before[which], strict=True))  # type: ignore[arg-type]
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    for now, then in zip(snapshot(made), before, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(now, then, strict=True))  # type: ignore[arg-type]


def test_scaling_leaves_the_target_alone() -> None:
    made = filled(2, {1: {0}})
    before = snapshot(made)
    made.scale(0.25)
    after = snapshot(made)
    assert_same_gradients(after[0], before[0], 0.0)
    for which in (1, 2):
        assert_same_gradients(after[which], [None if g is None else g / 4 for g in before[which]], 1e-15)


def test_drop_leaves_nothing_stale() -> None:
    made = filled(2)
    made.drop()
    assert [p.grad for p in made.parameters] == [None] * len(SHAPES)
    assert made.others == [[None] * len(SHAPES)] * 2
