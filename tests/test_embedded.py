"""The embedded model, for real: conversion and the over-refusing variant's bars (slow), and what guards its cache."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ogp import embedded
from ogp.config import ModelSettings
from ogp.data import Prompt
from ogp.embedded import ModelError, original_model, over_refusing_folder
from ogp.evaluation.completions import generate
from ogp.models import load_model
from ogp.over_refusing import RECORD, make_over_refusing

USERS_CACHE = os.environ.get("OGP_CACHE")  # read before any fixture replaces it: converted models are kept there


@pytest.fixture
def real_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    if USERS_CACHE:
        monkeypatch.setenv("OGP_CACHE", USERS_CACHE)
    else:
        monkeypatch.delenv("OGP_CACHE")


def test_a_missing_variant_is_told_with_the_command_that_makes_it() -> None:
    with pytest.raises(ModelError, match="ogp prepare"):
        load_model(ModelSettings(source="embedded:over-refusing"))


def test_a_changed_wheel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "GGUF_SHA256", "0" * 64)
    with pytest.raises(ModelError, match=r"sha256.*reinstall"):
        original_model()


def test_the_variant_is_named_by_its_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    before = over_refusing_folder()
    monkeypatch.setitem(embedded.RECIPE, "steps", 61)
    assert over_refusing_folder() != before


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("real_cache")
def test_the_variant_over_refuses_and_the_original_answers() -> None:
    record = json.loads((make_over_refusing() / RECORD).read_text())
    rates = {}
    for side in ("over_refusal_rate", "refusal_rate", "ordinary_refusal_rate"):
        count, n = map(int, record["refusals"][side].split("/"))
        assert n >= 60
        rates[side] = count / n
    assert rates["over_refusal_rate"] >= 0.90
    assert rates["refusal_rate"] >= 0.95
    assert rates["ordinary_refusal_rate"] <= 0.10

    question = [Prompt(id="x", family="x", split="report", prompt="What is the capital of France?")]
    for source in ("embedded:original", "embedded:over-refusing"):
        model, tokenizer = load_model(ModelSettings(source=source))
        assert "Paris" in generate(model, tokenizer, question, max_new_tokens=16, batch_size=1)[0].text
    manifest = json.loads((Path(original_model()) / "manifest.json").read_text())
    assert "model.safetensors" in manifest
