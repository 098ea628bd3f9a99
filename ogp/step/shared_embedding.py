"""One gradient buffer for a weight that is input embedding and output head at once.

Autograd forms both parts in full and adds them: for a small model, whose embedding is its largest matrix, that is
a fifth of all gradients written, read and held once more in every backward pass. Here the head's part is handed to
the embedding's backward pass, which adds its few rows to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class SharedEmbedding:
    """The input embedding of a model whose head has the same weight, and that weight's gradient on its way."""

    def __init__(self, embedding: nn.Embedding) -> None:
        self.embedding = embedding
        self._gradient: Tensor | None = None

    @classmethod
    def of(cls, causal_lm: Any) -> SharedEmbedding | None:
        """The shared embedding of `causal_lm`, or None where autograd's own way is needed.

        That is where the two weights differ, are frozen or are looked up in a way of the family's own; where several
        processes reduce gradients; and on a GPU, where adding rows is not deterministic.
        """
        embedding, head = causal_lm.get_input_embeddings(), causal_lm.get_output_embeddings()
        plain = type(embedding) is nn.Embedding and embedding.max_norm is None and not embedding.scale_grad_by_freq
        if not plain or embedding.weight is not head.weight or not embedding.weight.requires_grad:
            return None
        alone = not torch.distributed.is_initialized()
        return cls(embedding) if alone and embedding.weight.device.type == "cpu" else None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Within it the embedding takes the head's part of the gradient into its own."""

        def forward(tokens: Tensor) -> Tensor:
            states: Tensor = _Lookup.apply(self.embedding.weight, tokens, self)
            return states

        self.embedding.forward = forward  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            del self.embedding.forward

    def hand_over(self, gradient: Tensor) -> None:
        """The head's part [vocabulary, width] of the backward pass under way; it is changed in place from here on."""
        self._gradient = gradient

    def add_rows(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """The whole gradient: the head's part plus `rows` [..., width] at `tokens` [...], none at the padding token."""
        gradient, self._gradient = self._gradient, None
        if gradient is None:
            gradient = torch.zeros_like(self.embedding.weight)
        tokens, rows = tokens.flatten(), rows.flatten(0, -2)
        if self.embedding.padding_idx is not None:
            rows = rows * (tokens != self.embedding.padding_idx)[:, None]
        return gradient.index_add_(0, tokens, rows)


class _Lookup(torch.autograd.Function):
    """weight[tokens], whose backward pass comes after the head's."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, tokens: Tensor, shared: SharedEmbedding) -> Tensor:
        ctx.tokens, ctx.shared = tokens, shared
        return nn.functional.embedding(tokens, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, rows: Tensor) -> tuple[Tensor, None, None]:
        return ctx.shared.add_rows(ctx.tokens, rows), None, None
