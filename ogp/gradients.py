"""Two gradients of one model, side by side: swap, inner products, combination in place. Nothing is ever flattened."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ogp.rules import OPPOSED, TARGET, below_noise

BLOCK = 1 << 18
"""Elements per partial inner product on a CPU: three products read both blocks from the cache, not from memory, and the
partial sums are added in float64. On 2 cores an eighth as many take twice the time."""


class GradientPair:
    """`p.grad` holds the target gradient; this object holds the opposed one for the same parameters.

    Args:
        parameters: the trainable parameters, in a fixed order.
        groups: for each parameter the number of the group it shares one projection with, 0 .. n - 1.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], groups: Sequence[int]) -> None:
        assert len(parameters) == len(groups)
        self.parameters = list(parameters)
        self.groups = torch.tensor(list(groups), dtype=torch.long)
        self.opposed: list[Tensor | None] = [None] * len(self.parameters)

    @contextmanager
    def opposed_in_place(self) -> Iterator[None]:
        """Within it `p.grad` is the opposed accumulator, so that a backward pass and its hooks fill that one."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def products(self) -> Tensor:
        """[tensors, 3] float64 on the CPU: <target, target>, <target, opposed>, <opposed, opposed>, missing ones 0."""
        table = inner_products([(local(p.grad), local(o)) for p, o in zip(self.parameters, self.opposed, strict=True)])
        return summed_over_shards(table, self.parameters)

    def gramian(self) -> Tensor:
        """[groups, 2, 2] float64 on the CPU: inner products of target (0) and opposed (1), missing ones 0."""
        return summed_by_group(self.products(), self.groups)

    def combine(self, weights: Tensor) -> None:
        """p.grad <- w_target * g_target + w_opposed * g_opposed with `weights` [groups, 2]; the opposed one is kept."""
        by_weight: dict[tuple[float, float], list[int]] = {}
        for i, (w_target, w_opposed) in enumerate(weights[self.groups].tolist()):
            by_weight.setdefault((w_target, w_opposed), []).append(i)
        for (w_target, w_opposed), members in by_weight.items():
            targets = [g for i in members if (g := local(self.parameters[i].grad)) is not None]
            if targets and w_target != 1.0:
                torch._foreach_mul_(targets, w_target)
            if w_opposed != 0.0:
                self._add_opposed(members, w_opposed)

    def opposed_gradient(self, number: int) -> Tensor | None:
        """The opposed gradient of one parameter."""
        return self.opposed[number]

    def drop(self) -> None:
        """Forget both gradients: the optimizer skips parameters without one."""
        for p in self.parameters:
            p.grad = None
        self.clear()

    def clear(self) -> None:
        """Forget the opposed gradient, after the optimizer step."""
        self.opposed = [None] * len(self.parameters)

    def _swap(self) -> None:
        for i, p in enumerate(self.parameters):
            p.grad, self.opposed[i] = self.opposed[i], p.grad

    def _add_opposed(self, members: list[int], weight: float) -> None:
        both: tuple[list[Tensor], list[Tensor]] = ([], [])
        for i in members:
            target, opposed = self.parameters[i].grad, self.opposed[i]
            if opposed is None:
                continue
            if target is None:
                self.parameters[i].grad = opposed * weight
            else:
                both[0].append(local(target))
                both[1].append(local(opposed))
        if both[0]:
            torch._foreach_add_(both[0], both[1], alpha=weight)


def local(tensor: Tensor | None) -> Any:
    """This process's shard of a tensor that FSDP2 has sharded, anything else as it is. Shares memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def summed_over_shards(table: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """`table` on the CPU, summed over the processes that hold the shards of `parameters`; unchanged without shards."""
    sharded = next((p for p in parameters if isinstance(p, DTensor)), None)
    if sharded is None:
        return table
    if sharded.device_mesh.ndim != 1:
        raise ValueError("FSDP over a mesh of several dimensions is not supported: shard over all processes")
    on_device = table.to(local(sharded).device)
    torch.distributed.all_reduce(on_device, group=sharded.device_mesh.get_group())
    return on_device.cpu()


def summed_by_group(table: Tensor, groups: Tensor) -> Tensor:
    """Gramians [highest group + 1, 2, 2] out of `table` [tensors, 3] of each tensor's inner products."""
    sums = torch.zeros(int(groups.max()) + 1, 3, dtype=torch.float64).index_add_(0, groups, table)
    return sums[:, [0, 1, 1, 2]].view(-1, 2, 2)


def inner_products(pairs: Sequence[tuple[Tensor | None, Tensor | None]]) -> Tensor:
    """[tensors, 3] float64 on the CPU: <a, a>, <a, b>, <b, b> of each pair; None counts as zero."""
    present = [i for i, (a, b) in enumerate(pairs) if a is not None or b is not None]
    table = torch.zeros(len(pairs), 3, dtype=torch.float64)
    if present:  # one transfer from the device for all of them
        table[present] = torch.stack([torch.stack(_products(*pairs[i])) for i in present]).cpu()
    return table


