"""Replies and drift against slow, obvious computations on a tiny model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ogp.config import EvaluationSettings, ModelSettings
from ogp.data import Pair, Prompt, chat_prompt, encode
from ogp.evaluation.completions import generate, in_batches
from ogp.evaluation.drift import base_replies, measure_drift
from ogp.evaluation.measure import _token_mean, curve_drift, drift_metrics, validation_loss
from ogp.models import load_model

PROMPTS = [
    Prompt(id=str(i), family="f", split="report", prompt=text)
    for i, text in enumerate(["Hi", "A much longer question about nothing in particular?", "Ok then", "Why?"])
]


@pytest.fixture
def loaded(tiny_folder: Path):  # type: ignore[no-untyped-def]
    return load_model(ModelSettings(source=str(tiny_folder)))


def one_by_one(model, tokenizer, text: str, steps: int) -> tuple[list[int], bool]:  # type: ignore[no-untyped-def]
    """Greedy decoding without batches, padding or a cache."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    found: list[int] = []
    for _ in range(steps):
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids + found])).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            return found, False
        found.append(token)
    return found, True


@pytest.mark.parametrize(("batch_size", "order_seed"), [(1, None), (3, None), (8, None), (3, 0), (3, 1), (8, 2)])
def test_replies_are_greedy_whatever_the_batch_and_order(loaded, batch_size: int, order_seed: int | None) -> None:  # type: ignore[no-untyped-def]
    model, tokenizer = loaded
    replies = generate(model, tokenizer, PROMPTS, max_new_tokens=6, batch_size=batch_size, order_seed=order_seed)
    assert [reply.prompt for reply in replies] == PROMPTS
    for reply in replies:
        expected, truncated = one_by_one(model, tokenizer, chat_prompt(tokenizer, reply.prompt.prompt), 6)
        assert list(reply.tokens) == expected
        assert reply.truncated == truncated


def test_an_ended_reply_is_not_truncated_and_holds_no_end_token(loaded) -> None:  # type: ignore[no-untyped-def]
    model, tokenizer = loaded
    always_end = torch.zeros_like(model.lm_head.weight)
    with torch.no_grad():
        always_end[tokenizer.eos_token_id] = 1.0
        model.lm_head.weight.copy_(always_end * 100)
        model.model.norm.weight.fill_(1.0)
        model.config.tie_word_embeddings = False
    replies = generate(model, tokenizer, PROMPTS, max_new_tokens=6, batch_size=2)
    for reply in replies:
        assert tokenizer.eos_token_id not in reply.tokens
        assert reply.truncated == (len(reply.tokens) == 6)


def test_generation_keeps_the_training_mode(loaded) -> None:  # type: ignore[no-untyped-def]
    model, tokenizer = loaded
    model.train()
    generate(model, tokenizer, PROMPTS[:1], max_new_tokens=1, batch_size=1)
    assert model.training


