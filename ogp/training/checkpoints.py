"""Checkpoints to be trusted: sealed with hashes once written, the older one kept until the newer one is sealed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from ogp.embedded import is_complete, write_manifest
from ogp.runs.exit_codes import disk_full

CHECKPOINTS = "checkpoints"


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint in `folder` whose files are all as they were written; None starts from the beginning.

    Trainer would resume from a torn one, and go on with a fresh optimizer where that file is missing. What is not
    whole is deleted, and one line on standard output says so.
    """
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True)
    for checkpoint in found:
        if is_complete(checkpoint):
            return checkpoint
        print(f"{checkpoint.name} is not whole: deleted", flush=True)
        shutil.rmtree(checkpoint)
    return None


def seal(checkpoint: Path) -> None:
    """Make a written checkpoint durable and trusted; only then are older ones deleted."""
    for path in checkpoint.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    write_manifest(checkpoint)
    for other in checkpoint.parent.glob("checkpoint-*"):
        if other != checkpoint:
            shutil.rmtree(other)


def check_room(folder: Path, model: Any) -> None:
    """OSError, before anything is written, where a checkpoint of `model` and its two AdamW moments does not fit."""
    parameters = list(model.parameters())
    trained = sum(p.numel() * p.element_size() for p in parameters if p.requires_grad)
    saved = trained if hasattr(model, "peft_config") else sum(p.numel() * p.element_size() for p in parameters)
    needs = saved + 2 * trained
    if shutil.disk_usage(folder).free < needs:
        raise disk_full(folder, needs)
