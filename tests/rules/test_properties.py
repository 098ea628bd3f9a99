"""What every projection must do, asserted once for all of them, over hostile gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ogp.rules import cone, orthogonal, weigh
from tests.rules.vectors import SCALES, gradients, gramian, made, update

Weigh = Callable[[Tensor], Tensor]


def alternating(gramian: Tensor) -> list[Any]:
    return [("opposed", "protected")[i % 2] for i in range(gramian.shape[-1] - 1)]


def all_of(role: str, gramian: Tensor) -> list[Any]:
    return [role] * (gramian.shape[-1] - 1)


PROJECTIONS: dict[str, Weigh] = {
    "always": lambda g: orthogonal(g, "always", noise=0.0, roles=all_of("opposed", g)),
    "aligned": lambda g: orthogonal(g, "aligned", noise=0.0, roles=all_of("opposed", g)),
    "conflicting": lambda g: orthogonal(g, "conflicting", noise=0.0, roles=all_of("protected", g)),
    "limited": lambda g: orthogonal(g, "always", noise=0.0, roles=all_of("opposed", g), cosine_limit=0.3),
    "cone of opposed": lambda g: cone(g, noise=0.0, roles=all_of("opposed", g)),
    "cone of protected": lambda g: cone(g, noise=0.0, roles=all_of("protected", g)),
    "cone of both": lambda g: cone(g, noise=0.0, roles=alternating(g)),
}
each = pytest.mark.parametrize("name", PROJECTIONS)
HARD = settings(max_examples=150, deadline=None)


def allowance(target: Tensor) -> float:
    return 1e-9 * float(target.norm()) + 1e-300


def rounding(name: str) -> float:
    """The limit needs the sine of an angle whose cosine is known: half of the digits are lost where it is small."""
    return 1e-6 if name == "limited" else 1e-8


def along(vector: Tensor, others: Tensor) -> Tensor:
    """Length of `vector` along each of `others`, 0 along a missing one."""
    norms = others.norm(dim=1)
    return others @ vector / torch.where(norms > 0, norms, torch.ones_like(norms))


@each
@HARD
@given(case=gradients())
def test_what_had_to_go_is_gone(name: str, case: tuple[Tensor, Tensor]) -> None:
    target, others = case
    before, after = along(target, others), along(update(*case, PROJECTIONS[name](gramian(*case))), others)
    near = allowance(target)
    if name == "always":
        assert after.abs().max() <= near
    elif name in ("aligned", "conflicting"):
        chosen = before > near if name == "aligned" else before < -near
        assert not chosen.any() or after[chosen].abs().max() <= near
    elif name == "cone of opposed":
        assert after.max() <= near
    elif name == "cone of protected":
        assert after.min() >= -near
    elif name == "cone of both":
        assert after[0::2].max() <= near
        assert after[1::2].numel() == 0 or after[1::2].min() >= -near


@each
@HARD
@given(case=gradients())
def test_never_longer_than_the_target(name: str, case: tuple[Tensor, Tensor]) -> None:
    result = update(*case, PROJECTIONS[name](gramian(*case)))
    assert result.isfinite().all()
    assert result.norm() <= case[0].norm() * (1 + 1e-9)


@each
@HARD
@given(case=gradients(most=3))
def test_twice_changes_nothing(name: str, case: tuple[Tensor, Tensor]) -> None:
    target, others = case
    once = update(*case, PROJECTIONS[name](gramian(*case)))
    if name in ("aligned", "conflicting") and len(others) > 1:
        return  # what is left may be aligned with a gradient that was not in the way before: see the cone
    twice = update(once, others, PROJECTIONS[name](gramian(once, others)))
    assert (once - twice).norm() <= rounding(name) * target.norm() + 1e-300


@each
@HARD
@given(case=gradients(), factor=st.sampled_from((1e-10, 1e-5, 1e5, 1e15)), which=st.integers(0, 3))
def test_the_scale_of_an_opposed_loss_cancels(
    name: str, case: tuple[Tensor, Tensor], factor: float, which: int
) -> None:
    target, others = case
    lengths = along(target, others).abs()
    if name in ("aligned", "conflicting") and (lengths[others.norm(dim=1) > 0] < allowance(target)).any():
        return  # perpendicular up to rounding: on which side it is, is chance
    scaled = others.clone()
    scaled[which % len(others)] *= factor
    plain = update(target, others, PROJECTIONS[name](gramian(target, others)))
    again = update(target, scaled, PROJECTIONS[name](gramian(target, scaled)))
    assert (plain - again).norm() <= rounding(name) * target.norm() + 1e-300


@each
def test_without_other_gradients_the_target_is_followed_as_it_is(name: str) -> None:
    for count in range(1, 5):
        target, others = made(2.0, [(0.0, "random")] * count, seed=count)
        assert PROJECTIONS[name](gramian(target, others)).tolist() == [1.0] + [0.0] * count


@each
def test_a_zero_target_stays_zero(name: str) -> None:
    target, others = made(0.0, [(1.0, "random")] * 3, seed=1)
    assert update(target, others, PROJECTIONS[name](gramian(target, others))).tolist() == [0.0] * len(target)


@each
def test_groups_are_weighed_one_by_one(name: str) -> None:
    cases = [made(t, [(o, "random"), (1.0, d)], 7) for t in SCALES for o in SCALES for d in ("opposite", "another's")]
    batched = PROJECTIONS[name](torch.stack([gramian(*case) for case in cases]))
    for case, weights in zip(cases, batched, strict=True):
        assert torch.allclose(update(*case, weights), update(*case, PROJECTIONS[name](gramian(*case))), rtol=1e-12)


RULES: Sequence[tuple[str, dict[str, Any]]] = [
    ("none", {}),
    ("difference", {}),
    ("orthogonal", {}),
    ("orthogonal", {"pull": 0.5, "cosine_limit": 0.5}),
    ("cone", {}),
]


@pytest.mark.parametrize(("rule", "options"), RULES)
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
@pytest.mark.parametrize("entry", [(0, 0), (0, 2), (1, 2), (3, 3)])
def test_a_broken_gradient_never_passes_for_a_plain_one(
    rule: str, options: dict[str, Any], broken: float, entry: tuple[int, int]
) -> None:
    healthy = gramian(*made(1.0, [(1.0, "random")] * 3, seed=0))
    sick = healthy.clone()
    sick[entry] = sick[entry[::-1]] = broken
    roles: list[Any] = ["opposed", "protected", "followed"]
    weights = weigh(torch.stack([healthy, sick]), rule, roles=roles, **options)
    assert weights[0].isfinite().all()
    assert weights[1].isnan().all()


@pytest.mark.parametrize("rule", ["difference", "orthogonal", "cone"])
def test_a_followed_gradient_is_added_outside_of_the_rule(rule: str) -> None:
    target, others = made(1.0, [(1.0, "random")] * 3, seed=4)
    roles: list[Any] = ["opposed", "followed", "protected"]
    found = weigh(gramian(target, others), rule, roles=roles, factors=[1.0, 0.25, 1.0])
    alone = weigh(gramian(target, others[[0, 2]]), rule, roles=["opposed", "protected"])
    assert found[1 + 1] == 0.25
    assert torch.allclose(found[[0, 1, 3]], alone)
    only = weigh(gramian(target, others[:1]), rule, w_target=0.5, roles=["followed"])
    assert only.tolist() == [0.5, 1.0]


def test_factors_count_for_sums_and_not_for_projections() -> None:
    target, others = made(1.0, [(1.0, "random")] * 2, seed=4)
    roles: list[Any] = ["opposed", "protected"]
    table = gramian(target, others)
    assert weigh(table, "difference", roles=roles, factors=[2.0, 3.0]).tolist() == [1.0, -2.0, 3.0]
    for rule in ("orthogonal", "cone"):
        assert torch.allclose(weigh(table, rule, roles=roles, factors=[2.0, 3.0]), weigh(table, rule, roles=roles))
