"""Weights & Biases as a mirror of the run's own record; whatever goes wrong there, the run goes on."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ogp.config import RunConfig
from ogp.redaction import redacted

_FAILED = "{}; the run goes on, its own record is complete"


class Mirror:
    """One W&B run per process, grouped by study; does nothing when `tracking.wandb` is disabled.

    No host names, paths or arguments are sent: system statistics, git and code capture are off.
    """

    def __init__(self, config: RunConfig, folder: Path) -> None:
        self._run: Any = None
        if config.tracking.wandb == "disabled":
            return
        import wandb

        try:
            self._run = wandb.init(
                project=config.tracking.wandb_project,
                group=config.study,
                name=f"{config.arm}-seed{config.seed}",
                config=redacted(config.model_dump(mode="json")),
                mode=config.tracking.wandb,
                dir=str(folder),
                settings=wandb.Settings(
                    silent=True, console="off", x_disable_stats=True, disable_git=True, save_code=False, init_timeout=20
                ),
            )
        except (wandb.Error, OSError) as error:  # no key, no network, time-out
            warnings.warn(f"tracking.wandb: {_FAILED.format(error)}", stacklevel=2)

    def log(self, values: dict[str, float], step: int) -> None:
        """Mirror scalar values at an optimizer step."""
        if self._run is not None:
            self._safely(self._run.log, values, step=step)

    def finish(self) -> None:
        """Close the W&B run."""
        if self._run is not None:
            self._safely(self._run.finish)

    def _safely(self, action: Callable[..., Any], *values: Any, **more: Any) -> None:
        """Whatever its service raises when it is killed or cut off, the mirror breaks and the run goes on."""
        try:
            action(*values, **more)
        except Exception as error:  # pipes, mailboxes, protocol buffers: any of them
            self._run = None
            warnings.warn(f"tracking.wandb: {_FAILED.format(error)}", stacklevel=3)
