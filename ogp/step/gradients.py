"""Several gradients of one model: swap, inner products, combination in place. Nothing is ever flattened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import combinations_with_replacement, zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ogp.rules import OPPOSED, TARGET

BLOCK = 1 << 18
"""Elements per partial inner product on a CPU: all products read a block from the cache, not from memory, and the
partial sums are added in float64. On 2 cores an eighth as many take twice the time."""


class GradientSet:
    """`p.grad` holds the target gradient, number 0; this object holds gradients 1 .. k for the same parameters.

    Memory is that of the gradients asked for: k times the parameters.

    Args:
        parameters: the trainable parameters, in a fixed order.
        groups: for each parameter the number of the group it shares one projection with, 0 .. n - 1.
        others: k, the gradients beside the target.
        stored_as: dtype the others are held in, instead of the parameters' own; inner products are as precise.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        groups: Sequence[int],
        others: int = 1,
        stored_as: torch.dtype | None = None,
    ) -> None:
        assert len(parameters) == len(groups)
        self.parameters = list(parameters)
        self.groups = torch.tensor(list(groups), dtype=torch.long)
        self.others: list[list[Tensor | None]] = [[None] * len(self.parameters) for _ in range(others)]
        self.stored_as = stored_as

    @contextmanager
    def in_place(self, which: int) -> Iterator[None]:
        """Within it `p.grad` is the accumulator of gradient `which`, so that a backward pass and its hooks fill it."""
        if which == TARGET:
            yield
        elif self.stored_as is not None:
            with self._moved_out(self.others[which - OPPOSED]):
                yield
        else:
            self._swap(which)
            try:
                yield
            finally:
                self._swap(which)

    def products(self) -> Tensor:
        """[tensors, 1 + k, 1 + k] float64 on the CPU: inner products of all gradients, tensor by tensor; missing: 0."""
        rows = [[local(p.grad), *map(local, held)] for p, *held in zip(self.parameters, *self.others, strict=True)]
        return summed_over_shards(inner_products(rows), self.parameters)

    def gramian(self) -> Tensor:
        """[groups, 1 + k, 1 + k] float64 on the CPU."""
        return summed_by_group(self.products(), self.groups)

    def combine(self, weights: Tensor) -> None:
        """p.grad <- sum_i weights[i] * g_i with `weights` [groups, 1 + k]; the other gradients are kept."""
        by_weights: dict[tuple[float, ...], list[int]] = {}
        for number, row in enumerate(weights[self.groups].tolist()):
            by_weights.setdefault(tuple(row), []).append(number)
        for (w_target, *rest), members in by_weights.items():
            targets = [g for i in members if (g := local(self.parameters[i].grad)) is not None]
            if targets and w_target != 1.0:
                torch._foreach_mul_(targets, w_target)
            for which, weight in enumerate(rest, OPPOSED):
                if weight != 0.0:
                    self._add(which, members, weight)

    def held(self, which: int, number: int) -> Tensor | None:
        """Gradient `which`, 1 .. k, of parameter `number`."""
        return self.others[which - OPPOSED][number]

    def scale(self, factor: float) -> None:
        """Multiply all gradients but the target."""
        tensors = [local(g) for held in self.others for g in held if g is not None]
        if tensors:
            torch._foreach_mul_(tensors, factor)

    def drop(self) -> None:
        """Forget all gradients: the optimizer skips parameters without one."""
        for p in self.parameters:
            p.grad = None
        self.clear()

    def clear(self) -> None:
        """Forget all gradients but the target, after the optimizer step."""
        self.others = [[None] * len(self.parameters) for _ in self.others]

    @contextmanager
    def _moved_out(self, held: list[Tensor | None]) -> Iterator[None]:
        """Within it every gradient is added to `held` as soon as it is whole, so that it never stands beside others."""

        def move(number: int, p: Tensor) -> None:
            if p.grad is not None:
                before, held[number] = held[number], p.grad.to(self.stored_as)
                if before is not None:
                    held[number] = before.add_(p.grad)
                p.grad = None

        targets = [p.grad for p in self.parameters]
        for p in self.parameters:
            p.grad = None
        handles = [p.register_post_accumulate_grad_hook(partial(move, i)) for i, p in enumerate(self.parameters)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for number, (p, target) in enumerate(zip(self.parameters, targets, strict=True)):
                move(number, p)  # FSDP2 leaves a gradient without calling the hook
                p.grad = target

    def _swap(self, which: int) -> None:
        held = self.others[which - OPPOSED]
        for i, p in enumerate(self.parameters):
            p.grad, held[i] = held[i], p.grad

    def _add(self, which: int, members: list[int], weight: float) -> None:
        both: tuple[list[Tensor], list[Tensor]] = ([], [])
        for i in members:
            target, other = self.parameters[i].grad, self.others[which - OPPOSED][i]
            if other is None:
                continue
            if target is None:
                self.parameters[i].grad = other * weight
            else:
                both[0].append(local(target))
                both[1].append(local(other))
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
    """Gramians [highest group + 1, n, n] out of `table` [tensors, n, n] of each tensor's inner products."""
    return table.new_zeros(int(groups.max()) + 1, *table.shape[1:]).index_add_(0, groups, table)


def inner_products(rows: Sequence[Sequence[Tensor | None]]) -> Tensor:
    """[rows, n, n] float64 on the CPU: <a_i, a_j> of the n tensors of each row; None counts as zero."""
    count = len(rows[0])
    table = torch.zeros(len(rows), count * (count + 1) // 2, dtype=torch.float64)
    present = [i for i, row in enumerate(rows) if any(a is not None for a in row)]
    if present:  # one transfer from the device for all of them
        table[present] = torch.stack([upper_triangle([blocks(a) for a in rows[i]]) for i in present]).cpu()
    return symmetric(table)


def upper_triangle(vectors: Sequence[Iterator[Tensor]]) -> Tensor:
    """[n (n + 1) / 2] float64 on the device: <a_i, a_j>, i <= j, of n vectors as `blocks`; missing ones are empty."""
    pairs = list(combinations_with_replacement(range(len(vectors)), 2))
    sums: list[list[Tensor]] = [[] for _ in pairs]
    for parts in zip_longest(*vectors):
        for found, (i, j) in zip(sums, pairs, strict=True):
            if parts[i] is not None and parts[j] is not None:
                found.append(torch.dot(parts[i], parts[j]))
    device = next(found[0].device for found in sums if found)
    zero = torch.zeros((), dtype=torch.float64, device=device)
    return torch.stack([torch.stack(found).double().sum() if found else zero for found in sums])


def symmetric(table: Tensor) -> Tensor:
    """[..., n, n] out of upper triangles [..., n (n + 1) / 2], row by row."""
    count = int((2 * table.shape[-1]) ** 0.5)
    row, column = torch.triu_indices(count, count)
    place = torch.zeros(count, count, dtype=torch.long)
    place[row, column] = place[column, row] = torch.arange(table.shape[-1])
    return table[..., place]


def blocks(tensor: Tensor | None) -> Iterator[Tensor]:
    """Flat parts in at least float32: short ones on a CPU, the whole tensor elsewhere."""
    if tensor is None:
        return
    flat = tensor.detach().reshape(-1)
    for part in flat.split(BLOCK) if flat.device.type == "cpu" else (flat,):
        yield part if part.dtype in (torch.float32, torch.float64) else part.float()
