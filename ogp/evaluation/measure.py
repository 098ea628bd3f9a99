"""From a model to metrics: replies on both sides, drift, validation loss, capabilities, and the items behind them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ogp.config import EvaluationSettings
from ogp.data import SIDES, Pair, encode
from ogp.evaluation.completions import generate, in_batches
from ogp.evaluation.drift import BaseReplies, Drift, measure_drift
from ogp.evaluation.judges import find_judge
from ogp.evaluation.reading import reading
from ogp.pairs import side_prompts
from ogp.results import Metric

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

REFUSAL_METRIC = {
    "look_alikes": "over_refusal_rate",
    "harmful": "refusal_rate",
    "ordinary": "ordinary_refusal_rate",
}
KL_POSITIONS = ((1, 1), (2, 4), (5, 16), (17, None))  # first and last token of a reply; the first decides most refusals


@dataclass
class Measured:
    """Metrics and the items they rest on: judged completions, and lm-eval's scores per item."""

    metrics: dict[str, Metric] = field(default_factory=dict)
    completions: list[dict[str, Any]] = field(default_factory=list)
    items: list[dict[str, Any]] = field(default_factory=list)


def complete_sides(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: EvaluationSettings,
    *,
    split: str,
    limits: dict[str, int],
    heartbeat: Callable[[], None],
) -> list[dict[str, Any]]:
    """Unjudged completion records on the three sides, `limits[side]` prompts each, all generated in one go."""
    chosen = [(side, prompt) for side in SIDES for prompt in side_prompts(settings, side, split, limits[side])]
    replies = generate(
        model,
        tokenizer,
        [prompt for _, prompt in chosen],
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_size,
        order_seed=settings.order_seed,
        heartbeat=heartbeat,
    )
    return [
        {
            "side": side,
            "id": prompt.id,
            "family": prompt.family,
            "prompt": prompt.prompt,
            "completion": reply.text,
            "truncated": reply.truncated,
        }
        for (side, prompt), reply in zip(chosen, replies, strict=True)
    ]


def judge_completions(rows: Sequence[dict[str, Any]], judge_name: str) -> list[dict[str, Any]]:
    """The records with `reply` and `evidence` by the named judge; earlier verdicts are replaced."""
    judge = find_judge(judge_name)
    judged = []
    for row in rows:
        verdict = judge(row["completion"], row["prompt"], truncated=row["truncated"])
        judged.append({**row, "reply": str(verdict.reply), "evidence": list(verdict.evidence)})
    return judged


def refusal_metrics(rows: Sequence[dict[str, Any]]) -> dict[str, Metric]:
    """Rates per side from judged records: refusals (full and partial), partial, incoherent, truncated."""
    metrics: dict[str, Metric] = {}
    for side in SIDES:
        replies = [row for row in rows if row["side"] == side]
        if not replies:
            continue
        kinds = [row["reply"] for row in replies]
        counts = {
            REFUSAL_METRIC[side]: kinds.count("full_refusal") + kinds.count("partial_refusal"),
            f"partial_rate/{side}": kinds.count("partial_refusal"),
            f"incoherent_rate/{side}": kinds.count("incoherent"),
            f"truncated_rate/{side}": sum(row["truncated"] for row in replies),
        }
        for name, count in counts.items():
            metrics[name] = Metric(value=count / len(replies), n=len(replies), count=count)
    return metrics


def drift_metrics(model: PreTrainedModel, base: BaseReplies, settings: EvaluationSettings) -> dict[str, Metric]:
    """Token means over the base's replies; standard errors are over replies.

    `kl_from_base` and `own_nll` over all tokens, `kl_from_base/<positions>` by the token's place in the reply, and
    `curve_kl` over the replies that `curve_drift` reads, so that a curve and its end rest on the same prompts.
    """
    drift = measure_drift(model, base, batch_size=settings.batch_size, order_seed=settings.order_seed)
    found = {"kl_from_base": _token_mean(drift.kl, drift.reply), "own_nll": _token_mean(drift.nll, drift.reply)}
    for first, last in KL_POSITIONS:
        within = (drift.position + 1 >= first) & (drift.position < (last or np.inf))
        if within.any():
            name = f"{first}+" if last is None else str(first) if first == last else f"{first}-{last}"
            found[f"kl_from_base/{name}"] = _token_mean(drift.kl[within], drift.reply[within])
    return found | _curve_kl(drift, settings.curve_drift_prompts)


