"""The closest update that goes along none of the opposed gradients and against none of the protected ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from ogp.rules.gramian import PARALLEL, Role, below_noise, cosines, signs, with_target

MOST_GRADIENTS = 8
"""All 2^k sets of active constraints are tried; more gradients than this would not fit beside a model anyway."""


def cone(
    gramian: Tensor,
    w_target: float = 1.0,
    w_opposed: float = 1.0,
    noise: float = 1e-4,
    *,
    roles: Sequence[Role] = ("opposed",),
) -> Tensor:
    """w_target g_t - w_opposed (g_t - d), where d is the vector closest to g_t with <d, s_i g_i> <= 0 for all i.

    s_i is +1 for opposed and -1 for protected gradients. The dual of this problem (GEM's, Lopez-Paz and Ranzato 2017,
    with roles) is d = g_t - sum_i lambda_i s_i g_i, lambda >= 0, and lambda solves a linear system on the constraints
    that hold with equality. Every set of these is tried and the one that violates the optimality conditions least is
    kept: exact up to rounding, and at home with parallel, opposite and missing gradients.

    Args:
        gramian: [..., 1 + k, 1 + k], float64, k <= 8.
        noise: gradients with |g_i| <= noise |g_t| are left alone, see `below_noise`.

    Returns:
        Weights [..., 1 + k]; NaN where the Gramian is not finite.
    """
    count = len(roles)
    if count > MOST_GRADIENTS:
        raise ValueError(f"`gradients`: the cone takes at most {MOST_GRADIENTS}, found {count}: leave some out")
    sign = signs(gramian, roles)
    others, to_target, ratio = cosines(gramian, ~below_noise(gramian, noise))
    others, to_target = others * sign[:, None] * sign, to_target * sign
    active = torch.tensor(list(product((0.0, 1.0), repeat=count)), dtype=gramian.dtype)
    systems = others[..., None, :, :] * active[:, :, None] * active[:, None, :]
    right = to_target[..., None, :] * active
    tried = (torch.linalg.pinv(systems, rtol=PARALLEL, hermitian=True) @ right[..., None])[..., 0]
    along = to_target[..., None, :] - (others[..., None, :, :] @ tried[..., None])[..., 0]
    violation = torch.maximum(along, -tried).amax(-1)
    best = violation.argmin(-1, keepdim=True)[..., None].expand(*violation.shape[:-1], 1, count)
    shares = tried.gather(-2, best)[..., 0, :].clamp(min=0)
    return with_target(gramian, w_target, -w_opposed * shares * sign * ratio)
