"""What a run trains on: shares of what is mixed in, the model's own replies, nothing it is evaluated on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ogp.config import RunConfig
from ogp.config_files import validate
from ogp.data import DataError, Pair, Prompt, load_prompts
from ogp.embedded import cache_dir
from ogp.evaluation.completions import generate
from ogp.models import load_model
from ogp.training.training_data import load_examples, own_answers, training_examples

CHARACTERS = 400


@pytest.fixture(scope="module")
def loaded(talking_folder: Path) -> Any:
    from ogp.config import ModelSettings

    return load_model(ModelSettings(source=str(talking_folder)))


def config(talking_folder: Path, **data: Any) -> RunConfig:
    settings = {
        "model": {"source": str(talking_folder)},
        "data": {"max_tokens": CHARACTERS, "own_answer_tokens": 5} | data,
    }
    return validate(RunConfig, settings, "test")


def answers(tokenizer: Any, examples: list[dict[str, Any]]) -> list[str]:
    return [tokenizer.decode([token for token in e["labels"] if token != -100]) for e in examples]


@pytest.mark.parametrize(("share", "count"), [(0.005, 1), (0.12, 19), (0.5, 140)])
def test_a_share_is_of_all_examples(loaded: Any, talking_folder: Path, share: float, count: int) -> None:
    model, tokenizer = loaded
    mix = [{"source": "embedded:harmful", "share": share}]
    examples = training_examples(config(talking_folder, mix=mix), model, tokenizer)
    plain = training_examples(config(talking_folder), model, tokenizer)
    assert len(plain) == 140
    assert [e["index"] for e in examples] == list(range(140 + count))
    refusals = [row.answer for row in load_prompts("harmful", "fit")]
    mixed = answers(tokenizer, examples[140:])
    assert [text.removesuffix("<|im_end|>") for text in mixed] == [refusals[i % len(refusals)] for i in range(count)]
    assert [e["input_ids"] for e in examples[:140]] == [e["input_ids"] for e in plain]


def test_two_parts_keep_their_shares(loaded: Any, talking_folder: Path) -> None:
    model, tokenizer = loaded
    mix = [
        {"source": "embedded:harmful", "share": 0.2},
        {"source": "embedded:ordinary", "answers": "model", "share": 0.1},
    ]
    examples = training_examples(config(talking_folder, mix=mix), model, tokenizer)
    assert len(examples) == 140 + 40 + 20


def test_own_answers_are_the_models_and_come_from_the_cache(loaded: Any, talking_folder: Path) -> None:
    model, tokenizer = loaded
    pairs = [Pair(row.prompt, "") for row in load_prompts("ordinary", "fit", 5)]
    found = own_answers(pairs, config(talking_folder), model, tokenizer)
    prompts = [Prompt(id="x", family="x", split="x", prompt=pair.prompt) for pair in pairs]
    replies = generate(model, tokenizer, prompts, max_new_tokens=5, batch_size=2)
    assert found == [Pair(p.prompt, r.text, not r.truncated) for p, r in zip(pairs, replies, strict=True) if r.text]
    folder = max((cache_dir() / "own-answers").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    stamps = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert own_answers(pairs, config(talking_folder), model, tokenizer) == found
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == stamps
    (folder / "replies.json").write_text("[]")  # torn
    assert own_answers(pairs, config(talking_folder), model, tokenizer) == found


def test_own_answers_end_where_the_model_ended(loaded: Any, talking_folder: Path) -> None:
    model, tokenizer = loaded
    settings = config(talking_folder, source="embedded:ordinary", answers="model")
    for text in answers(tokenizer, load_examples(settings.data, settings, model, tokenizer, 6)):
        assert not text.endswith("<|im_end|>"), "a reply of 5 tokens was cut"


@pytest.mark.parametrize("part", ["source", "mix"])
def test_leaked_rows_are_refused_or_left_out(loaded: Any, talking_folder: Path, tmp_path: Path, part: str) -> None:
    model, tokenizer = loaded
    rows = [load_prompts("harmful", "report")[0].prompt.upper(), "What is a tree?", "what's asked HERE?"]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"prompt": row, "answer": "A."}) + "\n" for row in rows))
    asked = tmp_path / "asked.jsonl"
    asked.write_text(json.dumps({"prompt": "What's asked here?"}) + "\n")

    def made(**data: Any) -> RunConfig:
        source = {"source": str(path)}
        data |= source if part == "source" else {"mix": [source | {"share": 0.9}]}
        base = config(talking_folder, **data).model_dump(mode="json")
        return validate(RunConfig, base | {"evaluation": {"ordinary_from": {"source": str(asked)}}}, "test")

    with pytest.raises(DataError, match="2 evaluation prompts"):
        training_examples(made(), model, tokenizer)
    examples = training_examples(made(leaked="leave_out"), model, tokenizer)
    texts = {
        tokenizer.decode(example["input_ids"]) for example in examples if example["index"] >= 140 or part == "source"
    }
    assert len(texts) == 1
    assert "What is a tree?" in texts.pop()
