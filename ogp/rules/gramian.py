"""What all rules share: which gradient is which, when one is only noise, unit vectors, and groups that are broken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Role = Literal["opposed", "protected"]
"""Worked against (the update should not lower its loss), or to be kept (the update should not raise its loss)."""

TARGET, OPPOSED = 0, 1

PARALLEL = 1e-10
"""Eigenvalues of a matrix of cosines below this share of its largest one count as zero: about 1e-5 rad of angle."""


def signs(gramian: Tensor, roles: Sequence[Role]) -> Tensor:
    """[k]: +1 for opposed gradients, -1 for protected ones. To protect g is to oppose -g."""
    assert gramian.shape[-1] == gramian.shape[-2] == 1 + len(roles)
    return torch.tensor([1.0 if role == "opposed" else -1.0 for role in roles], dtype=gramian.dtype)


def below_noise(gramian: Tensor, noise: float) -> Tensor:
    """True [..., k] where |g_i| <= noise |g_target|: what is left of that gradient is rounding, as at step 0.

    The threshold is relative because every other measure depends on the scale of the losses.
    """
    squares = gramian.diagonal(dim1=-2, dim2=-1)
    return squares[..., OPPOSED:] <= noise**2 * squares[..., :OPPOSED]


def cosines(gramian: Tensor, used: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines [..., k, k] among the gradients after the target, [..., k] with the target, and ratios |g_t| / |g_i|.

    Where `used` [..., k] is False a gradient counts as orthogonal to all others; groups that are not finite come out
    finite and meaningless, and are named at the end by `marked`.
    """
    gramian = torch.where(_broken(gramian)[..., None, None], torch.zeros_like(gramian), gramian)
    norms = gramian.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    used = used & (norms[..., OPPOSED:] > 0)
    units = torch.where(norms > 0, norms, torch.ones_like(norms))
    table = gramian / units[..., :, None] / units[..., None, :]
    both = used[..., :, None] & used[..., None, :]
    others = torch.where(both, table[..., OPPOSED:, OPPOSED:], torch.eye(used.shape[-1], dtype=table.dtype))
    to_target = torch.where(used, table[..., TARGET, OPPOSED:], torch.zeros_like(table[..., TARGET, OPPOSED:]))
    return others, to_target, norms[..., :OPPOSED] / units[..., OPPOSED:]


def marked(gramian: Tensor, weights: Tensor) -> Tensor:
    """`weights` [..., 1 + k] with NaN in groups whose Gramian is not finite.

    NaN, so that a broken step can never pass for a plain one.
    """
    return torch.where(_broken(gramian)[..., None], torch.full_like(weights, float("nan")), weights)


def with_target(gramian: Tensor, w_target: float, others: Tensor) -> Tensor:
    """Weights [..., 1 + k] from that of the target and those of the `others` [..., k]; NaN in broken groups."""
    return marked(gramian, torch.cat([torch.full_like(gramian[..., TARGET, :1], w_target), others], dim=-1))


def _broken(gramian: Tensor) -> Tensor:
    return ~gramian.isfinite().flatten(-2).all(-1)
