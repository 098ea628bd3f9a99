"""How long a run will take, from its settings alone: token counts times measured costs of the embedded model."""

from __future__ import annotations

from ogp.config import RunConfig

# Seconds per run on one thread of a 2-core machine with the embedded 135M model in fp32; measured, rounded up.
START = 15.0
TRAIN_EXAMPLE = 0.5  # forward, backward and update per example, one gradient
OPPOSED = 1.5  # factor for the second gradient
REPLY_TOKEN = 0.006  # per prompt and new token, at batch 64
TASK_ITEM = 0.06


def estimate_seconds(config: RunConfig) -> float:
    """Expected wall time of a run in seconds; good to a factor of two on machines like the one it was measured on."""
    training, evaluation = config.training, config.evaluation
    factor = 1.0 if config.method.rule == "none" else OPPOSED
    plain = training.all_steps - training.steps
    train = (training.steps * factor + plain) * training.batch_size * TRAIN_EXAMPLE
    curves = len([step for step in evaluation.curve_steps if step < training.all_steps]) * 2 * evaluation.curve_prompts
    if training.early_stopping is not None:
        looks = -(-training.steps // training.early_stopping.every)
        curves += looks * 2 * training.early_stopping.prompts
    prompts = evaluation.look_alikes + evaluation.harmful + evaluation.ordinary + curves
    replies = (prompts + evaluation.drift_prompts) * (evaluation.max_new_tokens + 10) * REPLY_TOKEN
    tasks = len(evaluation.tasks) * min(evaluation.task_limit or 110, 110) * TASK_ITEM
    return START + train + replies + tasks
