"""The change AdamW really makes, and the same change made orthogonal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ogp.config import MethodSettings
from ogp.step.applied_update import correct_update, update_products
from ogp.step.gradients import GradientSet
from ogp.step.method import Method
from tests.step.test_gradients import filled


def adamw(made: GradientSet, decay: float, fused: bool = False) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = [
        {"params": made.parameters[:2], "lr": 1e-2, "weight_decay": decay},
        {"params": made.parameters[2:], "lr": 3e-3},
    ]
    return torch.optim.AdamW(groups, weight_decay=0.0, fused=fused)


def stepped(made: GradientSet, optimizer: torch.optim.Optimizer, steps: int) -> Tensor:
    """Steps on fresh target gradients; the flat change of the last one."""
    for step in range(steps):
        for p, source in zip(made.parameters, filled(seed=step).parameters, strict=True):
            p.grad = source.grad.to(p) if source.grad is not None else None
        before = [p.detach().clone() for p in made.parameters]
        optimizer.step()
    return change(made, before)


def change(made: GradientSet, before: list[Tensor]) -> Tensor:
    return torch.cat(
        [(p.detach().double() - b.double()).flatten() for p, b in zip(made.parameters, before, strict=True)]
    )


def flat(held: list[Tensor | None]) -> Tensor:
    return torch.cat([g.double().flatten() for g in held if g is not None])


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("steps", [1, 4])
def test_products_are_those_of_the_real_change(decay: float, fused: bool, steps: int) -> None:
    made = filled(2)
    optimizer = adamw(made, decay, fused)
    rows = torch.stack([stepped(made, optimizer, steps), *(flat(held) for held in made.others)])
    assert torch.allclose(update_products(optimizer, made).sum(0), rows @ rows.T, rtol=1e-9)


def test_parameters_that_do_not_move_are_no_part_of_it() -> None:
    """For want of a gradient, or of a learning rate."""
    made = filled(missing={0: {0}})
    parked, *rest = made.parameters[1:]
    optimizer = torch.optim.AdamW(
        [{"params": [made.parameters[0], *rest], "lr": 1e-2}, {"params": [parked], "lr": 0.0}], weight_decay=0.1
    )
    before = [p.detach().clone() for p in made.parameters]
    optimizer.step()
    table = update_products(optimizer, made)
    assert not table[:2].any()
    moved = change(made, before)[21 + 5 :]
    opposed = flat(made.others[0][2:])
    assert torch.allclose(table.sum(0)[0], torch.stack([moved @ moved, moved @ opposed]), rtol=1e-9)
    correct_update(optimizer, made, torch.ones(3, 2, dtype=torch.float64))
    assert all(torch.equal(p, b) for p, b in zip(made.parameters[:2], before[:2], strict=True))
    assert not torch.equal(made.parameters[2], before[2])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("rule", ["orthogonal", "cone"])
@pytest.mark.parametrize("granularity", [[0] * 5, [0, 0, 1, 2, 1], [0, 1, 2, 3, 4]])
def test_the_corrected_change_is_orthogonal_and_the_closest_such(
    dtype: torch.dtype, rule: Any, granularity: list[int]
) -> None:
    made = filled(1)
    made.parameters = [torch.nn.Parameter(p.detach().to(dtype)) for p in made.parameters]
    made.others = [[None if g is None else g.to(dtype) for g in held] for held in made.others]
    made.groups = torch.tensor(granularity)
    optimizer = adamw(made, 0.3)
    settings = MethodSettings(space="update", rule=rule)
    method = Method(settings, made, torch.zeros(5, dtype=torch.long), noise=1e-6)
    for p, source in zip(made.parameters, filled(seed=3).parameters, strict=True):
        p.grad = source.grad.to(p) if source.grad is not None else None
    before = [p.detach().clone() for p in made.parameters]
    held = [None if g is None else g.clone() for g in made.others[0]]
    method.begin(0)
    made.others = [held]
    method.combine()
    optimizer.step()
    plain = change(made, before)
    record, total = method.after_step(optimizer)
    applied, opposed = change(made, before), flat(held)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-4  # of parameters 300 times as long as their change
    start = 0
    for i, p in enumerate(made.parameters if max(granularity) == 4 else []):  # every tensor on its own
        part = slice(start, start + p.numel())
        start += p.numel()
        limit = tolerance * float(plain[part].norm() * opposed[part].norm())
        along = float(applied[part] @ opposed[part])
        assert abs(along) <= limit or (rule == "cone" and along > 0), i
    if max(granularity) == 0:
        share = (plain @ opposed) / (opposed @ opposed)
        against = rule == "cone" and share > 0  # a change against g raises its loss: what an opposed one may do
        expected = plain if against else plain - share * opposed
        assert (applied - expected).norm() <= tolerance * plain.norm()
    rows = torch.stack([applied, opposed])
    scale = rows.norm(dim=1)[:, None] * rows.norm(dim=1)
    assert ((total - rows @ rows.T).abs() <= 3 * tolerance * scale).all()
    assert set(record) >= {"removed_fraction", "projected", "skipped", "update_cosine"}
