"""A run's training: one stage, and where asked for a second one of plain fine-tuning; resumed where it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ogp.config import MethodSettings, RunConfig, TrainingSettings
from ogp.embedded import cache_dir
from ogp.models import load_model
from ogp.runs.progress import Progress
from ogp.step.method import used_gradients
from ogp.training.checkpoints import CHECKPOINTS, newest_whole
from ogp.training.distributed import check_ranks_agree, is_first, part, whole_weights
from ogp.training.early_stopping import EarlyStopping
from ogp.training.trainer import OGPTrainer, make_training_arguments
from ogp.training.training_data import load_examples
from ogp.training.training_record import TrainingRecord

SECOND = "second-stage"


def train(
    config: RunConfig,
    model: Any,
    tokenizer: Any,
    examples: Sequence[dict[str, Any]],
    record: TrainingRecord | None,
    folder: Path,
    progress: Progress,
) -> Any:
    """Train `model` in place and return it; where FSDP2 has sharded it, a whole one in its place (first process only).

    Checkpoints lie in `folder` and stay there; `record` counts steps on. It is None in every process but the first of
    several.
    """
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
            callbacks=[record if record is not None else _Following(), *callbacks],
            progress=lambda *_: progress.beat(),
            sources=[own[gradient.name] for gradient in used_gradients(method) if gradient.data],
        )
        with trainer.args.main_process_first(local=False, desc="checkpoint"):  # which deletes torn ones
            whole = newest_whole(checkpoints / name)
        if whole and is_first():
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
        if record is not None:
            record.steps_before = training.steps
        plain = config.method.model_copy(update={"rule": "none"})
        again = {"steps": second.steps, "learning_rate": second.learning_rate}
        stage(SECOND, plain, training.model_copy(update=again))
    weights = whole_weights(model)
    check_ranks_agree(model)
    part()
    if weights is not None and is_first():
        model, _ = load_model(config.model)
        model.load_state_dict(weights)
    return model


class _Following(TrainerCallback):
    """Saves when the first process does: not at the last step (`TrainingRecord.on_step_end`)."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by Trainer after its own callback has decided."""
        control.should_save = control.should_save and state.global_step < state.max_steps