def applied_update_products(optimizer: torch.optim.Optimizer, pair: GradientPair) -> Tensor:
    """[3] float64: <d, d>, <d, o>, <o, o> of the last AdamW step's parameter change d and the opposed gradient o.

    d is recomputed from the optimizer's state block by block, so that no copy of the parameters is kept: call it after
    the optimizer step and before the learning rate moves. Rounding of half-precision parameters is not part of d.
    """
    numbers = {p: i for i, p in enumerate(pair.parameters)}
    total = torch.zeros(3, dtype=torch.float64)
    for group in optimizer.param_groups:
        for p in group["params"]:
            state = optimizer.state.get(p)
            if not state or p.grad is None:
                continue
            changes = _adamw_changes(p, state, group)
            for change, o in zip_longest(changes, _blocks(local(pair.opposed_gradient(numbers[p])))):
                total += torch.stack(_products(change, o)).cpu()
    return summed_over_shards(total, pair.parameters)


def describe(gramian: Tensor, weights: Tensor, noise: float) -> dict[str, float]:
    """Diagnostics of one optimizer step under their logged names, from the groups' Gramians and weights.

    `projected` and `skipped` are shares of groups (0 or 1 for global granularity). `alignment`, the sign of
    <g_target, g_opposed>, and `cosine` are 0 where the opposed gradient as a whole is below the noise.
    """
    total = gramian.sum(0)
    product, norms = float(total[TARGET, OPPOSED]), total.diagonal().clamp(min=0).sqrt().tolist()
    quiet = bool(below_noise(total, noise))
    removed = math.sqrt(float((weights[:, OPPOSED] ** 2 * gramian[:, OPPOSED, OPPOSED]).sum()))
    return {
        "cosine": 0.0 if quiet or not norms[TARGET] else product / (norms[TARGET] * norms[OPPOSED]),
        "norm_target": norms[TARGET],
        "norm_opposed": norms[OPPOSED],
        "removed_fraction": removed / norms[TARGET] if norms[TARGET] > 0 else 0.0,
        "projected": float((weights[:, OPPOSED] != 0).double().mean()),
        "skipped": float(below_noise(gramian, noise).double().mean()),
        "alignment": 0.0 if quiet else math.copysign(1.0, product) if product else 0.0,
    }


def by_layer(gramians: Tensor) -> list[list[float]]:
    """[cosine, norm_target, norm_opposed] of each Gramian [layers, 2, 2]; a cosine with nothing is 0. Six digits."""
    squares = gramians.diagonal(dim1=1, dim2=2).clamp(min=0)
    norms = squares.sqrt()
    both = norms.prod(dim=1)
    cosines = gramians[:, TARGET, OPPOSED] / torch.where(both > 0, both, torch.ones_like(both))
    return [[float(f"{value:.6g}") for value in row] for row in torch.column_stack([cosines, norms]).tolist()]


def _products(a: Tensor | None, b: Tensor | None) -> list[Tensor]:
    squares_a: list[Tensor] = []
    products: list[Tensor] = []
    squares_b: list[Tensor] = []
    for x, y in zip_longest(_blocks(a), _blocks(b)):
        if x is not None:
            squares_a.append(torch.dot(x, x))
        if x is not None and y is not None:
            products.append(torch.dot(x, y))
        if y is not None:
            squares_b.append(torch.dot(y, y))
    zero = torch.zeros((), dtype=torch.float64, device=(squares_a or squares_b)[0].device)
    return [torch.stack(parts).double().sum() if parts else zero for parts in (squares_a, products, squares_b)]


def _adamw_changes(p: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> Iterator[Tensor]:
    """Blocks of -lr (m' / (sqrt(v') + eps) + decay * p_before), with m', v' the bias-corrected moments."""
    (beta1, beta2), step, rate = group["betas"], float(state["step"]), float(group["lr"])
    correction1, correction2 = 1 - beta1**step, math.sqrt(1 - beta2**step)
    decay = group["weight_decay"]
    held = (_blocks(local(tensor)) for tensor in (p, state["exp_avg"], state["exp_avg_sq"]))
    for after, mean, square in zip(*held, strict=True):
        change = (mean / (square.sqrt().div_(correction2).add_(group["eps"]))).mul_(-rate / correction1)
        if decay:  # p_before = (p_after - change) / (1 - rate * decay)
            change.sub_((after - change) / (1 - rate * decay), alpha=rate * decay)
        yield change


def _blocks(tensor: Tensor | None) -> Iterator[Tensor]:
    """Flat parts in at least float32: short ones on a CPU, the whole tensor elsewhere."""
    if tensor is None:
        return
    flat = tensor.detach().reshape(-1)
    for part in flat.split(BLOCK) if flat.device.type == "cpu" else (flat,):
        yield part if part.dtype in (torch.float32, torch.float64) else part.float()
