"""Rules of other people, through torchjd (extra `peers`): baselines that treat all gradients alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ogp.rules.gramian import TARGET, Role, marked, signs


def peer(
    gramian: Tensor, name: str, w_target: float = 1.0, w_opposed: float = 1.0, *, roles: Sequence[Role] = ("opposed",)
) -> Tensor:
    """Weights [..., 1 + k] by torchjd's `name` for w_target g_t, -w_opposed g_opposed and w_opposed g_protected.

    torchjd lowers all its losses, and an opposed loss is one to raise, so its gradient goes in with a minus.
    `name` is one of PCGrad, UPGrad, MGDA, AlignedMTL, IMTLG. NaN where the Gramian is not finite.
    """
    try:
        from torchjd import aggregation
    except ImportError as error:
        raise ValueError(
            f"`method.rule`: 'torchjd:{name}' needs torchjd: pip install 'ogp[peers]', or choose another rule"
        ) from error
    weighting = getattr(aggregation, f"{name}Weighting")()
    scale = torch.cat([gramian.new_tensor([w_target]), -w_opposed * signs(gramian, roles)])
    signed = gramian * scale[:, None] * scale
    flat = signed.reshape(-1, *signed.shape[-2:])
    found = [weighting(each) if each.isfinite().all() else torch.zeros_like(each[TARGET]) for each in flat]
    return marked(gramian, torch.stack(found).view(gramian.shape[:-1]) * scale)
