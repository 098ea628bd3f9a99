"""A tiny random model and the tasks' own items, to compare lm-eval with arithmetic done by hand."""

from __future__ import annotations

import json
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ogp.evaluation.capability import TASK_FOLDER


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (TASK_FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def tiny_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0, **settings: Any) -> LlamaForCausalLM:
    """A random two-layer Llama with weights large enough that no two choices come close."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
        initializer_range=0.3,
        **settings,
    )
    return LlamaForCausalLM(config).eval()
