"""Hostile sets of gradients: every scale and direction a rule must stand, with a known target."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor

SIZE = 9
SCALES = (0.0, 1e-10, 1e-5, 1.0, 1e5, 1e15)
DIRECTIONS = ("random", "parallel", "opposite", "perpendicular", "another's", "against another")


@st.composite
def gradients(draw: st.DrawFn, most: int = 4, least: int = 1) -> tuple[Tensor, Tensor]:
    """A target [SIZE] and `least` .. `most` other gradients [k, SIZE]."""
    target_scale = draw(st.sampled_from(SCALES))
    kinds = draw(
        st.lists(st.tuples(st.sampled_from(SCALES), st.sampled_from(DIRECTIONS)), min_size=least, max_size=most)
    )
    return made(target_scale, kinds, draw(st.integers(0, 10_000)))


def made(target_scale: float, kinds: Sequence[tuple[float, str]], seed: int) -> tuple[Tensor, Tensor]:
    """Target and others of the given scales and directions; the last two directions refer to the gradient before."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(SIZE, generator=generator, dtype=torch.float64)
    units: list[Tensor] = []
    for _, direction in kinds:
        fresh = torch.randn(SIZE, generator=generator, dtype=torch.float64)
        before = units[-1] if units else fresh
        units.append(
            {
                "random": fresh,
                "parallel": target,
                "opposite": -target,
                "perpendicular": fresh - (fresh @ target) / (target @ target) * target,
                "another's": before,
                "against another": -before,
            }[direction]
        )
    others = torch.stack([scale * unit for (scale, _), unit in zip(kinds, units, strict=True)])
    return target * target_scale, others


def gramian(target: Tensor, others: Tensor) -> Tensor:
    """[1 + k, 1 + k] inner products."""
    rows = torch.cat([target[None], others])
    return rows @ rows.T


def update(target: Tensor, others: Tensor, weights: Tensor) -> Tensor:
    """The vector that `weights` stand for."""
    return weights[0] * target + weights[1:] @ others
