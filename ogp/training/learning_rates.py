"""Depth of every parameter, and learning rates that depend on it, for any transformers causal language model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn


def depths(model: nn.Module) -> dict[str, int]:
    """Depth of each parameter by name: embeddings 0, decoder layers 1 .. n, final norm and head n + 1.

    The decoder is the longest list of layers in the model, and whether another module belongs before or after it is
    seen in a forward pass over one token: neither depends on the names or the order one family of models uses. A head
    tied to the embeddings is one parameter with them, at depth 0.
    """
    name, layers = _decoder(model)
    prefix = f"{name}."
    early = _called_before(model, layers[0])
    result = {}
    for module_path, module in model.named_modules():
        for path, parameter in module.named_parameters(module_path, recurse=False):
            if path.startswith(prefix):
                result[path] = int(path[len(prefix) :].split(".")[0]) + 1
            else:
                result[path] = 0 if id(parameter) in early else len(layers) + 1
    return {path: result[path] for path, _ in model.named_parameters()}


def parameter_groups(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float,
    decayed: Collection[str],
    layer_multipliers: Sequence[float] | None = None,
    layer_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Optimizer groups of the trainable parameters, one per learning rate and weight decay.

    Args:
        learning_rate: rate of a factor of 1.
        weight_decay: for the parameters named in `decayed`; 0 for the others.
        layer_multipliers: factors of buckets of equally many layers, first to last; embeddings are in the first
            bucket, final norm and head in the last (the original method: 0.25, 0.5, 0.75, 1.0).
        layer_decay: factor layer_decay ** (deepest - depth), 1 for final norm and head (LLRD).
    """
    uniform = layer_multipliers is None and layer_decay is None
    depth_of = {} if uniform else depths(model)
    chosen: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = 1.0
            if not uniform:
                factor = layer_factor(depth_of[name], max(depth_of.values()), layer_multipliers, layer_decay)
            decay = weight_decay if name in decayed else 0.0
            chosen.setdefault((learning_rate * factor, decay), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in chosen.items()]


def layer_factor(
    depth: int, deepest: int, layer_multipliers: Sequence[float] | None, layer_decay: float | None
) -> float:
    """Learning-rate factor of a parameter at `depth`, 0 (embeddings) to `deepest` (final norm and head)."""
    if layer_multipliers is not None:
        layers, buckets = deepest - 1, len(layer_multipliers)
        # bucket k begins at layer k * layers // buckets, as in the original; layers count from 0
        begun = sum(depth - 1 >= k * layers // buckets for k in range(1, buckets))
        return float(layer_multipliers[begun])
    return 1.0 if layer_decay is None else float(layer_decay ** (deepest - depth))


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The decoder's layers, first to last."""
    return _decoder(model)[1]


def _decoder(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Path and module of the longest list of layers; lists inside a layer (experts) do not count."""
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    outer = [item for item in lists if not any(item[0].startswith(f"{name}.") for name, _ in lists)]
    if not outer:
        raise ValueError("`model` has no list of decoder layers (nn.ModuleList): layer-wise settings need one")
    return max(outer, key=lambda item: len(item[1]))


def _called_before(model: nn.Module, first_layer: nn.Module) -> set[int]:
    """Ids of the parameters of all modules that run before `first_layer` in a forward pass over one token."""
    seen: list[nn.Module] = []
    handles = [m.register_forward_pre_hook(lambda module, _: seen.append(module)) for m in model.modules()]
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(input_ids=torch.zeros(1, 1, dtype=torch.long, device=next(model.parameters()).device))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    before = seen[: seen.index(first_layer)]
    return {id(parameter) for module in before for parameter in module.parameters(recurse=False)}
