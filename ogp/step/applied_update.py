"""The change an AdamW step has really made, beside the gradients it should have to do with, and its projection.

Momentum, the division by the second moment, weight decay and layer-wise rates all turn a step away from the gradient
it was made from: what was orthogonal before is not any more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ogp.rules import OPPOSED
from ogp.step.gradients import GradientSet, blocks, local, summed_over_shards, symmetric, upper_triangle


def update_products(optimizer: torch.optim.Optimizer, gradients: GradientSet) -> Tensor:
    """[tensors, 1 + k, 1 + k] float64: inner products of the last step's change d (number 0) and gradients 1 .. k.

    d is recomputed from the optimizer's state block by block, so that no copy of the parameters is kept: call it after
    the optimizer step and before the learning rate moves. Rounding of the parameters is not part of d. Parameters that
    do not move, for want of a gradient or of a learning rate, count as missing altogether.
    """
    count = 1 + len(gradients.others)
    table = torch.zeros(len(gradients.parameters), count * (count + 1) // 2, dtype=torch.float64)
    found = []
    for number, group in _moved(optimizer, gradients):
        change = adamw_change(gradients.parameters[number], optimizer.state[gradients.parameters[number]], group)
        held = [blocks(local(gradients.held(which, number))) for which in range(OPPOSED, count)]
        found.append((number, upper_triangle([change, *held])))
    if found:  # one transfer from the device for all of them
        table[[number for number, _ in found]] = torch.stack([products for _, products in found]).cpu()
    return summed_over_shards(symmetric(table), gradients.parameters)


@torch.no_grad()
def correct_update(optimizer: torch.optim.Optimizer, gradients: GradientSet, weights: Tensor) -> None:
    """Parameters that moved <- parameters - sum_i weights[i] g_i, i = 1 .. k, with `weights` [groups, 1 + k].

    With the weights a rule gives for -d as its target, the whole change becomes what the rule makes of d.
    """
    by_number = weights[gradients.groups].tolist()
    for number, _ in _moved(optimizer, gradients):
        for which, weight in enumerate(by_number[number][OPPOSED:], OPPOSED):
            other = local(gradients.held(which, number))
            if other is not None and weight != 0.0:
                local(gradients.parameters[number]).sub_(other, alpha=weight)


def _moved(optimizer: torch.optim.Optimizer, gradients: GradientSet) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and optimizer group of every parameter that the last step moved."""
    numbers = {p: i for i, p in enumerate(gradients.parameters)}
    for group in optimizer.param_groups:
        for p in group["params"]:
            if float(group["lr"]) > 0 and optimizer.state.get(p) and p.grad is not None:
                yield numbers[p], group


def adamw_change(p: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> Iterator[Tensor]:
    """Blocks of -lr (m' / (sqrt(v') + eps) + decay * p_before), with m', v' the bias-corrected moments."""
    (beta1, beta2), step, rate = group["betas"], float(state["step"]), float(group["lr"])
    correction1, correction2 = 1 - beta1**step, math.sqrt(1 - beta2**step)
    decay = group["weight_decay"]
    held = (blocks(local(tensor)) for tensor in (p, state["exp_avg"], state["exp_avg_sq"]))
    for after, mean, square in zip(*held, strict=True):
        change = (mean / (square.sqrt().div_(correction2).add_(group["eps"]))).mul_(-rate / correction1)
        if decay:  # p_before = (p_after - change) / (1 - rate * decay)
            change.sub_((after - change) / (1 - rate * decay), alpha=rate * decay)
        yield change
