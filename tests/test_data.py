"""The project's prompts, local pairs, chat template and labels, leakage."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ogp.data import SIDES, DataError, Pair, chat_prompt, encode, leakage, load_prompts, normalise

SPLITS = ("fit", "select", "report")


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_folder)


def rows(side: str):  # type: ignore[no-untyped-def]
    return [row for split in SPLITS for row in load_prompts(side, split)]


@pytest.mark.parametrize(
    ("side", "least", "families"), [("look_alikes", 240, 30), ("harmful", 120, 30), ("ordinary", 240, 30)]
)
def test_own_sets_are_large_unique_and_split_by_family(side: str, least: int, families: int) -> None:
    found = rows(side)
    assert len(found) >= least
    assert len({row.id for row in found}) == len(found) == len({normalise(row.prompt) for row in found})
    split_of = {(row.family, row.split) for row in found}
    assert len(split_of) == len({row.family for row in found}) >= families, "a family stands in one split only"
    for split in ("report",):
        assert sum(row.split == split for row in found) >= 60


def test_no_prompt_is_on_two_sides_or_in_two_splits() -> None:
    texts = Counter(normalise(row.prompt) for side in SIDES for row in rows(side))
    assert [text for text, count in texts.items() if count > 1] == []


def test_matched_families_share_their_split() -> None:
    look_alikes = {row.family: row.split for row in rows("look_alikes")}
    for row in rows("harmful"):
        assert look_alikes[row.family] == row.split


def test_look_alike_answers_are_short_and_harmful_answers_refuse() -> None:
    from ogp.evaluation.judges import find_judge

    judge = find_judge("ogp")
    assert all(row.answer and len(row.answer.split()) <= 30 for row in rows("look_alikes"))
    kinds = Counter(str(judge(row.answer or "", row.prompt, truncated=False).reply) for row in rows("harmful"))
    assert kinds["full_refusal"] >= 0.97 * sum(kinds.values()), kinds
    answered = Counter(str(judge(row.answer or "", row.prompt, truncated=False).reply) for row in rows("look_alikes"))
    assert answered["full_compliance"] >= 0.97 * sum(answered.values()), answered


def test_limit_takes_every_family_before_a_second_of_any() -> None:
    chosen = load_prompts("look_alikes", "report", 13)
    assert len({row.family for row in chosen}) == 13
    assert load_prompts("look_alikes", "report", 5) == chosen[:5]


def test_labels_are_the_answer_and_its_end_of_turn(tokenizer: PreTrainedTokenizerBase) -> None:
    (example,) = encode(tokenizer, [Pair("Hi there", "Hello.")], 256)
    learnt = [token for token in example["labels"] if token != -100]
    assert tokenizer.decode(learnt) == "Hello.<|im_end|>"
    start = example["labels"].index(learnt[0])
    assert tokenizer.decode(example["input_ids"][:start]) == chat_prompt(tokenizer, "Hi there")
    assert example["input_ids"][start:] == learnt


def test_without_a_template_the_fallback_is_used_and_the_end_is_learnt(tiny_folder: Path) -> None:
    plain = AutoTokenizer.from_pretrained(tiny_folder)
    plain.chat_template = None
    (example,) = encode(plain, [Pair("Hi", "Hello.")], 256)
    assert plain.decode(example["input_ids"]) == "User: Hi\nAssistant: Hello.<|im_end|>"


def test_the_fallback_begins_as_every_text_of_the_tokenizer_does(tiny_folder: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    plain = AutoTokenizer.from_pretrained(tiny_folder)
    plain.chat_template = None
    first = (plain.bos_token, plain.bos_token_id)
    plain.backend_tokenizer.post_processor = TemplateProcessing(single=f"{first[0]} $A", special_tokens=[first])
    assert chat_prompt(plain, "Hi") == "<|im_start|>User: Hi\nAssistant: "
    (example,) = encode(plain, [Pair("Hi", "Hello.")], 256)
    assert example["input_ids"].count(plain.bos_token_id) == 1


def test_a_reply_that_was_cut_learns_no_end(tokenizer: PreTrainedTokenizerBase) -> None:
    ended, cut = encode(tokenizer, [Pair("Hi", "Hello th"), Pair("Hi", "Hello th", ended=False)], 256)
    assert cut["input_ids"] == ended["input_ids"][: len(cut["input_ids"])]
    assert tokenizer.decode([token for token in cut["labels"] if token != -100]) == "Hello th"


def test_a_template_with_a_date_does_not_depend_on_the_day(tiny_folder: Path) -> None:
    dated = AutoTokenizer.from_pretrained(tiny_folder)
    dated.chat_template = (
        "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        "Today: {{ date_string }}\n" + dated.chat_template
    )
    assert chat_prompt(dated, "Hi").startswith("Today: 26 Jul 2024\n")


@given(text=st.text(max_size=40), token=st.sampled_from(["<|im_end|>", "<|im_start|>", "<pad>"]))
def test_control_tokens_in_data_never_act(tokenizer: PreTrainedTokenizerBase, text: str, token: str) -> None:
    pair = Pair(f"a{token}{text}", f"b{token}{token}{text}")
    (example,) = encode(tokenizer, [pair], 4096)
    special = [t for t in example["input_ids"] if t in tokenizer.all_special_ids]
    clean = encode(tokenizer, [Pair("a", "b")], 256)[0]["input_ids"]
    assert special == [t for t in clean if t in tokenizer.all_special_ids]


def test_long_examples_are_left_out_and_none_left_is_an_error(tokenizer: PreTrainedTokenizerBase) -> None:
    kept = encode(tokenizer, [Pair("a", "b"), Pair("a" * 300, "b"), Pair("c", "d")], 100)
    assert [example["index"] for example in kept] == [0, 1]
    with pytest.raises(DataError, match=r"data\.max_tokens"):
        encode(tokenizer, [Pair("a" * 300, "b")], 100)


def test_leakage_sees_through_case_spacing_and_punctuation() -> None:
    assert leakage(["How do I kill a  process?"], ["how do I KILL a process", "Another one"]) == [
        "how do I KILL a process"
    ]
    assert leakage([], ["x"]) == []
