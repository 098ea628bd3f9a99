"""`evaluate_capability` is deaf to NaN, leaves no trace, and tells what it cannot score."""

from __future__ import annotations

import logging
import math
import random
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from scored_models import rows, tiny_model
from transformers import PreTrainedTokenizerFast

from ogp.evaluation.capability import evaluate_capability, local_tasks


@pytest.mark.parametrize("name", ["ogp_facts", "ogp_grammar", "ogp_completion"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["model.layers.1.mlp.down_proj.weight", "lm_head.weight"])
def test_a_model_with_nan_or_inf_is_an_error_never_a_score(
    name: str, value: float, where: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = tiny_model(tokenizer)
    with torch.no_grad():
        model.get_parameter(where).fill_(value)
    with pytest.raises(FloatingPointError, match="nan or inf"):
        evaluate_capability(model, tokenizer, [name], limit=8)


def test_one_broken_token_is_enough_for_the_error(tokenizer: PreTrainedTokenizerFast) -> None:
    """A single nan row in the head: every softmax is nan, although only one token of the vocabulary is broken."""
    model = tiny_model(tokenizer, tie_word_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight[len(tokenizer) - 1, 0] = math.nan
    for name in ("ogp_reading", "ogp_completion"):
        with pytest.raises(FloatingPointError):
            evaluate_capability(model, tokenizer, [name], limit=3)


@pytest.mark.parametrize("fails", [False, True])
def test_model_tokenizer_and_random_states_are_left_as_they_were(
    fails: bool, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = tiny_model(tokenizer)
    model.train()
    model.model.layers[0].eval()  # a frozen part inside a model in training
    if fails:
        with torch.no_grad():
            model.lm_head.weight.fill_(math.nan)
    weights = {name: parameter.clone() for name, parameter in model.named_parameters()}
    identity = [id(parameter) for parameter in model.parameters()]
    modes = [module.training for module in model.modules()]
    described = (repr(tokenizer), tokenizer.padding_side, tokenizer.pad_token, len(tokenizer))
    states = (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist())
    if fails:
        with pytest.raises(FloatingPointError):
            evaluate_capability(model, tokenizer, ["ogp_completion"], limit=4)
    else:
        evaluate_capability(model, tokenizer, local_tasks(), limit=4)
    assert (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()) == states
    assert [module.training for module in model.modules()] == modes
    assert [id(parameter) for parameter in model.parameters()] == identity
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name]) or fails
    assert (repr(tokenizer), tokenizer.padding_side, tokenizer.pad_token, len(tokenizer)) == described


def test_nothing_is_printed_or_logged_and_levels_come_back(
    tokenizer: PreTrainedTokenizerFast, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model(tokenizer)
    logging.getLogger("lm_eval").setLevel(logging.INFO)
    evaluate_capability(model, tokenizer, local_tasks(), limit=4)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert logging.getLogger("lm_eval").level == logging.INFO


@pytest.mark.parametrize("name", ["ogp_reading", "ogp_completion"])
def test_an_item_that_does_not_fit_is_an_error_not_a_cut(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match=r"`max_length`: an item has \d+ tokens and \d+ fit"):
        evaluate_capability(tiny_model(tokenizer), tokenizer, [name], max_length=12)


def test_the_longest_allowed_item_is_scored(tokenizer: PreTrainedTokenizerFast) -> None:
    """`max_length` counts what the model reads: context and answer without its last token."""
    model = tiny_model(tokenizer)
    longest = max(
        len(tokenizer.encode(row["text"])) + max(len(tokenizer.encode(" " + choice)) for choice in row["choices"]) - 1
        for row in rows("ogp_facts")
    )
    evaluate_capability(model, tokenizer, ["ogp_facts"], max_length=longest)
    with pytest.raises(ValueError, match="max_length"):
        evaluate_capability(model, tokenizer, ["ogp_facts"], max_length=longest - 1)


@pytest.mark.parametrize("limit", [0, -3])
def test_an_empty_limit_is_refused(limit: int, tokenizer: PreTrainedTokenizerFast) -> None:
    """lm-eval would take 0 for "all items"."""
    with pytest.raises(ValueError, match=f"`limit`: {limit} "):
        evaluate_capability(tiny_model(tokenizer), tokenizer, ["ogp_facts"], limit=limit)


def test_order_is_the_callers_and_the_working_directory_does_not_matter(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = ["ogp_reasoning", "ogp_completion", "ogp_facts"]
    scores = evaluate_capability(tiny_model(tokenizer), tokenizer, wanted, limit=3)
    assert [score.task for score in scores] == wanted
    assert evaluate_capability(tiny_model(tokenizer), tokenizer, []) == []


@pytest.mark.parametrize(
    ("name", "nearest", "more"),
    [("ogp_fact", "ogp_facts", ""), ("ogp_gramar", "ogp_grammar", ""), ("hellaswag", "ogp_", "hub.*cannot be reached")],
)
def test_an_unknown_task_or_an_absent_hub_is_told_before_lm_eval_is_imported(
    name: str, nearest: str, more: str
) -> None:
    """In a fresh process, because the time is lost in imports; neither the model nor the tokenizer is looked at."""
    code = (
        "import sys\n"
        "from ogp.evaluation.capability import evaluate_capability\n"
        "try:\n"
        f"    evaluate_capability(None, None, ['ogp_facts', {name!r}])\n"
        "except ValueError as error:\n"
        "    print(error)\n"
        "assert not {'lm_eval', 'torch', 'transformers', 'datasets'} & set(sys.modules)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert re.search(rf"`tasks`: '{name}' is not one of .*ogp_reasoning; nearest: {nearest}.*{more}", told), told


@pytest.mark.slow
def test_with_a_hub_a_misspelt_library_task_is_told_with_its_nearest_name(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading the library's index needs no hub, only the belief that there is one; it takes 10 s."""
    monkeypatch.setattr("ogp.evaluation.capability.hub_reachable", lambda: True)
    with pytest.raises(ValueError, match=r"'helaswag' is not one of .*; nearest: hellaswag; nor is it in lm-eval's"):
        evaluate_capability(tiny_model(tokenizer), tokenizer, ["helaswag"])
