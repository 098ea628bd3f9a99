"""A run's training: one stage, and where asked for a second one of plain fine-tuning; resumed where it stopped."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ogp.config import MethodSettings, RunConfig, TrainingSettings
from ogp.early_stopping import EarlyStopping
from ogp.embedded import cache_dir, is_complete
from ogp.progress import Progress
from ogp.trainer import OGPTrainer, make_training_arguments
from ogp.training_record import TrainingRecord

CHECKPOINTS = "checkpoints"
SECOND = "second-stage"


def train(
    config: RunConfig,
    model: Any,
    tokenizer: Any,
    examples: Sequence[dict[str, Any]],
    record: TrainingRecord,
    folder: Path,
    progress: Progress,
) -> None:
    """Train `model` in place. Checkpoints lie in `folder` until both stages are done; `record` counts steps on."""
    checkpoints, training = folder / CHECKPOINTS, config.training
    second = training.second_stage

    def stage(name: str, method: MethodSettings, settings: TrainingSettings, *callbacks: EarlyStopping) -> None:
        trainer = OGPTrainer(
            model=model,
            args=make_training_arguments(settings, checkpoints / name, seed=config.seed),
            train_dataset=examples,
            method=method,
            training=settings,
            teacher_cache_dir=cache_dir() / "teacher",
            processing_class=tokenizer,
            callbacks=[record, *callbacks],
        )
        trainer.train(resume_from_checkpoint=newest_checkpoint(checkpoints / name))
        reached = trainer.state.global_step
        if reached != settings.steps and not any(callback.stopped for callback in callbacks):
            raise RuntimeError(f"training returned after {reached} of {settings.steps} steps: the run is not done")

    if second is None or newest_checkpoint(checkpoints / SECOND) is None:
        stopping = [] if training.early_stopping is None else [EarlyStopping(config, folder, tokenizer, progress)]
        stage("", config.method, training, *stopping)
        for callback in stopping:
            callback.restore_best(model)
    if second is not None:
        record.steps_before = training.steps
        plain = config.method.model_copy(update={"rule": "none"})
        again = {"steps": second.steps, "learning_rate": second.learning_rate}
        stage(SECOND, plain, training.model_copy(update=again))
    shutil.rmtree(checkpoints, ignore_errors=True)  # three times the model's size, and of no more use


def newest_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that is whole; Trainer would take a torn one, or go on with a fresh optimizer."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return next((str(path) for path in reversed(found) if is_complete(path)), None)
