"""The examples a run trains on: pairs by their settings, the model's own replies, what is mixed in, nothing leaked."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from ogp.config import EvaluationSettings, PairsSettings, RunConfig
from ogp.data import SIDES, DataError, Pair, Prompt, chat_prompt, encode, leakage, normalise
from ogp.embedded import cache_dir, is_complete, new_folder
from ogp.evaluation.completions import generate
from ogp.identity import model_key
from ogp.pairs import load_pairs, load_texts, side_prompts
from ogp.step.products import PRODUCTS

REPLIES = "replies.json"


def training_examples(config: RunConfig, model: Any, tokenizer: Any) -> list[dict[str, Any]]:
    """Examples of `config.data`, followed by those mixed in: `share` of all for each part.

    A part takes its first rows (of the project's own sets: every family before a second row of any), and begins again
    where it has too few. Training shuffles all of them together.
    """
    data = config.data
    examples = load_examples(data, config, model, tokenizer)
    rest = 1 - sum(part.share for part in data.mix)
    own = len(examples)
    for part in data.mix:
        count = max(1, round(own * part.share / rest))
        found = load_examples(part, config, model, tokenizer, count)
        examples += [found[i % len(found)] for i in range(count)]
    return [{**example, "index": index} for index, example in enumerate(examples)]


def load_examples(
    settings: PairsSettings, config: RunConfig, model: Any, tokenizer: Any, count: int | None = None
) -> list[dict[str, Any]]:
    """The first `count` pairs of `settings`, encoded: {index, input_ids, labels} each, see `encode`.

    Args:
        config: the run: its limits of length, its evaluation prompts (see `data.leaked`), its starting model.
        model: the starting model, not trained yet; it is asked where `answers` is `model`.
    """
    given = settings.answers == "given"
    pairs = load_pairs(settings) if given else [Pair(text, "") for text in load_texts(settings)]
    pairs = _without_leaked(pairs, settings, config)[:count]
    if not given:
        pairs = own_answers(pairs, config, model, tokenizer)
    return encode(tokenizer, pairs, config.data.max_tokens)


def own_answers(pairs: list[Pair], config: RunConfig, model: Any, tokenizer: Any) -> list[Pair]:
    """The prompts of `pairs` with the starting model's own greedy replies, kept in the cache; none is empty."""
    limit, where = config.data.own_answer_tokens, config.model
    asked = [chat_prompt(tokenizer, pair.prompt) for pair in pairs]
    weights = [model_key(where.source), where.revision, where.dtype, torch.get_num_threads(), PRODUCTS]
    key = hashlib.sha256(json.dumps([weights, asked, limit]).encode()).hexdigest()[:16]
    folder = cache_dir() / "own-answers" / key
    if not is_complete(folder):
        prompts = [Prompt(id=str(i), family="", split="", prompt=pair.prompt) for i, pair in enumerate(pairs)]
        replies = generate(model, tokenizer, prompts, max_new_tokens=limit, batch_size=config.evaluation.batch_size)
        with new_folder(folder) as draft:
            rows = [[reply.text, not reply.truncated] for reply in replies]
            (draft / REPLIES).write_text(json.dumps(rows), encoding="utf-8")
    rows = json.loads((folder / REPLIES).read_text(encoding="utf-8"))
    answered = [Pair(pair.prompt, text, ended) for pair, (text, ended) in zip(pairs, rows, strict=True) if text]
    if not answered:
        raise DataError("`data.answers`: the starting model gives no reply to any of these prompts: use given answers")
    return answered


def _own(measured: EvaluationSettings, side: str) -> bool:
    """Whether a side is the project's own prompts: then none of the split may be trained on, measured or not."""
    return getattr(measured, f"{side}_from") is None


def _without_leaked(pairs: list[Pair], settings: PairsSettings, config: RunConfig) -> list[Pair]:
    """`pairs` without prompts that the run is evaluated on, or `DataError`, as `data.leaked` says."""
    measured = config.evaluation
    if settings.source.startswith("embedded:") and settings.split == measured.split:
        return pairs  # asked for: evaluation on what was trained on
    asked = [
        row.prompt
        for side in SIDES
        for row in side_prompts(
            measured, side, measured.split, None if _own(measured, side) else getattr(measured, side)
        )
    ]
    leaked = leakage((pair.prompt for pair in pairs), asked)
    if not leaked:
        return pairs
    if config.data.leaked == "refuse":
        raise DataError(
            f"`data.source`: {len(leaked)} evaluation prompts of split {measured.split!r} are also training prompts of "
            f"{settings.source}, for example {leaked[0]!r}: remove them, or set data.leaked: leave_out"
        )
    out = {normalise(text) for text in leaked}
    kept = [pair for pair in pairs if normalise(pair.prompt) not in out]
    if not kept:
        raise DataError(f"`data.leaked`: every row of {settings.source} has an evaluation prompt: choose other rows")
    return kept
