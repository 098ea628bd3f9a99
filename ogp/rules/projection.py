"""Gradient difference, and projection off the span of the other gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ogp.rules.gramian import PARALLEL, TARGET, Role, below_noise, cosines, signs, with_target

When = Literal["always", "aligned", "conflicting"]


def difference(
    gramian: Tensor, w_target: float = 1.0, w_opposed: float = 1.0, *, roles: Sequence[Role] = ("opposed",)
) -> Tensor:
    """w_target g_t - w_opposed sum of the opposed + w_opposed sum of the protected gradients.

    GradDiff with one opposed gradient; a penalty or replay with one protected. `gramian` [..., 1 + k, 1 + k] gives the
    shape only; returns weights [..., 1 + k].
    """
    others = -w_opposed * signs(gramian, roles)
    return with_target(gramian, w_target, others.expand_as(gramian[..., TARGET, 1:]))


def orthogonal(
    gramian: Tensor,
    when: When = "always",
    w_target: float = 1.0,
    w_opposed: float = 1.0,
    noise: float = 1e-4,
    *,
    roles: Sequence[Role] = ("opposed",),
    pull: float = 0.0,
    cosine_limit: float = 0.0,
) -> Tensor:
    """w_target g_t - w_opposed r, where r is the part of g_t in the span of those gradients on which `when` holds.

    For one gradient r = (G_to / G_oo) g_o.

    Args:
        gramian: [..., 1 + k, 1 + k], float64.
        when: `always`; `aligned` projects only off gradients with G_ti > 0; `conflicting` only off those with
            G_ti < 0 (PCGrad, A-GEM).
        noise: gradients with |g_i| <= noise |g_t| are left alone, see `below_noise`.
        roles: of the k gradients after the target; only `pull` looks at them.
        pull: adds this multiple of every protected gradient (SafeGrad's rho).
        cosine_limit: stop where |cosine| of g_t - r with that span is this; 0 removes everything (GRU: 0.5).

    Returns:
        Weights [..., 1 + k]; NaN where the Gramian is not finite.
    """
    used = ~below_noise(gramian, noise)
    product = gramian[..., TARGET, 1:]
    if when != "always":
        used = used & (product > 0 if when == "aligned" else product < 0)
    others, to_target, ratio = cosines(gramian, used)
    shares = (torch.linalg.pinv(others, rtol=PARALLEL, hermitian=True) @ to_target[..., None])[..., 0]
    if cosine_limit:
        inside = (shares * to_target).sum(-1, keepdim=True).clamp(min=0, max=1)  # squared cosine of g_t and the span
        kept = cosine_limit / math.sqrt(1 - cosine_limit**2) * ((1 - inside) / inside.clamp(min=1e-300)).sqrt()
        shares = shares * (1 - kept).clamp(min=0)
    weights = -w_opposed * shares * ratio
    if pull:
        protected = (signs(gramian, roles) < 0) & ~below_noise(gramian, noise)
        weights = weights + pull * protected.to(weights.dtype)
    return with_target(gramian, w_target, weights)
