"""Weight gradients as sums of outer products over tokens: their inner products, and their weighted sum formed once.

A weight W [rows, columns] used as y = x W^T has for objective a the gradient G_a = sum_t d_a[t] x[t]^T, with inputs
x [tokens, columns] and cotangents d_a = d loss_a / d y [tokens, rows]. Inner products of such gradients need none of
them: <G_a, G_b> = sum_t <d_a[t], (M d_b)[t]> with M = x x^T [tokens, tokens], as in the "ghost norms" of private
training (Li et al. 2022, arXiv 2110.05679). An embedding looked up at ids [tokens] has G_a = sum_t e_ids[t] d_a[t]^T.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ogp.step.products import product, product_into

TRAFFIC = 64
"""What a formed gradient costs beside its product, in tokens of that product: it is written, read for the inner
products, and read again to be combined. Measured on one CPU core, where by products alone SmolLM2's layers would change
sides at 260 tokens and really do at about 320."""


class Factors(NamedTuple):
    """Factors of one weight's gradients, `cotangents` one per objective.

    Of a linear layer `inputs` [tokens, columns] and cotangents [tokens, rows]; of an embedding ids [tokens] and what
    came back to the vectors that were looked up, [tokens, columns].
    """

    inputs: Tensor
    cotangents: Sequence[Tensor]


def pays(tokens: int, columns: int, rows: int, objectives: int = 2) -> bool:
    """Whether inner products from factors cost less than forming every gradient but one.

    In multiply-adds tokens^2 (columns + objectives * rows) against (objectives - 1) (tokens + TRAFFIC) columns * rows.
    `rows` is the sum over the weights that read the same inputs, since they have M in common.
    """
    dots = tokens**2 * (columns + objectives * rows)
    return dots < (objectives - 1) * (tokens + TRAFFIC) * columns * rows


def inner_products(together: Sequence[Factors]) -> list[Tensor]:
    """Gramian [objectives, objectives], float64, of each of the linear layers' weights that read the same inputs."""
    inputs = together[0].inputs
    alike = product(inputs, inputs.T)
    return [_table(f.cotangents, [product(alike, d) for d in f.cotangents], symmetric=True) for f in together]


def lookup_inner_products(lookups: Factors, linear: Factors | None) -> Tensor:
    """What an embedding's lookups add to its Gramian [objectives, objectives], float64.

    Where the output head is tied to it (`linear`) that includes the cross terms: only those rows of the head's gradient
    that were looked up meet the lookups.
    """
    ids, place = lookups.inputs.unique(return_inverse=True)
    ours = [d.new_zeros(len(ids), d.shape[1]).index_add_(0, place, d) for d in lookups.cotangents]
    table = _table(ours, ours, symmetric=True)
    if linear is not None:
        theirs = [product(d.index_select(1, ids).T, linear.inputs) for d in linear.cotangents]
        cross = _table(ours, theirs, symmetric=False)
        table += cross + cross.T
    return table


def formed(linear: Factors | None, lookups: Factors | None, weights: Sequence[float], out: Tensor) -> Tensor:
    """sum_a weights[a] G_a, written into `out` [rows, columns]."""
    if linear is not None:
        product_into(out, _weighed(linear.cotangents, weights).T, linear.inputs)
    else:
        out.zero_()
    if lookups is not None:
        out.index_add_(0, lookups.inputs, _weighed(lookups.cotangents, weights))
    return out


def _weighed(cotangents: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    total = cotangents[0] if weights[0] == 1.0 else cotangents[0] * weights[0]
    for cotangent, weight in zip(cotangents[1:], weights[1:], strict=True):
        if weight:
            total = torch.add(total, cotangent, alpha=weight)
    return total


def _table(a: Sequence[Tensor], b: Sequence[Tensor], *, symmetric: bool) -> Tensor:
    """[i, j] float64: <a[i], b[j]>, row by row in their own precision and summed up in float64."""
    places = [(i, j) for i in range(len(a)) for j in range(i if symmetric else 0, len(b))]
    values = torch.stack([torch.linalg.vecdot(a[i], b[j]).sum(dtype=torch.float64) for i, j in places])
    table = values.new_zeros(len(a), len(b))
    for (i, j), value in zip(places, values, strict=True):
        table[i, j] = value
        if symmetric:
            table[j, i] = value
    return table
