"""Negative preference optimisation: answers are unlearned, each the less the further the model has left it already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor
from torch.nn import functional as F

Shape = Callable[[Tensor], Tensor]


def npo_loss(log_ratio: Tensor, beta: float) -> Tensor:
    """-(2 / beta) log sigmoid(-beta r) of r = log pi(answer) - log pi_teacher(answer), element by element.

    Source: Zhang et al. 2024, arXiv 2404.05868, equation 3. Its slope 2 sigmoid(beta r) is 1 where student and teacher
    agree, which is gradient ascent on the answer's loss, and 0 where the student has long left the answer.
    """
    return -2.0 / beta * F.logsigmoid(-beta * log_ratio)


@dataclass
class NegativePreference:
    """The loss of answers that are unlearned, one answer in each forward pass.

    Args:
        examples: answers in a step, which the mean is taken over.
        processes: which average their gradients; each one's loss is that many times its share.
    """

    beta: float
    examples: int
    processes: int
    reference: dict[int, float] = field(default_factory=dict)
    """Loss of the teacher on an answer, summed over its tokens, by the answer's first row in the teacher cache."""

    def shape(self, answer: int) -> Shape:
        """From the student's loss summed over the answer's tokens, times `processes`, to its share of the mean."""
        reference = self.reference[answer]

        def share(summed: Tensor) -> Tensor:
            return npo_loss(reference - summed / self.processes, self.beta) * self.processes / self.examples

        return share
