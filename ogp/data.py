"""Prompts and answers: the project's own sets, the text a model sees of them, answer labels, leakage."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

PROMPTS = Path(__file__).parent / "prompts"
SIDES = ("look_alikes", "harmful", "ordinary")
TEMPLATE_DATE = "26 Jul 2024"  # what templates with a date fall back on themselves


class DataError(ValueError):
    """Data the user has to mend; the text names file, line and remedy."""


class Prompt(BaseModel):
    """One row of the project's own sets. `answer` is the helpful answer (look-alikes) or a refusal (harmful)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: str
    family: str
    split: str
    prompt: str = Field(min_length=1)
    answer: str | None = None


@dataclass(frozen=True)
class Pair:
    """A prompt and the answer the target loss pulls towards."""

    prompt: str
    answer: str
    ended: bool = True
    """False for a reply that was cut: no end of turn is learnt after it."""


def load_prompts(side: str, split: str, limit: int | None = None) -> list[Prompt]:
    """The project's prompts of one side and split; with `limit`, every family before a second prompt of any.

    Splits are by family: `fit` to train on, `select` to choose by, `report` to report. A fourth, `make`, holds other
    prompts of all families, without answers: the over-refusing variant is made from it and from nothing else.
    """
    path = PROMPTS / ("making" if split == "make" else ".") / f"{side}.jsonl"
    rows = [Prompt.model_validate_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
    families: dict[str, list[Prompt]] = {}
    for row in rows:
        if row.split == split:
            families.setdefault(row.family, []).append(row)
    longest = max((len(family) for family in families.values()), default=0)
    turns = [family[turn] for turn in range(longest) for family in families.values() if turn < len(family)]
    return turns[:limit]


def normalise(text: str) -> str:
    """Text reduced to what matters for "the same prompt": case, accents' form, punctuation and spacing are dropped."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


def leakage(training: Iterable[str], evaluation: Iterable[str]) -> list[str]:
    """Evaluation prompts whose normalised text is also in the training prompts."""
    seen = {normalise(text) for text in training}
    return [text for text in evaluation if normalise(text) in seen]


def chat_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """The text a reply is generated after: the model's own chat template around one user turn.

    A tokenizer without a template gets `User: <prompt>` and `Assistant: ` on two lines, after the token it begins
    every text with, if any. Control tokens inside the prompt (`<|im_end|>`) are broken up by a space: data never ends
    a turn.
    """
    prompt = neutralise(tokenizer, prompt)
    if tokenizer.chat_template is None:
        return f"{_first_token(tokenizer)}User: {prompt}\nAssistant: "
    return _in_template(tokenizer, [{"role": "user", "content": prompt}], add_generation_prompt=True)


def _in_template(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], **options: bool) -> str:
    # templates of the Llama 3 family write today's date unless they are given one: a run must not depend on the day
    return str(tokenizer.apply_chat_template(turns, tokenize=False, date_string=TEMPLATE_DATE, **options))


def _first_token(tokenizer: PreTrainedTokenizerBase) -> str:
    """The beginning-of-sequence token where the tokenizer puts one before every text, else nothing."""
    with_special, plain = tokenizer.encode("a"), tokenizer.encode("a", add_special_tokens=False)
    begins = with_special[:1] == [tokenizer.bos_token_id] != plain[:1]
    return str(tokenizer.bos_token) if begins else ""


def neutralise(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """`text` without any of the tokenizer's special tokens: a space is put behind their first character."""
    for token in tokenizer.all_special_tokens:
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def encode(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], max_tokens: int) -> list[dict[str, Any]]:
    """Examples {index, input_ids, labels}: labels are -100 on the prompt, the answer and its end-of-turn are learnt.

    Examples longer than `max_tokens` are left out; `DataError` when none is left. What is odd about the data is counted
    in the log.
    """
    examples: list[dict[str, Any]] = []
    for pair in pairs:
        prompt = tokenizer.encode(chat_prompt(tokenizer, pair.prompt), add_special_tokens=False)
        answer = tokenizer.encode(_answer_turn(tokenizer, pair), add_special_tokens=False)
        if len(prompt) + len(answer) <= max_tokens:
            labels = [-100] * len(prompt) + answer
            examples.append({"index": len(examples), "input_ids": prompt + answer, "labels": labels})
    if not examples:
        raise DataError(f"`data.max_tokens`: none of {len(pairs)} examples fits into {max_tokens} tokens: raise it")
    odd = _oddities(tokenizer, pairs, len(pairs) - len(examples), max_tokens)
    if odd:
        logger.warning("training data: %s", "; ".join(odd))
    return examples


def _oddities(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], too_long: int, max_tokens: int) -> list[str]:
    texts = [(pair.prompt, pair.answer) for pair in pairs]
    control = [sum((prompt + answer).count(t) for t in tokenizer.all_special_tokens if t) for prompt, answer in texts]
    told = {
        f"{too_long} of {len(pairs)} examples are longer than {max_tokens} tokens and left out": too_long,
        f"{len(texts) - len(set(texts))} are repeated": len(texts) - len(set(texts)),
        f"{sum(control)} control tokens in {sum(map(bool, control))} of them were broken up": sum(control),
    }
    return [text for text, count in told.items() if count]


def _answer_turn(tokenizer: PreTrainedTokenizerBase, pair: Pair) -> str:
    """The answer up to and with the token that ends the assistant's turn, as the template writes it.

    A reply that was cut ends where it was cut.
    """
    answer = neutralise(tokenizer, pair.answer)
    text = answer
    if tokenizer.chat_template is not None:
        start = chat_prompt(tokenizer, pair.prompt)
        turns = [
            {"role": "user", "content": neutralise(tokenizer, pair.prompt)},
            {"role": "assistant", "content": answer},
        ]
        whole = _in_template(tokenizer, turns)
        if whole.startswith(start):
            text = whole.removeprefix(start).rstrip()
    ends = tuple(token for token in tokenizer.all_special_tokens if token)
    if pair.ended:
        return text if text.endswith(ends) else text + str(tokenizer.eos_token)
    while text.endswith(ends):  # the reply was cut: what ends a turn did not follow
        text = next(text.removesuffix(token) for token in ends if text.endswith(token)).rstrip()
    return text


def digest(examples: Sequence[dict[str, Any]], *more: Any) -> str:
    """Hash of encoded examples and of any further JSON values: part of a run's identity."""
    text = json.dumps([[e["input_ids"], e["labels"]] for e in examples]) + json.dumps(more, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
