"""The last feed-forward block works for the tokens that are read, and losses and gradients do not notice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ogp.step.engines import DualEngine
from ogp.step.last_layer import LastFeedForward
from tests import tiny
from tests.oracle import oracle
from tests.step.test_engines import EXAMPLES, assert_same, outcome


def last_block(model: Any) -> Any:
    return model.model.layers[-1].mlp


def counting(block: nn.Module) -> list[int]:
    """Tokens of each call of `block` from now on."""
    seen: list[int] = []
    block.gate_proj.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[:-1].numel()))
    return seen


@pytest.mark.parametrize("checkpointing", [False, True])
def test_only_loss_carrying_tokens_are_computed_and_nothing_changes(checkpointing: bool, tmp_path: Path) -> None:
    made = lambda: tiny.llama(tied=True, dtype=torch.float64)  # noqa: E731
    expected = oracle(tiny.nudged(made()), made(), EXAMPLES, "answer", "forward")
    model = made()
    seen = counting(last_block(model))
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    found = outcome(DualEngine, model, tmp_path)
    assert_same(found, expected, 1e-10)
    carrying = sum(label != -100 for example in EXAMPLES for label in example["labels"][1:])
    assert seen[-1] == carrying


def test_a_position_that_two_examples_share_gets_its_gradient_once() -> None:
    model = tiny.llama(dtype=torch.float64)
    block = LastFeedForward.of(model)
    assert block is not None
    states = torch.randn(1, 6, 16, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([4, 1, 4])
    with block.installed(), block.at(rows):
        last_block(model)(states).flatten(0, 1)[rows].sum().backward()
    found, states.grad = states.grad, None
    last_block(model)(states).flatten(0, 1)[rows].sum().backward()
    assert torch.allclose(found, states.grad, rtol=1e-12, atol=0)


def test_outside_a_step_every_token_is_computed() -> None:
    model = tiny.llama(dtype=torch.float64)
    block = LastFeedForward.of(model)
    states = torch.randn(2, 3, 16, dtype=torch.float64)
    plain = last_block(model)(states)
    with block.installed():
        with block.at(torch.tensor([0])):
            last_block(model)(states)
        assert torch.equal(last_block(model)(states), plain)
    assert "forward" not in last_block(model).__dict__


def test_a_block_that_mixes_tokens_is_left_alone() -> None:
    model = tiny.llama()

    class Mixing(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return self.inner(states) + states.mean(1, keepdim=True)

    model.model.layers[-1].mlp = Mixing(last_block(model))
    assert LastFeedForward.of(model) is None
