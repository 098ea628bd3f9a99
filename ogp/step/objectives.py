"""Target and opposed losses as explicit cotangents of the logits."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

KlDirection = Literal["forward", "reverse", "jensen_shannon"]

IGNORE = -100
"""Label of a row without target loss, as everywhere in torch and transformers."""


def to_cotangents(
    student: Tensor, teacher: Tensor | None, labels: Tensor, kl_direction: KlDirection
) -> tuple[Tensor, Tensor | None]:
    """Turn logits [rows, vocabulary] in place into d loss / d logits, row by row.

    `student` becomes softmax - onehot (0 where the label is -100) and `teacher` the opposed cotangent:
    forward: p_s - p_t;  reverse: p_s (log(p_s / p_t) - KL);  jensen_shannon, m = (p_s + p_t) / 2:
    p_s / 2 (log(p_s / m) - sum p_s log(p_s / m)).

    Returns:
        Cross-entropy [rows] (0 where the label is -100) and divergence [rows], or None without a teacher.
    """
    log_s = torch.log_softmax(student, dim=-1)
    torch.exp(log_s, out=student)
    carries = labels != IGNORE
    index = labels.clamp(min=0)[:, None]
    cross_entropy = -log_s.gather(1, index).squeeze(1) * carries
    divergence = None
    if teacher is not None:
        log_t = torch.log_softmax(teacher, dim=-1)
        if kl_direction == "forward":
            torch.sub(log_t, log_s, out=log_s)
            torch.exp(log_t, out=teacher)
            divergence = torch.linalg.vecdot(teacher, log_s)
            torch.sub(student, teacher, out=teacher)
        elif kl_direction == "reverse":
            ratio = log_s.sub_(log_t)
            divergence = torch.linalg.vecdot(student, ratio)
            torch.mul(student, ratio.sub_(divergence[:, None]), out=teacher)
        else:
            log_m = torch.logaddexp(log_s, log_t).sub_(torch.log(log_s.new_tensor(2.0)))
            from_student = torch.linalg.vecdot(student, log_s.sub_(log_m))
            from_teacher = torch.linalg.vecdot(log_t.exp(), log_t - log_m)
            divergence = (from_student + from_teacher) / 2
            torch.mul(student, log_s.sub_(from_student[:, None]).mul_(0.5), out=teacher)
    student.scatter_add_(1, index, student.new_full(index.shape, -1.0))
    if not carries.all():
        student.mul_(carries[:, None])
    return cross_entropy, divergence
