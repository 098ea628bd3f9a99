"""A run's training: one stage, and where asked for a second one of plain fine-tuning; resumed where it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ogp.checkpoints import CHECKPOINTS, newest_whole
from ogp.config import MethodSettings, RunConfig, TrainingSettings
from ogp.early_stopping import EarlyStopping
from ogp.embedded import cache_dir
from ogp.method import used_gradients
from ogp.progress import Progress
from ogp.trainer import OGPTrainer, make_training_arguments
from ogp.training_data import load_examples
from ogp.training_record import TrainingRecord

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
    """Train `model` in place. Checkpoints lie in `folder` and stay there; `record` counts steps on."""
    checkpoints, training = folder / CHECKPOINTS, config.training
    second = training.second_stage
    # now, while the model is the starting one: some of the answers are its own
    own = {g.name: load_examples(g.data, config, model, tokenizer) for g in used_gradients(config.method) if g.data}

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
            progress=lambda *_: progress.beat(),
            sources=[own[gradient.name] for gradient in used_gradients(method) if gradient.data],
        )
        whole = newest_whole(checkpoints / name)
        if whole:
            print(f"going on from {whole.relative_to(checkpoints)}", flush=True)
        trainer.train(resume_from_checkpoint=str(whole) if whole else None)
        reached = trainer.state.global_step
        if reached != settings.steps and not any(callback.stopped for callback in callbacks):
            raise RuntimeError(f"training returned after {reached} of {settings.steps} steps: the run is not done")

    if second is None or newest_whole(checkpoints / SECOND) is None:
        stopping = [] if training.early_stopping is None else [EarlyStopping(config, folder, tokenizer, progress)]
        stage("", config.method, training, *stopping)
        for callback in stopping:
            callback.restore_best(model)
    if second is not None:
        record.steps_before = training.steps
        plain = config.method.model_copy(update={"rule": "none"})
        again = {"steps": second.steps, "learning_rate": second.learning_rate}
        stage(SECOND, plain, training.model_copy(update=again))
