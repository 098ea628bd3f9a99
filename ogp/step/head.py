"""Both losses and all their gradients from one chunked pass over the output head.

The head is the largest matrix of a small model and its logits the largest tensor of a step, so nothing here is left to
autograd: per chunk of rows the student's and the teacher's logits are turned in place into `softmax - onehot` and
`p_student - p_teacher` (formed in float32, because close to the teacher the difference of two rounded gradients is
noise), and those into gradients for the hidden states and the head. Memory is O(chunk x vocabulary), flat in tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ogp.step.objectives import IGNORE, KlDirection, to_cotangents
from ogp.step.products import product, product_into
from ogp.step.shared_embedding import SharedEmbedding
from ogp.step.tape import Use

CHUNK_ROWS = {"cpu": 128, "cuda": 1024}
"""Rows of logits formed at once: fewer starve the matrix products, more only cost memory."""
CACHE_BYTES = 1 << 20
"""Logits handled at once by the element-wise part on a CPU: what stays in a core's cache between its passes."""


@dataclass(frozen=True)
class Head:
    """logits = soft_cap(scale * (hidden @ weight.T + bias)), soft_cap(z) = cap * tanh(z / cap).

    `weight` [vocabulary, width], `bias` [vocabulary] or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    soft_cap: float | None = None
    operands: torch.dtype | None = None
    """Half precision the matrix products read on a GPU under autocast; their results are float32 all the same."""

    def detached(self, copy: bool) -> Head:
        """The same head without gradient; `copy` freezes its present values, which a trained head needs."""
        weight, bias = self.weight.detach(), None if self.bias is None else self.bias.detach()
        if copy:
            weight, bias = weight.clone(), None if bias is None else bias.clone()
        return replace(self, weight=weight, bias=bias)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [rows, vocabulary] of `hidden` [rows, width], float32 or float64."""
        logits = self.product(hidden, self.weight.T)
        if self.bias is not None:
            logits += self.bias
        if self.scale != 1.0:
            logits *= self.scale
        if self.soft_cap is not None:
            logits.div_(self.soft_cap).tanh_().mul_(self.soft_cap)
        return logits

    def product(self, a: Tensor, b: Tensor, add_to: Tensor | None = None) -> Tensor:
        """a @ b in float32 (float64): new, or added to `add_to` in place."""
        if self.operands is not None and a.device.type == "cuda":
            result = torch.mm(a.to(self.operands), b.to(self.operands), out_dtype=torch.float32)
            return result if add_to is None else add_to.add_(result)
        precision = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
        a, b = a.to(precision), b.to(precision)
        if add_to is not None:
            return product_into(add_to, a, b, add=True)
        return product(a, b) if a.is_contiguous() else product_into(a.new_empty(len(a), b.shape[1]), a, b)


@dataclass(frozen=True)
class Teacher:
    """What the frozen teacher says about the rows of a batch, in one of two forms.

    `head` given: `states` [rows, width] are its final hidden states. `head` None (the student's head is frozen too):
    `states` [rows, width + 1] come from `expected_embeddings`, and no teacher logits are needed at all.
    """

    states: Tensor
    head: Head | None


def expected_embeddings(hidden: Tensor, head: Head) -> Tensor:
    """[rows, width + 1]: r = scale * softmax(logits) @ weight, then sum_v p_v (log p_v - scale * bias_v).

    With q the student's distribution, Q = scale * q @ weight and a head shared by both:
    d KL(p || q) / d hidden = Q - r, and KL(p || q) = last column - hidden . r + logsumexp(logits).
    """
    if head.soft_cap is not None:
        raise ValueError("`expected_embeddings` needs logits that are linear in the hidden state: no `soft_cap`")
    log_p = torch.log_softmax(head.logits(hidden), dim=-1)
    p = log_p.exp()
    constant = torch.linalg.vecdot(p, log_p)
    if head.bias is not None:
        constant = constant - head.scale * (p @ head.bias.to(p.dtype))
    return torch.cat([head.scale * head.product(p, head.weight), constant[:, None]], dim=1)


