"""What backward passes leave behind where no weight gradient is formed: each weight's inputs and output cotangents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ogp.step.forwards import Forward, replaced
from ogp.step.products import product


class Tape:
    """Uses of each weight since the last optimizer step, by the weight's number, and whose backward pass this is."""

    def __init__(self) -> None:
        self.uses: dict[int, list[Use]] = {}
        self.objective = 0


class Use:
    """One use of a weight in a forward pass; on the tape from its first backward pass on.

    `inputs` [tokens, columns], or ids [tokens] of an embedding; `cotangents` by objective: [tokens, rows] of what the
    layer put out, of an embedding [tokens, columns].
    """

    def __init__(self, tape: Tape, number: int) -> None:
        self.tape, self.number = tape, number
        self.inputs: Tensor
        self.cotangents: dict[int, Tensor] = {}

    def keep(self, inputs: Tensor, cotangent: Tensor) -> None:
        """Keep what a backward pass brings. Inputs that checkpointing computes again are those already kept."""
        if not self.cotangents:
            self.inputs = inputs.detach()  # without the graph it came from
            self.tape.uses.setdefault(self.number, []).append(self)
        self.cotangents[self.tape.objective] = cotangent

    def cotangent(self, objective: int) -> Tensor:
        """The cotangent of one objective, zero where none came back."""
        found = self.cotangents.get(objective)
        return torch.zeros_like(next(iter(self.cotangents.values()))) if found is None else found


def recording(model: nn.Module, numbers: Mapping[nn.Parameter, int], tape: Tape) -> AbstractContextManager[None]:
    """Within it the weights in `numbers` of linear layers and embeddings get entries on `tape` instead of gradients.

    Of modules of exactly these types: what a subclass makes of its weight is not known, and is left to autograd.
    """
    recorded: list[Any] = [m for m in model.modules() if _is_known(m) and m.weight in numbers]
    return replaced([(m, _recorded(m, tape, numbers[m.weight])) for m in recorded])


def _recorded(module: Any, tape: Tape, number: int) -> Forward:
    make = _recorded_linear if type(module) is nn.Linear else _recorded_embedding
    return make(module, tape, number)


def _is_known(module: Any) -> bool:
    if type(module) is nn.Embedding:
        return module.max_norm is None and not module.scale_grad_by_freq and not module.sparse
    return type(module) is nn.Linear


def _recorded_linear(module: Any, tape: Tape, number: int) -> Callable[[Tensor], Tensor]:
    def forward(inputs: Tensor) -> Tensor:
        outputs: Tensor = _Linear.apply(inputs, module.weight, module.bias, Use(tape, number))
        return outputs

    return forward


def _recorded_embedding(module: Any, tape: Tape, number: int) -> Callable[[Tensor], Tensor]:
    def forward(ids: Tensor) -> Tensor:
        outputs: Tensor = _Embedding.apply(ids, module.weight, module.padding_idx, Use(tape, number))
        return outputs

    return forward


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, use: Use) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.use = use
        return product(inputs.flatten(0, -2), weight.T, bias).view(*inputs.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        flat = cotangent.flatten(0, -2)
        ctx.use.keep(inputs.flatten(0, -2), flat)
        to_inputs = product(flat, weight.to(flat.dtype)).view_as(inputs) if ctx.needs_input_grad[0] else None
        to_bias = flat.sum(0) if ctx.needs_input_grad[2] else None
        return to_inputs, None, to_bias, None


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, padding: int | None, use: Use) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.padding, ctx.use = padding, use
        return F.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[None, ...]:
        ids, flat = ctx.saved_tensors[0].flatten(), cotangent.flatten(0, -2)
        if ctx.padding is not None:  # whose row is never trained
            kept = ids != ctx.padding
            ids, flat = ids[kept], flat[kept]
        ctx.use.keep(ids, flat)
        return None, None, None, None