def test_drift_is_zero_at_home_and_right_elsewhere(loaded, tiny_folder: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model, tokenizer = loaded
    options = {"max_new_tokens": 5, "cache": tmp_path, "model_key": "tiny"}
    base = base_replies(model, tokenizer, PROMPTS, **options)
    assert np.abs(measure_drift(model, base, batch_size=2).kl).max() < 1e-6

    moved, _ = load_model(ModelSettings(source=str(tiny_folder)))
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    drift = measure_drift(moved, base, batch_size=2, order_seed=5)
    expected_kl, expected_nll = [], []
    for prompt, reply in base.rows:
        for position, token in enumerate(reply):
            ids = torch.tensor([prompt + reply[:position]])
            with torch.no_grad():
                p = model.double()(input_ids=ids).logits[0, -1].log_softmax(-1)
                q = moved.double()(input_ids=ids).logits[0, -1].log_softmax(-1)
            expected_kl.append(float((p.exp() * (p - q)).sum()))
            expected_nll.append(float(-q[token]))
    np.testing.assert_allclose(drift.kl, expected_kl, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(drift.nll, expected_nll, rtol=1e-4)
    assert len(drift.kl) == len(drift.reply) == len(drift.position) == sum(len(reply) for _, reply in base.rows)


def test_batches_hold_everything_once_and_their_order_is_of_the_seed() -> None:
    lengths = [5, 1, 9, 1, 7, 3, 2]
    by_length = in_batches(lengths, 3)
    assert [lengths[i] for batch in by_length for i in batch] == sorted(lengths)
    shuffled = [in_batches(lengths, 3, seed) for seed in range(5)]
    for batches in (by_length, *shuffled):
        assert [len(batch) for batch in batches] == [3, 3, 1]
        assert sorted(i for batch in batches for i in batch) == list(range(7))
    assert in_batches(lengths, 3, 4) == shuffled[4]
    assert len({str(batches) for batches in shuffled}) == 5
    assert in_batches([], 3) == []


def test_drift_by_position_adds_up_and_the_curve_reads_the_same_replies_as_the_end(  # type: ignore[no-untyped-def]
    loaded, tiny_folder: Path, tmp_path: Path
) -> None:
    model, tokenizer = loaded
    base = base_replies(model, tokenizer, PROMPTS, max_new_tokens=20, cache=tmp_path, model_key="tiny")
    moved, _ = load_model(ModelSettings(source=str(tiny_folder)))
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    settings = EvaluationSettings(batch_size=3, curve_drift_prompts=2)
    found = drift_metrics(moved, base, settings)
    buckets = {name: metric for name, metric in found.items() if name.startswith("kl_from_base/")}
    assert [name.split("/")[1] for name in buckets] == ["1", "2-4", "5-16", "17+"]
    lengths = [len(reply) for _, reply in base.rows]
    assert buckets["kl_from_base/1"].n == len(lengths)
    assert buckets["kl_from_base/5-16"].n == sum(min(max(length - 4, 0), 12) for length in lengths)
    whole = found["kl_from_base"]
    assert sum(metric.n for metric in buckets.values()) == whole.n
    assert sum(metric.n * metric.value for metric in buckets.values()) == pytest.approx(whole.n * whole.value)

    assert found["curve_kl"].n == sum(lengths[:2])
    on_the_way = curve_drift(moved, base, settings)["curve_kl"]
    assert on_the_way.n == found["curve_kl"].n
    assert on_the_way.value == pytest.approx(found["curve_kl"].value, rel=1e-4)
    assert curve_drift(moved, base, settings.model_copy(update={"curve_drift_prompts": 0})) == {}


def test_the_cached_replies_are_the_same_whichever_run_made_them(loaded, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Another batch size or order is not asked for: the first run of a study must not decide the others' zero."""
    model, tokenizer = loaded
    base = base_replies(model, tokenizer, PROMPTS, max_new_tokens=4, cache=tmp_path, model_key="tiny")
    settings = EvaluationSettings(batch_size=2, order_seed=1, curve_drift_prompts=0)
    floor = drift_metrics(model, base, settings)
    assert abs(floor["kl_from_base"].value) < 1e-6
    assert "curve_kl" not in floor


def test_base_replies_come_from_the_cache_and_a_torn_cache_is_rebuilt(loaded, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model, tokenizer = loaded
    options = {"max_new_tokens": 4, "cache": tmp_path, "model_key": "tiny"}
    first = base_replies(model, tokenizer, PROMPTS, **options)
    (folder,) = tmp_path.iterdir()
    file = folder / "log_probs.npy"
    whole = file.read_bytes()
    file.write_bytes(whole[:-8])
    again = base_replies(model, tokenizer, PROMPTS, **options)
    assert again.rows == first.rows
    assert file.read_bytes() == whole
    base_replies(model, tokenizer, PROMPTS, **{**options, "model_key": "other"})
    assert len(list(tmp_path.iterdir())) == 2


def test_validation_loss_is_the_mean_over_answer_tokens(loaded) -> None:  # type: ignore[no-untyped-def]
    model, tokenizer = loaded
    pairs = [Pair("Hi", "Yes."), Pair("A longer one", "No, never at all."), Pair("x", "y")]
    losses = []
    for example in encode(tokenizer, pairs, 256):
        ids, labels = torch.tensor([example["input_ids"]]), example["labels"]
        with torch.no_grad():
            log_p = model(input_ids=ids).logits[0].log_softmax(-1)
        losses += [-float(log_p[t - 1, label]) for t, label in enumerate(labels) if label != -100]
    metric = validation_loss(model, tokenizer, pairs, batch_size=2, max_tokens=256, order_seed=3)
    assert metric.n == len(losses)
    assert metric.value == pytest.approx(np.mean(losses), rel=1e-5)


def test_standard_error_counts_replies_not_tokens() -> None:
    """Simulated replies whose tokens share one value: the error of the mean is that of as many replies."""
    drawn = np.random.default_rng(0)
    means, errors = [], []
    for _ in range(400):
        lengths = drawn.integers(5, 15, size=20)
        values = np.repeat(drawn.normal(size=20), lengths)
        metric = _token_mean(values, np.repeat(np.arange(20), lengths))
        means.append(metric.value)
        errors.append(metric.stderr)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.15)


def test_broken_weights_are_an_error_not_a_number() -> None:
    with pytest.raises(FloatingPointError):
        _token_mean(np.array([1.0, np.nan]), np.array([0, 1]))
