"""The last layer's feed-forward block, computed only for the tokens whose result is read.

Attention mixes tokens, so up to the last layer every token matters to the losses. After its attention nothing mixes
them any more, and only loss-carrying positions are read: the rest of the block's work changes no loss and no gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ogp.training.learning_rates import decoder_layers

PROBE_TOKENS = 4


class LastFeedForward:
    """The feed-forward block of the last decoder layer, for as long as `at` says which tokens are read."""

    def __init__(self, block: nn.Module) -> None:
        self.block: Any = block
        self._rows: Tensor | None = None

    @classmethod
    def of(cls, causal_lm: Any) -> LastFeedForward | None:
        """That of `causal_lm`, or None for families without a block `mlp` that treats each token by itself."""
        block = getattr(decoder_layers(causal_lm)[-1], "mlp", None)
        return cls(block) if block is not None and _token_by_token(block, causal_lm) else None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Within it the block understands `at`."""
        whole, outer = self.block.forward, self.block.__dict__.get("forward")

        def forward(states: Tensor) -> Tensor:
            if self._rows is None:
                result: Tensor = whole(states)
                return result
            tokens = states.flatten(0, 1)
            read = whole(tokens.index_select(0, self._rows)[None])[0]
            return read.new_zeros(len(tokens), read.shape[-1]).index_copy(0, self._rows, read).view_as(states)

        self.block.forward = forward
        try:
            yield
        finally:
            del self.block.forward
            if outer is not None:
                self.block.forward = outer

    @contextmanager
    def at(self, positions: Tensor) -> Iterator[None]:
        """Within it, forward and backward, the block works for these of the flattened [rows * width] tokens only."""
        self._rows = positions.unique()  # examples may share a position, and its gradient must arrive once
        try:
            yield
        finally:
            self._rows = None


@torch.no_grad()
def _token_by_token(block: nn.Module, causal_lm: Any) -> bool:
    """Whether one token's result depends on no other token, as routed experts' may: tried on a few random ones."""
    weight = next(block.parameters())
    generator = torch.Generator().manual_seed(0)
    width = causal_lm.config.get_text_config().hidden_size
    states = torch.randn(1, PROBE_TOKENS, width, generator=generator).to(weight)
    was_training = block.training
    block.eval()
    try:
        whole, part = block(states), block(states[:, ::2])
    finally:
        block.train(was_training)
    return isinstance(whole, Tensor) and torch.allclose(whole[:, ::2], part, rtol=1e-2, atol=1e-3)
