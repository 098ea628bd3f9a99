"""Prompts and answers: the project's own sets, local JSONL, hub data sets; chat template and answer labels; leakage."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from ogp.config import DataSettings
from ogp.network import hub_reachable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPTS = Path(__file__).parent / "prompts"
SIDES = ("look_alikes", "harmful", "ordinary")


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


def load_pairs(settings: DataSettings) -> list[Pair]:
    """The training pairs `settings` name; `DataError` says what is wrong with which row."""
    if settings.source == "embedded:look-alikes":
        return [Pair(row.prompt, row.answer or "") for row in load_prompts("look_alikes", settings.split)]
    if settings.source.startswith("embedded:"):
        raise DataError(
            f"`data.source`: {settings.source!r} is unknown; the project's own pairs are embedded:look-alikes"
        )
    path = Path(settings.source).expanduser()
    if path.suffix == ".jsonl" or path.is_file():
        pairs = _pairs(_read_jsonl(path), settings, str(path))
    else:
        pairs = _pairs(_read_hub(settings), settings, settings.source)
    if not pairs:
        raise DataError(f"`data.source`: {settings.source} has no rows: training needs at least one")
    return pairs


def _pairs(rows: Iterable[tuple[int, Any]], settings: DataSettings, origin: str) -> list[Pair]:
    pairs = []
    for number, row in rows:
        fields = row if isinstance(row, dict) else {}
        prompt, answer = fields.get(settings.prompt_column), fields.get(settings.answer_column)
        if not (isinstance(prompt, str) and isinstance(answer, str) and prompt.strip() and answer.strip()):
            raise DataError(
                f"{origin}:{number}: needs text in `{settings.prompt_column}` and `{settings.answer_column}`, found "
                f"{', '.join(fields) or type(row).__name__}; "
                "set data.prompt_column and data.answer_column"
            )
        pairs.append(Pair(prompt, answer))
    return pairs


def _read_jsonl(path: Path) -> Iterable[tuple[int, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"`data.source`: {path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}:{number}: not JSON: {error.msg}") from error


def _read_hub(settings: DataSettings) -> Iterable[tuple[int, Any]]:
    if not hub_reachable():
        raise DataError(
            f"`data.source`: the hub cannot be reached for {settings.source!r}: save it as a .jsonl file with "
            f"`{settings.prompt_column}` and `{settings.answer_column}` and give the file's path"
        )
    from datasets import load_dataset

    try:
        rows = load_dataset(settings.source, settings.config, split=settings.split, revision=settings.revision)
    except (OSError, ValueError) as error:
        raise DataError(
            f"`data.source`: cannot load {settings.source!r}, split {settings.split!r}: {str(error).splitlines()[0]}; "
            "for a gated set accept its terms on its page and set HF_TOKEN"
        ) from error
    return enumerate(rows, 1)


def normalise(text: str) -> str:
    """Text reduced to what matters for "the same prompt": case, accents' form, punctuation and spacing are dropped."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


def leakage(training: Iterable[str], evaluation: Iterable[str]) -> list[str]:
    """Evaluation prompts whose normalised text is also in the training prompts."""
    seen = {normalise(text) for text in training}
    return [text for text in evaluation if normalise(text) in seen]


def chat_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """The text a reply is generated after: the model's own chat template, or `User: ... Assistant:` without one.

    Control tokens inside the prompt (`<|im_end|>`) are broken up by a space: data never ends a turn.
    """
    prompt = neutralise(tokenizer, prompt)
    if tokenizer.chat_template is None:
        return f"User: {prompt}\nAssistant: "
    turns = [{"role": "user", "content": prompt}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def neutralise(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """`text` without any of the tokenizer's special tokens: a space is put behind their first character."""
    for token in tokenizer.all_special_tokens:
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def encode(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], max_tokens: int) -> list[dict[str, Any]]:
    """Examples {index, input_ids, labels}: labels are -100 on the prompt, the answer and its end-of-turn are learnt.

    Examples longer than `max_tokens` are left out; `DataError` when none is left.
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
    return examples


def _answer_turn(tokenizer: PreTrainedTokenizerBase, pair: Pair) -> str:
    """The answer up to and with the token that ends the assistant's turn, as the template writes it."""
    answer = neutralise(tokenizer, pair.answer)
    text = answer
    if tokenizer.chat_template is not None:
        start = chat_prompt(tokenizer, pair.prompt)
        turns = [
            {"role": "user", "content": neutralise(tokenizer, pair.prompt)},
            {"role": "assistant", "content": answer},
        ]
        whole = str(tokenizer.apply_chat_template(turns, tokenize=False))
        if whole.startswith(start):
            text = whole.removeprefix(start).rstrip()
    ends = tuple(token for token in tokenizer.all_special_tokens if token)
    return text if text.endswith(ends) else text + str(tokenizer.eos_token)


def digest(examples: Sequence[dict[str, Any]], *more: Any) -> str:
    """Hash of encoded examples and of any further JSON values: part of a run's identity."""
    text = json.dumps([[e["input_ids"], e["labels"]] for e in examples]) + json.dumps(more, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
