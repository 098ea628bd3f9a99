"""What is trained while the clock runs: a real model, fixed batches, one optimizer, and what theory says it costs."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ogp.config import DataSettings, LoraSettings, ModelSettings
from ogp.data import encode
from ogp.models import load_model
from ogp.pairs import load_pairs
from ogp.step.batches import IGNORE, Batch, Example, Positions
from ogp.step.causal_lm import base_causal_lm, choose_collator, head_of
from ogp.step.last_layer import LastLayer

THREADS = int(os.environ.get("OMP_NUM_THREADS", "2"))
BATCH, TOKENS = 8, 64
SHORT = 4, 32
"""Rows and tokens of a batch so small that book-keeping pays."""
STUDY_BATCHES = 4
LEARNING_RATE = 1e-7
"""Of no importance for time; so small that every competitor works on practically the same weights and losses."""
NUDGE = 1e-3
"""Standard deviation of what is added to the student: on the teacher's own weights no projection would happen."""


@dataclass(frozen=True)
class Workload:
    """A student still at the teacher's weights, the batches it is trained on in turn, and its AdamW."""

    name: str
    model: Any
    batches: list[list[Example]]
    pad_id: int
    optimizer: torch.optim.Optimizer
    micro_batches: int = 1

    def parts(self, batch: list[Example]) -> list[list[Example]]:
        """The micro-batches that one optimizer step takes a batch in, all of the same size."""
        size = len(batch) // self.micro_batches
        assert size * self.micro_batches == len(batch), "micro-batches of the same size"
        return [batch[start : start + size] for start in range(0, len(batch), size)]

    @property
    def examples(self) -> list[Example]:
        """The training set: every example of every batch, in order of `index`."""
        return sorted((e for batch in self.batches for e in batch), key=lambda e: int(e["index"]))


def load(name: str) -> Workload:
    """`full` and `lora` (8 x 64 random tokens, half of them answers), `short` (4 x 32), `study` (the core study's)."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    lora = LoraSettings.model_validate({}) if name == "lora" else None
    model, tokenizer = load_model(ModelSettings.model_validate({"source": "embedded:original", "lora": lora}))
    if torch.cuda.is_available():
        model = model.cpu()  # the clock below is a CPU's: it does not wait for kernels in flight
    rows, tokens = SHORT if name == "short" else (BATCH, TOKENS)
    batches = study_batches(tokenizer) if name == "study" else [random_batch(len(tokenizer), rows, tokens)]
    return make(name, model, batches, int(tokenizer.pad_token_id))


def make(name: str, model: Any, batches: list[list[Example]], pad_id: int, micro_batches: int = 1) -> Workload:
    """A workload of any model: in training mode, with the fused AdamW that transformers.Trainer takes by default."""
    model.train()
    optimizer = torch.optim.AdamW(trainable(model), lr=LEARNING_RATE, fused=True)
    return Workload(name, model, batches, pad_id, optimizer, micro_batches)


def random_batch(vocabulary: int, rows: int = BATCH, tokens: int = TOKENS, answers: float = 0.5) -> list[Example]:
    """Rows of the same length without a common beginning; the last `answers` of each is the answer."""
    draw = random.Random(0)
    prompt = tokens - round(tokens * answers)
    batch: list[Example] = []
    for index in range(rows):
        row = [draw.randrange(vocabulary) for _ in range(tokens)]
        labels = [IGNORE] * prompt + row[prompt:]
        batch.append({"index": index, "input_ids": row, "labels": labels})
    return batch


def study_batches(tokenizer: Any) -> list[list[Example]]:
    """The core study's training examples in a random order, at their own lengths and with the chat template."""
    settings = DataSettings.model_validate({})
    pairs = load_pairs(settings)
    random.Random(0).shuffle(pairs)
    examples = encode(tokenizer, pairs[: STUDY_BATCHES * BATCH], settings.max_tokens)
    return [list(examples[start : start + BATCH]) for start in range(0, len(examples), BATCH)]


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that training changes."""
    return [p for p in model.parameters() if p.requires_grad]


@torch.no_grad()
def leave_teacher(model: nn.Module) -> None:
    """Move the student off the teacher's weights, as after some steps of training."""
    generator = torch.Generator().manual_seed(0)
    for parameter in trainable(model):
        parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter), alpha=NUDGE)


def stock_batch(examples: list[Example], pad_id: int) -> Batch:
    """{input_ids, attention_mask, labels} padded on the right to the longest example: what stock training is fed."""
    width = max(len(e["input_ids"]) for e in examples)

    def padded(name: str, fill: int) -> torch.Tensor:
        return torch.tensor([list(e[name]) + [fill] * (width - len(e[name])) for e in examples])

    mask = torch.tensor([[1] * len(e["input_ids"]) + [0] * (width - len(e["input_ids"])) for e in examples])
    return {"input_ids": padded("input_ids", pad_id), "attention_mask": mask, "labels": padded("labels", IGNORE)}


def expected_flop_ratio(workload: Workload) -> float:
    """FLOPs of the `dual` engine over those of stock SFT by the cost model: matrix products with weights only.

    Per weight and token 2 for the forward pass, 2 for the activations' gradient, 2 for the weight's own gradient.
    Full: the decoder costs 2 + 4 for stock, 2 + 2 x 4 for dual; the head 6, and 2 (student) + 2 (teacher) + 2 x 4 on
    loss-carrying rows. LoRA: frozen weights cost 2 + 2 and 2 + 2 x 2, adapters as above; the head 4 on either side,
    since a frozen head needs no teacher logits and one product for both gradients. The last layer, too, works on
    loss-carrying rows only, except for its keys and values.
    """
    collate, _ = choose_collator(workload.model, Positions(workload.examples, "answer"), workload.pad_id)
    parts = [part for batch in workload.batches for part in workload.parts(batch)]
    batches = [collate(part) for part in parts]
    stock = sum(stock_batch(part, workload.pad_id)["input_ids"].numel() for part in parts)
    ours, rows = sum(b["input_ids"].numel() for b in batches), sum(len(b["positions"]) for b in batches)
    causal_lm = base_causal_lm(workload.model)
    head = head_of(causal_lm).weight
    last = {id(p) for part in LastLayer.of(causal_lm).parts for p in part.parameters()}
    sft = dual = 0
    for name, weight in causal_lm.named_parameters():
        if "layers." in name and weight.ndim == 2:
            frozen = not head.requires_grad and "lora_" not in name
            sft += weight.numel() * stock * (4 if frozen else 6)
            dual += weight.numel() * (rows if id(weight) in last else ours) * (6 if frozen else 10)
    sft += head.numel() * stock * (6 if head.requires_grad else 4)
    dual += head.numel() * rows * (12 if head.requires_grad else 4)
    return dual / sft