def two_losses(
    hidden: Tensor,
    head: Head,
    labels: Tensor,
    teacher: Teacher | None,
    target_tokens: float,
    opposed_tokens: float,
    kl_direction: KlDirection = "forward",
    new_use: Callable[[], Use] | None = None,
    shared: SharedEmbedding | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy on `labels` and KL between teacher and student, each summed over rows and divided by its tokens.

    Args:
        hidden: [rows, width], final hidden states at loss-carrying positions.
        head: the student's output head; gradients flow to its weight and bias where they require one.
        labels: [rows], the next token, or -100 on rows that carry only the opposed loss.
        teacher: what the teacher says on the same rows; None leaves the opposed loss out (0, without gradient).
        target_tokens, opposed_tokens: divisors, the loss-carrying tokens of the whole optimizer step.
        kl_direction: forward KL(teacher || student), reverse KL(student || teacher), or jensen_shannon (natural log).
        new_use: where the factors of the weight's gradients go, instead of the weight getting gradients.
        shared: takes the weight's gradient in autograd's place, see `SharedEmbedding`.

    Returns:
        Two scalars in float32 (float64 for a float64 model). Each can be sent backward once, in any order, together
        or apart, with `retain_graph` on all but the last: its gradients are handed over, not copied.
    """
    if teacher is not None and teacher.head is None and (kl_direction != "forward" or head.weight.requires_grad):
        raise ValueError("`teacher.head` is needed unless the head is frozen and `kl_direction` is 'forward'")
    job = _Job(head, labels, teacher, target_tokens, opposed_tokens, kl_direction, new_use, shared)
    weight = head.weight if shared is None else head.weight.detach()
    losses: tuple[Tensor, Tensor] = _TwoLosses.apply(hidden, weight, head.bias, job)
    return losses


class _Job(NamedTuple):
    """Everything the pass needs that takes no gradient."""

    head: Head
    labels: Tensor
    teacher: Teacher | None
    target_tokens: float
    opposed_tokens: float
    kl_direction: KlDirection
    new_use: Callable[[], Use] | None
    shared: SharedEmbedding | None


class _Cotangents(NamedTuple):
    """d loss / d (hidden, weight, bias), None where none is needed."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None


class _TwoLosses(torch.autograd.Function):
    """Both losses and, already in the forward pass, all their gradients."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, job: _Job) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        with torch.autocast(hidden.device.type, enabled=False):
            of_hidden, of_weight, of_bias = ctx.needs_input_grad[:3]
            run = _Pass(hidden, job, (of_hidden, of_weight or job.shared is not None, of_bias))
            step = CHUNK_ROWS[hidden.device.type]
            for start in range(0, len(hidden), step):
                run.chunk(slice(start, min(start + step, len(hidden))))
        ctx.cotangents, ctx.kept, ctx.shared = run.cotangents(), run.kept, job.shared
        return run.losses[0], run.losses[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *factors: Tensor | None) -> tuple[Tensor | None, ...]:
        total: list[Tensor | None] = [None, None, None]
        for which, factor in enumerate(factors):
            if factor is None:
                continue
            if ctx.cotangents[which] is None:
                raise RuntimeError("each loss of `two_losses` can be sent backward once: run the forward pass again")
            for i, part in enumerate(ctx.cotangents[which]):
                if part is not None:
                    before, part = total[i], _scaled(part, factor)
                    total[i] = part if before is None else before + part
            for use, inputs, cotangent in ctx.kept[which]:
                use.keep(inputs, _scaled(cotangent, factor))
            ctx.cotangents[which] = None  # handed over: autograd may now keep the tensors instead of copying them
        if ctx.shared is not None and total[1] is not None:
            ctx.shared.hand_over(total[1])
            total[1] = None
        return (*total, None)


class _Pass:
    """One pass over the rows, chunk by chunk, accumulating losses and gradients of both objectives."""

    def __init__(self, hidden: Tensor, job: _Job, needed: tuple[bool, bool, bool]) -> None:
        self.hidden, self.job, self.needed = hidden, job, needed
        self.divisors = (job.target_tokens, job.opposed_tokens)
        objectives = 1 if job.teacher is None else 2
        precision = _precision(hidden)
        self.losses = [hidden.new_zeros((), dtype=precision) for _ in range(2)]
        self.d_hidden = [torch.empty_like(hidden) if needed[0] else None for _ in range(objectives)]
        self.d_weight: list[Tensor | None] = [None] * objectives
        self.d_bias: list[Tensor | None] = [None] * objectives
        self.use: Use | None = None
        self.kept: list[list[tuple[Use, Tensor, Tensor]]] = [[], []]

    def chunk(self, rows: slice) -> None:
        if self.needed[1] and self.job.new_use is not None:
            self.use = self.job.new_use()
        job, hidden, labels = self.job, self.hidden[rows], self.job.labels[rows]
        student = job.head.logits(hidden)
        if job.teacher is not None and job.teacher.head is None:
            self._with_frozen_head(rows, student, job.teacher.states[rows])
            return
        teacher = None
        if job.teacher is not None and job.teacher.head is not None:
            teacher = job.teacher.head.logits(job.teacher.states[rows])
        for block in _blocks(student):
            self._block(student[block], None if teacher is None else teacher[block], labels[block])
        for which, cotangent in enumerate((student,) if teacher is None else (student, teacher)):
            self._pull_back(which, rows, cotangent)

    def cotangents(self) -> list[_Cotangents | None]:
        weight, bias = self.job.head.weight, self.job.head.bias
        return [
            _Cotangents(
                h, None if w is None else w.to(weight.dtype), None if b is None or bias is None else b.to(bias.dtype)
            )
            for h, w, b in zip(self.d_hidden, self.d_weight, self.d_bias, strict=True)
        ] + [None] * (2 - len(self.d_hidden))

    def _block(self, student: Tensor, teacher: Tensor | None, labels: Tensor) -> None:
        cap, slope = self.job.head.soft_cap, self.job.head.scale
        slopes = None if cap is None else (student / cap).square_().neg_().add_(1.0).mul_(slope)
        cross_entropy, divergence = to_cotangents(student, teacher, labels, self.job.kl_direction)
        self.losses[0] += cross_entropy.sum() / self.divisors[0]
        if divergence is not None:
            self.losses[1] += divergence.sum() / self.divisors[1]
        for cotangent in (student,) if teacher is None else (student, teacher):
            if slopes is not None:
                cotangent.mul_(slopes)
            elif slope != 1.0:
                cotangent.mul_(slope)

    def _pull_back(self, which: int, rows: slice, cotangent: Tensor) -> None:
        divisor, hidden, head = self.divisors[which], self.hidden[rows], self.job.head
        d_hidden, d_weight, d_bias = self.d_hidden[which], self.d_weight[which], self.d_bias[which]
        if d_hidden is not None:
            d_hidden[rows] = (head.product(cotangent, head.weight) / divisor).to(d_hidden.dtype)
        if self.use is not None:
            self.kept[which].append((self.use, hidden, cotangent / divisor))
        elif self.needed[1]:
            scaled = hidden.to(cotangent.dtype) / divisor
            self.d_weight[which] = head.product(cotangent.T, scaled, add_to=d_weight)
        if self.needed[2]:
            column = cotangent.sum(0) / divisor
            self.d_bias[which] = column if d_bias is None else d_bias.add_(column)

    def _with_frozen_head(self, rows: slice, logits: Tensor, states: Tensor) -> None:
        """Both cotangents for the price of one: Q = scale * softmax @ weight, minus the label's or the teacher's."""
        head, labels = self.job.head, self.job.labels[rows]
        carries = labels != IGNORE
        hidden = self.hidden[rows].to(logits.dtype)
        expected, constant = states[:, :-1].to(logits.dtype), states[:, -1].to(logits.dtype)
        label_logits = logits.gather(1, labels.clamp(min=0)[:, None]).squeeze(1)
        normaliser = torch.empty_like(label_logits)
        for block in _blocks(logits):
            log_p = torch.log_softmax(logits[block], dim=-1)
            normaliser[block] = logits[block, 0] - log_p[:, 0]
            torch.exp(log_p, out=logits[block])
        self.losses[0] += ((normaliser - label_logits) * carries).sum() / self.divisors[0]
        self.losses[1] += (constant - torch.linalg.vecdot(hidden, expected) + normaliser).sum() / self.divisors[1]
        student = head.scale * head.product(logits, head.weight)
        label_rows = head.scale * head.weight[labels.clamp(min=0)].to(logits.dtype)
        if self.d_hidden[0] is not None and self.d_hidden[1] is not None:
            self.d_hidden[0][rows] = (student - label_rows) * carries[:, None] / self.divisors[0]
            self.d_hidden[1][rows] = (student - expected) / self.divisors[1]


def _blocks(logits: Tensor) -> list[slice]:
    """Row blocks for the element-wise part: small enough for a CPU's cache, everything at once elsewhere."""
    rows, columns = logits.shape
    step = max(1, CACHE_BYTES // (columns * logits.element_size())) if logits.device.type == "cpu" else rows
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _precision(like: Tensor) -> torch.dtype:
    return torch.float64 if like.dtype == torch.float64 else torch.float32


def _scaled(part: Tensor, factor: Tensor) -> Tensor:
    """part * factor; on a CPU, where looking costs nothing, a factor of 1 saves the pass over the data."""
    return part if factor.device.type == "cpu" and factor.item() == 1.0 else part * factor.to(part.dtype)
