"""How gradients are weighed against each other: pure functions of their matrix of inner products, the Gramian.

Index 0 of a Gramian [..., 1 + k, 1 + k] is the target gradient, the others are opposed or protected ones, and the
update is `sum_i weights[i] * g_i`. Leading dimensions are independent groups of parameters (see `granularity` in the
settings). No rule ever sees a gradient itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ogp.rules.cone import cone
from ogp.rules.gramian import OPPOSED, TARGET, Role, below_noise, marked, signs
from ogp.rules.peers import peer
from ogp.rules.projection import When, difference, orthogonal

__all__ = ["OPPOSED", "TARGET", "When", "below_noise", "cone", "difference", "orthogonal", "peer", "signs", "weigh"]


def weigh(
    gramian: Tensor,
    rule: str,
    when: When = "always",
    w_target: float = 1.0,
    w_opposed: float = 1.0,
    noise: float = 1e-4,
    *,
    roles: Sequence[Role | Literal["followed"]] = ("opposed",),
    factors: Sequence[float] | None = None,
    pull: float = 0.0,
    cosine_limit: float = 0.0,
) -> Tensor:
    """Weights [..., 1 + k] of `rule` for `gramian` [..., 1 + k, 1 + k]; what a rule does not use is ignored.

    Args:
        rule: none, difference, orthogonal, cone, or torchjd:NAME; see `difference`, `orthogonal`, `cone`, `peer`.
        roles: of the k gradients after the target. A `followed` one is added to the update outside of the rule.
        factors: what each of the k gradients is multiplied by beforehand; projections do not feel it.
    """
    scale = gramian.new_tensor([1.0, *(factors or [1.0] * len(roles))])
    scaled = gramian * scale[:, None] * scale
    ruled = [i for i, role in enumerate(roles) if role != "followed"]
    kinds: list[Role] = [role for role in roles if role != "followed"]
    places = [TARGET, *(OPPOSED + i for i in ruled)]
    part = scaled[..., places, :][..., places]
    match rule if kinds else "none":
        case "none":
            found = difference(part, w_target if rule != "none" else 1.0, 0.0, roles=kinds)
        case "difference":
            found = difference(part, w_target, w_opposed, roles=kinds)
        case "orthogonal":
            found = orthogonal(
                part, when, w_target, w_opposed, noise, roles=kinds, pull=pull, cosine_limit=cosine_limit
            )
        case "cone":
            found = cone(part, w_target, w_opposed, noise, roles=kinds)
        case _:
            found = peer(part, rule.removeprefix("torchjd:"), w_target, w_opposed, roles=kinds)
    weights = torch.ones_like(gramian[..., TARGET])
    weights[..., places] = found
    return marked(gramian, weights * scale)
