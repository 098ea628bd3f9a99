"""The cone against scipy's bounded least squares, cases done by hand, and the projection it contains."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear
from torch import Tensor

from ogp.rules import cone, orthogonal
from tests.rules.vectors import SCALES, gradients, gramian, made, update


def by_scipy(target: Tensor, columns: Tensor) -> np.ndarray:
    """target - B lambda, lambda = argmin |B lambda - target| >= 0.

    Not by scipy's `nnls`: where the target is perpendicular to all columns its 1.17 returns worse than lambda = 0.
    """
    b = columns.numpy().T
    return target.numpy() - b @ lsq_linear(b, target.numpy(), bounds=(0, np.inf), method="bvls", tol=1e-14).x


def outward(others: Tensor, roles: list[Any]) -> Tensor:
    """Unit normals [k, size] of the half-spaces the update has to stay in; zeros for missing gradients."""
    norms = others.norm(dim=1)
    sign = torch.tensor([1.0 if role == "opposed" else -1.0 for role in roles])
    return others * (sign / torch.where(norms > 0, norms, torch.ones_like(norms)))[:, None]


MIXES = st.lists(st.sampled_from(("opposed", "protected")), min_size=4, max_size=4)


@settings(max_examples=300, deadline=None)
@given(gradients(), MIXES)
def test_it_is_what_scipy_finds(case: tuple[Tensor, Tensor], roles: list[Any]) -> None:
    """Wherever scipy's answer is sound: no gradient parallel to another."""
    target, others = case
    others = others[others.norm(dim=1) > 0]
    roles, size = roles[: len(others)], float(target.norm()) or 1.0
    normals = outward(others, roles)
    if len(others) == 0 or torch.linalg.svdvals(normals)[-1] < 1e-3:
        return
    found = update(target, others, cone(gramian(target, others), noise=0.0, roles=roles))
    assert np.abs(found.numpy() / size - by_scipy(target / size, normals)).max() <= 1e-9


@settings(max_examples=300, deadline=None)
@given(gradients(), MIXES)
def test_the_optimality_conditions_hold_whatever_the_gradients(case: tuple[Tensor, Tensor], roles: list[Any]) -> None:
    """d lies in the cone, t - d in the normals' cone, and they are perpendicular: Moreau's characterisation."""
    target, others = case
    roles, size = roles[: len(others)], float(target.norm()) + 1e-300
    weights = cone(gramian(target, others), noise=0.0, roles=roles)
    found = update(target, others, weights)
    assert float((outward(others, roles) @ found).max()) <= 1e-9 * size
    sign = torch.tensor([1.0 if role == "opposed" else -1.0 for role in roles])
    assert (weights[1:] * sign <= 0).all()
    assert abs(float((target - found) @ found)) <= 1e-9 * size**2 + 1e-300


@pytest.mark.parametrize("role", ["opposed", "protected"])
@pytest.mark.parametrize("target_scale", SCALES)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("direction", ["random", "parallel", "opposite", "perpendicular"])
def test_one_constraint_is_the_projection_that_is_aligned(
    role: Any, target_scale: float, scale: float, direction: str
) -> None:
    """For a protected gradient it is the one that is conflicting: A-GEM."""
    when = "aligned" if role == "opposed" else "conflicting"
    for seed in range(5):
        table = gramian(*made(target_scale, [(scale, direction)], seed))
        for strength in (1.0, 0.5, 2.0):
            a = cone(table, 0.7, strength, roles=[role])
            b = orthogonal(table, when, 0.7, strength, roles=[role])  # type: ignore[arg-type]
            assert torch.allclose(a, b, rtol=1e-12)


def test_two_constraints_in_the_plane() -> None:
    """By hand: opposed to x and y, a target in the first quadrant is blocked, one in the second loses its y."""
    others = torch.eye(2, dtype=torch.float64)
    for target, expected in (([3.0, 1.0], [0.0, 0.0]), ([-3.0, 1.0], [-3.0, 0.0]), ([-1.0, -1.0], [-1.0, -1.0])):
        t = torch.tensor(target, dtype=torch.float64)
        assert update(t, others, cone(gramian(t, others), roles=["opposed"] * 2)).tolist() == pytest.approx(expected)


def test_going_along_one_of_two_close_gradients_is_not_left_in() -> None:
    """Projecting off each in turn would leave a component along the first: the cone leaves none."""
    t = torch.tensor([1.0, 0.2, 0.1], dtype=torch.float64)
    others = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0]], dtype=torch.float64)
    result = update(t, others, cone(gramian(t, others), roles=["opposed"] * 2))
    assert (others @ result).max() <= 1e-12


@pytest.mark.parametrize("count", [5, 8])
def test_more_than_four_are_exact_too(count: int) -> None:
    for seed in range(10):
        target, others = made(1.0, [(1.0, "random")] * count, seed)
        result = update(target, others, cone(gramian(target, others), roles=["opposed"] * count))
        assert np.abs(result.numpy() - by_scipy(target, others)).max() <= 1e-7


def test_too_many_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`gradients`: the cone takes at most 8, found 9"):
        cone(torch.eye(10, dtype=torch.float64), roles=["opposed"] * 9)


def test_noise_is_left_alone() -> None:
    target, others = made(1.0, [(1.0, "parallel"), (1e-7, "random")], seed=0)
    weights = cone(gramian(target, others), roles=["opposed", "protected"])
    assert weights[2] == 0
    assert weights[1] == pytest.approx(-1.0)
