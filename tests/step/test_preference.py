"""Negative preference: its formula, its limits, and its gradient in a real training step against plain autograd."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from ogp.config import TrainingSettings
from ogp.method_settings import GradientSettings, MethodSettings
from ogp.pairs_settings import PairsSettings
from ogp.step.preference import npo_loss
from ogp.training.trainer import OGPTrainer, make_training_arguments
from tests import tiny
from tests.asserts import assert_same_gradients

BETA, WEIGHT = 0.7, 0.5


def test_slope_is_that_of_ascent_near_the_teacher_and_fades_away_from_it() -> None:
    ratio = torch.tensor([-60.0, -1.0, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(npo_loss(ratio, BETA).sum(), ratio)
    assert slope.tolist() == pytest.approx([2 / (1 + math.exp(-BETA * r)) for r in ratio.tolist()])
    assert slope[2] == 1.0
    assert slope[0] < 1e-15
    small = torch.autograd.grad(npo_loss(ratio, 1e-9).sum(), ratio)[0]
    assert torch.allclose(small, torch.ones(4, dtype=torch.float64)), "beta -> 0 is gradient ascent"


def answer_log_probability(model: Any, example: dict[str, Any]) -> torch.Tensor:
    ids, labels = torch.tensor([example["input_ids"]]), torch.tensor(example["labels"])
    log_p = model(input_ids=ids).logits[0].double().log_softmax(-1)
    carried = (labels[1:] != -100).nonzero().flatten()
    return log_p[carried, labels[1:][carried]].sum()


@pytest.mark.parametrize("engine", ["dual", "reference"])
def test_a_step_follows_the_answers_and_leaves_the_unlearned_ones(engine: Any, tmp_path: Path) -> None:
    model = tiny.llama(tied=True, dtype=torch.float64)
    teacher = copy.deepcopy(model)
    wanted, unwanted = tiny.examples(8), tiny.examples(6, seed=5)
    source = GradientSettings(
        role="followed", loss="npo", beta=BETA, weight=WEIGHT, batch_size=3, data=PairsSettings(source="x.jsonl")
    )
    method = MethodSettings(rule="none", engine=engine, gradients=(source,), check_every=2)
    training = TrainingSettings(steps=4, batch_size=4, micro_batch=2, learning_rate=1e-2, max_grad_norm=0.0)
    args = make_training_arguments(training, tmp_path / "checkpoints", seed=3)
    run = OGPTrainer(model, args, wanted, method, training, tmp_path / "cache", sources=[unwanted])
    drawn: list[Any] = []
    collate = run.data_collator
    run.data_collator = lambda batch: (drawn.extend(batch), collate(batch))[1]
    combine, seen = run.method.combine, []

    def watched() -> dict[str, Any]:
        step = len(seen)
        record = combine()
        batch = drawn[4 * step : 4 * step + 4]
        tokens = sum(label != -100 for example in batch for label in example["labels"])
        loss = -sum(answer_log_probability(model, example) for example in batch) / tokens
        order = run.passes.sources[0]._order
        taken = [unwanted[order(n // 6)[n % 6]] for n in range(3 * step, 3 * step + 3)]
        ratios = torch.stack(
            [answer_log_probability(model, e) - answer_log_probability(teacher, e).detach() for e in taken]
        )
        loss = loss + WEIGHT * npo_loss(ratios, BETA).mean()
        expected = torch.autograd.grad(loss, list(model.parameters()))
        seen.append(([p.grad.clone() for p in model.parameters()], list(expected), ratios.detach()))
        return record

    run.method.combine = watched  # type: ignore[method-assign]
    run.train()
    assert len(seen) == 4
    for found, expected, _ in seen:
        assert_same_gradients(found, expected, 1e-9)
    assert seen[0][2].abs().max() < 1e-12, "the student begins as its teacher"
    assert seen[-1][2].mean() < 0, "what is unlearned becomes unlikely"
