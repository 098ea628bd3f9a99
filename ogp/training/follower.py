"""What every process but the first does where several train one run: train along. It writes nothing."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

from ogp.config import RunConfig
from ogp.models import load_model
from ogp.runs.progress import Silent
from ogp.training.distributed import choose_device, refuse_together
from ogp.training.stages import train
from ogp.training.trainer import Diverged
from ogp.training.training_data import training_examples


def follow(config: RunConfig, folder: Path, *, halved: bool = False) -> None:
    """Train what `run_experiment` trains in the first process, from the same model, examples and random numbers."""
    if config.training.steps == 0:
        return
    refuse_together(config.training, config.evaluation)
    config = config.halved() if halved else config
    choose_device()
    torch.manual_seed(config.seed)
    model, tokenizer = load_model(config.model)
    examples = training_examples(config, model, tokenizer)
    with contextlib.suppress(Diverged):  # the first process records it
        train(config, model, tokenizer, examples, None, folder, Silent(folder, config.training.all_steps))
