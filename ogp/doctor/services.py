"""Services beyond this machine: the Hugging Face hub and Weights & Biases. Half a second each, and nothing is sent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from netrc import NetrcParseError, netrc
from urllib.parse import urlsplit

from ogp.doctor.finding import Finding
from ogp.network import hub_address, hub_allowed, why_unreachable

WANDB = "https://api.wandb.ai"


def hub() -> Iterator[Finding]:
    """Whether models and data can come from the hub."""
    token = "HF_TOKEN is set" if os.environ.get("HF_TOKEN") else "no HF_TOKEN (gated models and data need one)"
    if not hub_allowed():
        yield Finding("ok", "hub", "HF_HUB_OFFLINE is set: local models and data only")
        return
    reason = why_unreachable(hub_address())
    if reason:
        remedy = "use an embedded model, a model folder, a .jsonl file, or what the hub cache already has"
        yield Finding("note", "hub", f"not reachable: {reason}; {token}", remedy)
    else:
        yield Finding("ok", "hub", f"{hub_address()} answers; {token}")


def wandb() -> Iterator[Finding]:
    """Whether `tracking.wandb: online` would find a server and a key."""
    mode = os.environ.get("WANDB_MODE", "")
    if mode in {"offline", "disabled"}:
        yield Finding("ok", "W&B", f"WANDB_MODE is {mode}")
        return
    address = os.environ.get("WANDB_BASE_URL") or WANDB
    reason, key = why_unreachable(address), _has_key(address)
    found = f"not reachable: {reason}" if reason else f"{address} answers"
    found += "; an API key is set" if key else "; no API key"
    remedy = "runs go on without it; for `tracking.wandb: online` set WANDB_API_KEY, elsewhere use offline"
    yield Finding("note", "W&B", found, remedy) if reason or not key else Finding("ok", "W&B", found)


def _has_key(address: str) -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc(os.environ.get("NETRC")).authenticators(urlsplit(address).hostname or "") is not None
    except (OSError, NetrcParseError):
        return False
