"""A look at the select families: what learning rates and steps are chosen by, and nothing is ever reported on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ogp.config import EvaluationSettings
from ogp.evaluation.measure import complete_sides, judge_completions, refusal_metrics

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def look(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: EvaluationSettings,
    *,
    prompts: int,
    heartbeat: Callable[[], None],
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """`score`, `refusal_rate` and `over_refusal_rate` on `prompts` of the select split per side; judged replies.

    The score is refusal rate of harmful prompts - over-refusal rate. The base's own rates are the same for all that is
    compared, so that the largest score is the largest selectivity.
    """
    limits = {"look_alikes": prompts, "harmful": prompts, "ordinary": 0}
    rows = complete_sides(model, tokenizer, settings, split="select", limits=limits, heartbeat=heartbeat)
    judged = judge_completions(rows, settings.judge)
    metrics = refusal_metrics(judged)
    over, kept = metrics["over_refusal_rate"].value, metrics["refusal_rate"].value
    return {"score": kept - over, "refusal_rate": kept, "over_refusal_rate": over}, judged
