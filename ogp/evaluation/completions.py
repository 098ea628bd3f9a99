"""Greedy replies to prompts, one record each: generated first, judged later from the record."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ogp.data import Prompt, chat_prompt
from ogp.evaluation.reading import reading

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Completion:
    """A model's reply. `tokens` are the generated ids without padding; `truncated` means no end of turn was reached."""

    prompt: Prompt
    text: str
    tokens: tuple[int, ...]
    truncated: bool


def in_batches(lengths: Sequence[int], size: int, order_seed: int | None = None) -> list[list[int]]:
    """Indices in batches of `size`: of similar length, which wastes least, or in a random order drawn from a seed.

    Sums in other batches round differently: what that alone changes is the noise floor of a figure.
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    if order_seed is not None:
        random.Random(order_seed).shuffle(order)
    return [order[start : start + size] for start in range(0, len(order), size)]


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    batch_size: int,
    order_seed: int | None = None,
    heartbeat: Callable[[], None] = lambda: None,
) -> list[Completion]:
    """Greedy replies in the order of `prompts`; batches are those of `in_batches`. Keeps the training mode.

    The tokens that all prompts begin with, such as a system turn, are read once and their keys and values shared.
    """
    import torch

    rows = [tokenizer.encode(chat_prompt(tokenizer, prompt.prompt), add_special_tokens=False) for prompt in prompts]
    found: dict[int, Completion] = {}
    with reading(model):
        shared = _shared_length(model, rows)
        prefix = torch.tensor([rows[0][:shared]], device=model.device) if shared else None
        read = model(input_ids=prefix, use_cache=True).past_key_values if shared else None
        for chunk in in_batches([len(row) for row in rows], batch_size, order_seed):
            ids, mask = _padded([rows[i] for i in chunk], shared, tokenizer.pad_token_id)
            cache = copy.deepcopy(read)
            if cache is not None:
                cache.batch_repeat_interleave(len(chunk))
            output = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                past_key_values=cache,
                generation_config=_greedy(model, tokenizer, max_new_tokens),
            )
            for i, row in zip(chunk, output[:, ids.shape[1] :].tolist(), strict=True):
                found[i] = _completion(tokenizer, prompts[i], row, _end_tokens(model, tokenizer))
            heartbeat()
    return [found[i] for i in range(len(prompts))]


def _shared_length(model: PreTrainedModel, rows: Sequence[list[int]]) -> int:
    """How many leading tokens all rows share, each keeping one of its own; 0 where a cache forgets early tokens."""
    if len(rows) < 2 or getattr(model.config, "sliding_window", None):
        return 0
    longest = min(len(row) for row in rows) - 1
    return next((t for t in range(longest) if len({row[t] for row in rows}) > 1), longest)


def _padded(rows: Sequence[list[int]], shared: int, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask [rows, longest]; the padding stands between the shared tokens and each row's own."""
    import torch

    width = max(len(row) for row in rows)
    ids = [row[:shared] + [pad] * (width - len(row)) + row[shared:] for row in rows]
    mask = [[1] * shared + [0] * (width - len(row)) + [1] * (len(row) - shared) for row in rows]
    return torch.tensor(ids), torch.tensor(mask)


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that end a turn: the model's own (Gemma names two), and the tokenizer's."""
    own = model.generation_config.eos_token_id if model.generation_config else None
    listed = own if isinstance(own, list) else [own]
    return sorted({token for token in (*listed, tokenizer.eos_token_id) if token is not None})


def _greedy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int) -> GenerationConfig:
    from transformers import GenerationConfig

    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=_end_tokens(model, tokenizer),
    )


def _completion(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, row: list[int], ends: list[int]) -> Completion:
    stops = [position for position, token in enumerate(row) if token in ends]
    tokens = row[: stops[0]] if stops else row
    text = tokenizer.decode(tokens, skip_special_tokens=True).strip()
    return Completion(prompt, text, tuple(tokens), truncated=not stops)
