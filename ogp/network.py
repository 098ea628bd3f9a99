"""Whether a service answers, known in half a second: libraries' own retries take 20 seconds and more to say no."""

from __future__ import annotations

import os
import socket
import threading
import urllib.request
from urllib.parse import urlsplit

PATIENCE = 0.5  # seconds
HUB = "https://huggingface.co"


def why_unreachable(url: str, seconds: float = PATIENCE) -> str:
    """Empty where the host of `url` (or the proxy that stands before it) takes a connection, else the reason.

    Looking up a name has no time limit of its own, so both happen in a thread that is left behind when time is up.
    """
    parts = urlsplit(url)
    proxies = urllib.request.getproxies()
    behind = proxies.get(parts.scheme) and not urllib.request.proxy_bypass(parts.hostname or "")
    where = urlsplit(proxies[parts.scheme]) if behind else parts
    host, port = where.hostname or "", where.port or (80 if where.scheme == "http" else 443)
    outcome = [f"no answer from {host}:{port} within {seconds:g} s"]

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=seconds).close()
            outcome[0] = ""
        except (OSError, UnicodeError) as error:
            outcome[0] = f"{host}:{port}: {error}"

    attempt = threading.Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(seconds + 0.1)
    return outcome[0]


def hub_address() -> str:
    """The hub that Hugging Face's libraries talk to."""
    return os.environ.get("HF_ENDPOINT") or HUB


def hub_allowed() -> bool:
    """Whether the hub may be asked: not where `HF_HUB_OFFLINE` is set."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() not in {"1", "true", "yes", "on"}


def hub_reachable() -> bool:
    """Whether the hub may be asked, and answers."""
    return hub_allowed() and not why_unreachable(hub_address())
