"""One line of the doctor's report, and the words for sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """What was found about a topic. `problem`: a default run would fail; `note`: it would not, but you should know."""

    level: Literal["ok", "note", "problem"]
    topic: str
    found: str
    remedy: str = ""


def size(count: float) -> str:
    """Bytes as GiB or MiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