def curve_drift(model: PreTrainedModel, base: BaseReplies, settings: EvaluationSettings) -> dict[str, Metric]:
    """`curve_kl`: KL from base on the first `curve_drift_prompts` replies only, cheap enough to take on the way."""
    few = base.first(settings.curve_drift_prompts)
    if not few.rows:
        return {}
    drift = measure_drift(model, few, batch_size=settings.batch_size, order_seed=settings.order_seed)
    return _curve_kl(drift, len(few.rows))


def _curve_kl(drift: Drift, replies: int) -> dict[str, Metric]:
    few = drift.reply < replies
    return {"curve_kl": _token_mean(drift.kl[few], drift.reply[few])} if few.any() else {}


def _token_mean(values: np.ndarray, group: np.ndarray) -> Metric:
    """Mean over tokens; standard error over groups of tokens (ratio estimator), since tokens of a reply are alike."""
    if not np.isfinite(values).all():
        raise FloatingPointError("non-finite log-probabilities: the model's weights are broken")
    names, group = np.unique(group, return_inverse=True)
    mean, groups = float(values.mean()), len(names)
    residuals = np.bincount(group, weights=values - mean)
    stderr = float(np.sqrt((residuals**2).sum() * groups / max(groups - 1, 1)) / len(values))
    return Metric(value=mean, n=len(values), stderr=stderr if groups > 1 else None)


def validation_loss(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    *,
    batch_size: int,
    max_tokens: int,
    order_seed: int | None = None,
) -> Metric:
    """Mean cross-entropy per answer token on held-out pairs, in nats."""
    import torch

    examples = encode(tokenizer, pairs, max_tokens)
    losses, group = [], []
    with reading(model):
        for indices in in_batches([len(example["input_ids"]) for example in examples], batch_size, order_seed):
            chunk = [examples[i] for i in indices]
            width = max(len(example["input_ids"]) for example in chunk)
            ids = torch.zeros(len(chunk), width, dtype=torch.long)
            mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
            for i, example in enumerate(chunk):
                length = len(example["input_ids"])
                ids[i, :length], mask[i, :length] = torch.tensor(example["input_ids"]), 1
                labels[i, :length] = torch.tensor(example["labels"])
            logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits[:, :-1]
            carried = labels[:, 1:].to(model.device) != -100
            loss = torch.nn.functional.cross_entropy(
                logits[carried].float(), labels[:, 1:].to(model.device)[carried], reduction="none"
            )
            losses.append(loss.double().cpu().numpy())
            group.append(np.array(indices)[carried.cpu().nonzero()[:, 0].numpy()])
    return _token_mean(np.concatenate(losses), np.concatenate(group))


def capability_metrics(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: EvaluationSettings
) -> tuple[dict[str, Metric], list[dict[str, Any]]]:
    """`capability/<task>` for every task, and the score of every item (paired tests need them).

    `centered_accuracy/<task>` is the same with guessing at 0: tasks of two and of four choices can be averaged.
    """
    from ogp.evaluation.capability import centered, evaluate_capability

    scores = evaluate_capability(
        model, tokenizer, settings.tasks, batch_size=settings.batch_size, limit=settings.task_limit
    )
    metrics = {f"capability/{s.task}": Metric(value=s.value, n=s.n, stderr=s.stderr) for s in scores}
    for s in scores:
        error = None if s.stderr is None else s.stderr / (1 - s.chance)
        value = centered(s.value, s.chance)
        metrics[f"centered_accuracy/{s.task}"] = Metric(value=value, n=s.n, stderr=error)
    items = [
        {"task": s.task, "metric": s.metric, "item": item, "score": score}
        for s in scores
        for item, score in zip(s.item_ids, s.item_scores, strict=True)
    ]
    return metrics, items
