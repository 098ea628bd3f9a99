"""lm-eval behind `evaluate_capability`: scores equal to arithmetic done by hand, item by item."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scored_models import rows, tiny_model
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from ogp.evaluation.capability import TaskScore, centered, evaluate_capability

CHOICE_TASKS = ["ogp_facts", "ogp_grammar", "ogp_reading", "ogp_reasoning"]
CONTEXT: dict[str, Callable[[dict[str, Any]], str]] = {
    "ogp_facts": lambda row: row["text"],
    "ogp_grammar": lambda row: row["start"],
    "ogp_reading": lambda row: f"Text: {row['passage']}\nSummary: {row['statement']}",
    "ogp_reasoning": lambda row: row["text"],
    "ogp_completion": lambda row: row["text"],
}


@torch.no_grad()
def choices_by_hand(
    model: LlamaForCausalLM, tokenizer: Any, context: str, row: dict[str, Any], delimiter: str = " "
) -> float:
    """1.0 if the gold choice has the largest summed log-probability: one unpadded forward pass per choice."""
    scores = []
    start = tokenizer.encode(context)
    for choice in row["choices"]:
        answer = tokenizer.encode(delimiter + choice)
        logprobs = model(torch.tensor([start + answer])).logits[0].float().log_softmax(-1)
        scores.append(sum(float(logprobs[len(start) - 1 + i, token]) for i, token in enumerate(answer)))
    return float(scores.index(max(scores)) == row["gold"])


@torch.no_grad()
def completion_by_hand(model: LlamaForCausalLM, tokenizer: Any, row: dict[str, Any]) -> float:
    """1.0 if the greedy continuation, four tokens without a cache and up to the line's end, is the answer."""
    ids = tokenizer.encode(row["text"])
    start = len(ids)
    while len(ids) < start + 4 and ids[-1] != tokenizer.eos_token_id:
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    line = tokenizer.decode(ids[start:], skip_special_tokens=True).split("\n")[0]
    words = re.match(r"\s*(\w+(?: \w+)*)", line)
    return float(bool(words) and words[1].lower() == row["answer"].lower())


@pytest.mark.parametrize("name", CHOICE_TASKS)
def test_choice_tasks_equal_scoring_by_hand_item_by_item(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny_model(tokenizer)
    (score,) = evaluate_capability(model, tokenizer, [name])
    by_hand = [choices_by_hand(model, tokenizer, CONTEXT[name](row), row) for row in rows(name)]
    assert score.item_scores == by_hand
    assert score.item_ids == [row["id"] for row in rows(name)]
    assert 0 < sum(by_hand) < len(by_hand)
    assert (score.task, score.metric, score.n) == (name, "acc", len(by_hand))
    assert score.value == pytest.approx(np.mean(by_hand))
    assert score.stderr == pytest.approx(np.std(by_hand, ddof=1) / math.sqrt(len(by_hand)))
    assert score.chance == (0.5 if name == "ogp_grammar" else 0.25)


def test_completion_equals_greedy_decoding_by_hand(tokenizer: PreTrainedTokenizerFast) -> None:
    """On a model that has learnt the first 12 items by heart, so that right and wrong answers both occur."""
    model = tiny_model(tokenizer).train()
    items = rows("ogp_completion")[:24]
    texts = [f"{row['text']} {row['answer']}\n" for row in items[:12]]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(20):
        for text in texts:
            ids = torch.tensor([tokenizer.encode(text)])
            optimizer.zero_grad()
            model(ids, labels=ids).loss.backward()
            optimizer.step()
    model.eval()
    (score,) = evaluate_capability(model, tokenizer, ["ogp_completion"], limit=24, batch_size=5)
    by_hand = [completion_by_hand(model, tokenizer, row) for row in items]
    assert score.item_scores == by_hand
    assert sum(by_hand[:12]) >= 6
    assert sum(by_hand[12:]) < 12
    assert (score.metric, score.chance, score.n) == ("exact_match", 0.0, 24)


@pytest.mark.parametrize("settings", [{"batch_size": 1}, {"batch_size": 7}, {"max_length": 120}])
def test_scores_do_not_depend_on_how_items_are_batched(
    settings: dict[str, int], tokenizer: PreTrainedTokenizerFast
) -> None:
    model = tiny_model(tokenizer)
    tasks = ["ogp_grammar", "ogp_facts"]
    assert evaluate_capability(model, tokenizer, tasks, **settings) == evaluate_capability(model, tokenizer, tasks)


def test_a_limit_takes_the_first_items(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny_model(tokenizer)
    whole = evaluate_capability(model, tokenizer, CHOICE_TASKS)
    for full, part in zip(whole, evaluate_capability(model, tokenizer, CHOICE_TASKS, limit=9), strict=True):
        assert part.item_scores == full.item_scores[:9]
        assert part.item_ids == full.item_ids[:9]
        assert part.value == statistics.fmean(full.item_scores[:9])
    (one,) = evaluate_capability(model, tokenizer, ["ogp_facts"], limit=1)
    assert one.stderr is None


def test_every_model_gets_its_own_scores_whatever_was_scored_before(tokenizer: PreTrainedTokenizerFast) -> None:
    """A cache keyed by the text alone would answer for the second model with the first one's answers."""
    scores = [evaluate_capability(tiny_model(tokenizer, seed), tokenizer, ["ogp_facts"])[0] for seed in (1, 2, 1)]
    assert scores[0] == scores[2]
    assert scores[0].item_scores != scores[1].item_scores


def test_bfloat16_choices_do_not_tie(tokenizer: PreTrainedTokenizerFast) -> None:
    """Log-softmax in bf16 has 3 significant digits; by hand it is taken in fp32 of the same logits."""
    model = tiny_model(tokenizer).to(torch.bfloat16)
    (score,) = evaluate_capability(model, tokenizer, ["ogp_facts"], batch_size=1)
    assert score.item_scores == [choices_by_hand(model, tokenizer, row["text"], row) for row in rows("ogp_facts")]


def test_the_chat_template_wraps_every_item_and_is_recorded(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny_model(tokenizer)
    plain, chat = (
        evaluate_capability(model, tokenizer, ["ogp_facts"], apply_chat_template=mode)[0] for mode in (False, True)
    )
    by_hand = []
    for row in rows("ogp_facts"):
        turns = [{"role": "user", "content": row["text"]}]
        context = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        by_hand.append(choices_by_hand(model, tokenizer, context, row, delimiter=""))  # a turn starts without a space
    assert chat.item_scores == by_hand
    assert chat.item_scores != plain.item_scores
    assert (plain.apply_chat_template, chat.apply_chat_template) == (False, True)


def test_centered_accuracy_has_its_fixed_points_and_is_linear_between_them() -> None:
    assert centered(0.25, 0.25) == 0
    assert centered(1.0, 0.25) == 1
    assert centered(0.0, 0.5) == -1
    assert centered(0.6, 0.0) == 0.6
    middle = (centered(0.4, 0.25) + centered(0.8, 0.25)) / 2
    assert centered(0.6, 0.25) == pytest.approx(middle)


def test_a_score_is_a_value_that_cannot_be_changed() -> None:
    score = TaskScore("t", "acc", 0.5, 0.1, 2, 0.25, [1.0, 0.0], ["a", "b"])
    with pytest.raises(AttributeError):
        score.value = 1.0  # type: ignore[misc]
    assert replace(score, value=1.0).value == 1.0
