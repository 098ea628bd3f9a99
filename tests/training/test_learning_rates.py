"""Depths of parameters and layer-wise learning rates, over families that name and order their modules differently."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Trainer

from ogp.training.learning_rates import depths, layer_factor, parameter_groups
from tests import tiny

EARLY = ("embed_tokens", "wte", "wpe", "embed_in", "embed_positions", "project_in")
FAMILIES = ["opt", "gpt_neox", "phi", "gemma2", "qwen3", "cohere", "granite"]


def families() -> list[Any]:
    return [tiny.llama(tied=True), tiny.llama(), tiny.gpt2(), *(tiny.of_family(name) for name in FAMILIES)]


@pytest.mark.parametrize("model", families(), ids=lambda m: type(m).__name__)
def test_every_parameter_has_the_depth_it_runs_at(model: Any) -> None:
    layers = model.config.num_hidden_layers
    found = depths(model)
    assert list(found) == [name for name, _ in model.named_parameters()]
    for name, depth in found.items():
        numbers = [int(part) for part in name.split(".") if part.isdigit()]
        if numbers:
            assert depth == numbers[0] + 1, name
        else:
            assert depth == (0 if any(part in name for part in EARLY) else layers + 1), name


def test_a_forward_pass_of_the_check_leaves_no_trace() -> None:
    model = tiny.gpt2(dropout=0.5).train()
    before = torch.get_rng_state()
    depths(model)
    assert model.training
    assert torch.equal(before, torch.get_rng_state())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_adapters_have_the_depth_of_their_layer() -> None:
    model = tiny.with_lora(tiny.llama(layers=3))
    found = depths(model)
    trained = {name: found[name] for name, p in model.named_parameters() if p.requires_grad}
    assert {int(name.split("layers.")[1][0]) + 1 - depth for name, depth in trained.items()} == {0}


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (8, [0.25, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1.0, 1.0, 1.0]),
        (4, [0.25, 0.25, 0.5, 0.75, 1.0, 1.0]),
        (3, [0.25, 0.5, 0.75, 1.0, 1.0]),
        (18, [0.25] * 5 + [0.5] * 5 + [0.75] * 4 + [1.0] * 6),  # gemma-2b: the original's boundaries are 4, 9 and 13
        (30, [0.25] * 8 + [0.5] * 8 + [0.75] * 7 + [1.0] * 9),
    ],
)
def test_buckets_begin_where_the_originals_do(layers: int, expected: list[float]) -> None:
    found = [layer_factor(depth, layers + 1, (0.25, 0.5, 0.75, 1.0), None) for depth in range(layers + 2)]
    assert found == expected


def test_geometric_decay_is_one_at_the_head() -> None:
    found = [layer_factor(depth, 4, None, 0.5) for depth in range(5)]
    assert found == [0.0625, 0.125, 0.25, 0.5, 1.0]


@pytest.mark.parametrize("options", [{}, {"layer_decay": 0.9}, {"layer_multipliers": (0.1, 1.0)}])
@pytest.mark.parametrize(
    "model", [tiny.llama(tied=True), tiny.gpt2(), tiny.with_lora(tiny.llama())], ids=["a", "b", "c"]
)
def test_groups_hold_each_trainable_parameter_once(model: Any, options: dict[str, Any]) -> None:
    decayed = set(Trainer.get_decay_parameter_names(None, model))  # type: ignore[arg-type]
    groups = parameter_groups(model, 2e-3, 0.1, decayed, **options)
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert all(group["lr"] <= 2e-3 for group in groups)
    names = {id(p): name for name, p in model.named_parameters()}
    for group in groups:
        assert {names[id(p)] in decayed for p in group["params"]} == {group["weight_decay"] > 0}
    if not options:
        assert {group["lr"] for group in groups} == {2e-3}


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="no list of decoder layers"):
        depths(torch.nn.Linear(2, 2))
