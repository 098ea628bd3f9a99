"""How far a model moved from its base: KL per answer token, and the loss on the base model's own replies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ogp.data import Prompt, chat_prompt
from ogp.embedded import is_complete, new_folder
from ogp.evaluation.completions import generate, in_batches
from ogp.evaluation.reading import reading

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BASE_BATCH = 16


@dataclass(frozen=True)
class BaseReplies:
    """The base model's own replies and its log-probabilities there.

    `rows`: (prompt ids, reply ids) per prompt. `log_probs`: memory-mapped float32 [sum of reply lengths, vocabulary].
    """

    rows: list[tuple[list[int], list[int]]]
    log_probs: np.ndarray

    def first(self, count: int) -> BaseReplies:
        """The first `count` replies only."""
        rows = self.rows[:count]
        return BaseReplies(rows, self.log_probs[: sum(len(reply) for _, reply in rows)])


@dataclass(frozen=True)
class Drift:
    """Per reply token, in nats: `kl` is KL(base || model), `nll` the model's loss. `reply` and `position` locate it."""

    kl: np.ndarray
    nll: np.ndarray
    reply: np.ndarray
    position: np.ndarray


def base_replies(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    cache: Path,
    model_key: str,
) -> BaseReplies:
    """Replies and log-probabilities of `model`, which must still be the base; kept in `cache` for all runs of a study.

    `model_key` identifies the base's weights. The cache is content-addressed and checked by hash when it is read; its
    batches are always the same, so that it does not matter which run has filled it.
    """
    asked = [chat_prompt(tokenizer, prompt.prompt) for prompt in prompts]
    key = hashlib.sha256(json.dumps([model_key, asked, max_new_tokens]).encode()).hexdigest()[:16]
    folder = cache / f"base-replies-{key}"
    if not is_complete(folder):
        completions = generate(model, tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=BASE_BATCH)
        rows = [
            (tokenizer.encode(text, add_special_tokens=False), list(completion.tokens))
            for text, completion in zip(asked, completions, strict=True)
            if completion.tokens
        ]
        with new_folder(folder) as draft:
            (draft / "rows.json").write_text(json.dumps(rows))
            log_probs = [p.float().cpu().numpy() for p in _log_probs(model, rows, BASE_BATCH)]
            np.save(draft / "log_probs.npy", np.concatenate(log_probs))
    rows = [(prompt, reply) for prompt, reply in json.loads((folder / "rows.json").read_text())]
    return BaseReplies(rows, np.load(folder / "log_probs.npy", mmap_mode="r"))


def measure_drift(
    model: PreTrainedModel, base: BaseReplies, *, batch_size: int, order_seed: int | None = None
) -> Drift:
    """KL from base and NLL on every token of the base's replies (end of turn not counted)."""
    import torch

    kl, nll, start = [], [], 0
    log_probs = _log_probs(model, base.rows, batch_size, order_seed)
    for (_, reply), student in zip(base.rows, log_probs, strict=True):
        student = student.double().cpu()
        teacher = torch.from_numpy(np.array(base.log_probs[start : start + len(reply)])).double()
        start += len(reply)
        kl.append((teacher.exp() * (teacher - student)).sum(-1).numpy())
        nll.append(-student.gather(-1, torch.tensor(reply)[:, None])[:, 0].numpy())
    lengths = [len(reply) for _, reply in base.rows]
    return Drift(
        kl=np.concatenate(kl),
        nll=np.concatenate(nll),
        reply=np.repeat(np.arange(len(lengths)), lengths),
        position=np.concatenate([np.arange(length) for length in lengths]),
    )


def _log_probs(
    model: PreTrainedModel, rows: Sequence[tuple[list[int], list[int]]], batch_size: int, order_seed: int | None = None
) -> list[torch.Tensor]:
    """Per row, log-probabilities [reply length, vocabulary] at the tokens of its reply, in evaluation mode."""
    import torch

    found: dict[int, torch.Tensor] = {}
    with reading(model):
        lengths = [len(prompt) + len(reply) for prompt, reply in rows]
        for indices in in_batches(lengths, batch_size, order_seed):
            chunk = [rows[i] for i in indices]
            width = max(lengths[i] for i in indices)
            ids = torch.zeros(len(chunk), width, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for i, (prompt, reply) in enumerate(chunk):
                length = len(prompt) + len(reply)
                ids[i, :length] = torch.tensor(prompt + reply)
                mask[i, :length] = 1
            body = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device))
            for i, (index, (prompt, reply)) in enumerate(zip(indices, chunk, strict=True)):
                logits = body.logits[i, len(prompt) - 1 : len(prompt) + len(reply) - 1]
                found[index] = logits.float().log_softmax(-1)
    return [found[i] for i in range(len(rows))]
