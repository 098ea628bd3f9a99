"""Difference and projection with one gradient and with several, and what their switches do."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ogp.rules import When, below_noise, difference, orthogonal
from tests.rules.vectors import SCALES, gradients, gramian, made, update

WHEN: tuple[When, ...] = ("always", "aligned", "conflicting")


@settings(max_examples=200, deadline=None)
@given(gradients(most=1))
def test_aligned_and_conflicting_split_always_between_them(case: tuple[Tensor, Tensor]) -> None:
    matrix = gramian(*case)
    always, aligned, conflicting = (orthogonal(matrix, when)[1] for when in WHEN)
    assert always == aligned + conflicting
    assert aligned <= 0 <= conflicting  # along the opposed gradient is taken away, against it is added back
    assert matrix[0, 1] > 0 or aligned == 0
    assert matrix[0, 1] < 0 or conflicting == 0


@settings(max_examples=200, deadline=None)
@given(gradients(least=2))
def test_several_gradients_are_removed_with_their_whole_span(case: tuple[Tensor, Tensor]) -> None:
    """Against least squares on the unit vectors themselves."""
    target, others = case
    found = update(target, others, orthogonal(gramian(target, others), noise=0.0, roles=["opposed"] * len(others)))
    units = others / torch.where(others.norm(dim=1) > 0, others.norm(dim=1), torch.ones(1).double())[:, None]
    expected = target - torch.linalg.pinv(units.T, rtol=1e-6) @ target @ units
    assert (found - expected).norm() <= 1e-8 * target.norm() + 1e-300


def test_when_looks_at_each_gradient() -> None:
    target = torch.tensor([1.0, -1.0, 3.0], dtype=torch.float64)
    others = torch.eye(3, dtype=torch.float64)[:2] * torch.tensor([[2.0], [5.0]])
    table = gramian(target, others)
    for when, expected in (
        ("always", [0.0, 0.0, 3.0]),
        ("aligned", [0.0, -1.0, 3.0]),
        ("conflicting", [1.0, 0.0, 3.0]),
    ):
        weights = orthogonal(table, when, roles=["opposed"] * 2)  # type: ignore[arg-type]
        assert update(target, others, weights).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("scale", SCALES[1:])
def test_the_noise_guard_is_relative(scale: float) -> None:
    target, others = made(scale, [(scale, "random")], seed=3)
    others = others / others.norm() * target.norm()
    for size, quiet in ((0.9e-4, True), (1.1e-4, False)):
        matrix = gramian(target, others * size)
        assert below_noise(matrix, 1e-4).tolist() == [quiet]
        assert (orthogonal(matrix, noise=1e-4)[1] == 0) == quiet


@pytest.mark.parametrize("w_opposed", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("w_target", [0.0, 0.7])
def test_strength_scales_the_removed_part(w_opposed: float, w_target: float) -> None:
    target, others = made(1.0, [(3.0, "random")], seed=5)
    result = update(target, others, orthogonal(gramian(target, others), "always", w_target, w_opposed))
    removed = (target @ others[0]) / (others[0] @ others[0]) * others[0]
    assert torch.allclose(result, w_target * target - w_opposed * removed, atol=1e-12)


@settings(max_examples=200, deadline=None)
@given(gradients(), st.sampled_from((0.1, 0.5, 0.9)))
def test_a_cosine_limit_stops_where_it_says(case: tuple[Tensor, Tensor], limit: float) -> None:
    """What is left has the limit as its cosine with the span, or kept its own smaller one; the rest is untouched."""
    target, others = case
    table, roles = gramian(target, others), ["opposed"] * len(others)
    whole = update(target, others, orthogonal(table, noise=0.0, roles=roles))  # type: ignore[arg-type]
    limited = update(target, others, orthogonal(table, noise=0.0, roles=roles, cosine_limit=limit))  # type: ignore[arg-type]
    inside, outside = (target - whole).norm(), whole.norm()
    if outside <= 1e-6 * target.norm():
        return  # nothing but the span: no cosine to keep
    before = inside / target.norm()
    left = (limited - whole).norm() / limited.norm()
    assert left == pytest.approx(min(limit, float(before)), abs=1e-6)
    assert abs((limited - whole) @ whole) <= 1e-6 * target.norm() ** 2


def test_a_cosine_limit_respects_when() -> None:
    """With `conflicting` and 0.5 this is GRU's rule: a cosine below -0.5 is raised to it, others stay."""
    other = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    for angle, expected in ((150.0, -0.5), (120.0, -0.5), (100.0, None), (30.0, None)):
        target = torch.tensor([angle, 90 - angle], dtype=torch.float64).deg2rad().cos()
        weights = orthogonal(gramian(target, other), "conflicting", roles=["protected"], cosine_limit=0.5)
        result = update(target, other, weights)
        if expected is None:
            assert weights.tolist() == [1.0, 0.0]
        else:
            assert float(result[0] / result.norm()) == pytest.approx(expected)


def test_pull_adds_protected_gradients_that_are_more_than_noise() -> None:
    target, others = made(1.0, [(1.0, "random"), (1.0, "random"), (1e-9, "random")], seed=1)
    table = gramian(target, others)
    roles = ["opposed", "protected", "protected"]
    plain = orthogonal(table, "conflicting", roles=roles)  # type: ignore[arg-type]
    pulled = orthogonal(table, "conflicting", roles=roles, pull=0.3)  # type: ignore[arg-type]
    assert (pulled - plain).tolist() == pytest.approx([0.0, 0.0, 0.3, 0.0])


@pytest.mark.parametrize("direction", ["random", "parallel", "opposite", "perpendicular"])
def test_difference_subtracts_opposed_and_adds_protected_whatever_the_angle(direction: str) -> None:
    target, others = made(2.0, [(3.0, direction), (0.5, direction)], seed=1)
    weights = difference(gramian(target, others), 0.5, 2.0, roles=["opposed", "protected"])
    assert torch.allclose(update(target, others, weights), 0.5 * target - 2.0 * others[0] + 2.0 * others[1])
