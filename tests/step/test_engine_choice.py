"""Which engine a run gets, why, and what is refused; whole runs with ghost, and gradients stored in half the memory."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import ogp.step.ghost
from ogp.config import TrainingSettings
from ogp.method_settings import GradientSettings, MethodSettings
from ogp.pairs_settings import PairsSettings
from ogp.rules import orthogonal
from ogp.step.engine_choice import choose_engine, expected_cost
from ogp.step.engines import DualEngine
from ogp.training.trainer import OGPTrainer, make_training_arguments
from tests import tiny
from tests.oracle import combined, gradients_of, make, run

QUIET = {"update_cosine_every": 0, "check_every": 0}


def step_of(tokens: int) -> list[dict[str, torch.Tensor]]:
    return [{"input_ids": torch.zeros(1, tokens), "positions": torch.zeros(tokens // 2)}]


def wide() -> Any:
    return tiny.llama(layers=1, hidden_size=576, intermediate_size=1536, vocab_size=1024)


@pytest.mark.parametrize(("tokens", "name"), [(32, "ghost"), (128, "ghost"), (400, "dual"), (2000, "dual")])
def test_auto_takes_ghost_for_few_tokens_and_says_why(tokens: int, name: str) -> None:
    found, why = choose_engine(MethodSettings(**QUIET), wide(), step_of(tokens), others=1, processes=1)
    assert found == name
    assert f"for {tokens} tokens a step" in why


def test_forming_the_opposed_gradient_for_diagnostics_counts() -> None:
    model, step = wide(), step_of(64)
    costs = [
        expected_cost(MethodSettings(update_cosine_every=every, check_every=0), model, step) for every in (1, 10, 0)
    ]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > 1
    assert choose_engine(MethodSettings(), model, step, others=1, processes=1)[0] == "dual"
    adapted = tiny.with_lora(wide())
    assert expected_cost(MethodSettings(**QUIET), adapted, step) == pytest.approx(1.0, abs=0.02)


OWN = GradientSettings(data=PairsSettings(source="embedded:look-alikes"), loss="nll")


@pytest.mark.parametrize(
    ("settings", "others", "processes", "words"),
    [
        ({}, 2, 1, "takes one gradient beside the target's"),
        ({"gradients": (OWN,)}, 1, 1, "on the training batch"),
        ({}, 1, 2, "runs in one process only"),
        ({"refresh": 3}, 1, 1, "forms no gradient that `method.refresh`"),
        ({"ema": 0.5}, 1, 1, "forms no gradient that `method.refresh` or `method.ema`"),
        ({"space": "update"}, 1, 1, "could project the update on"),
        ({"stored_as": "bfloat16"}, 1, 1, "stores no gradient"),
    ],
)
def test_ghost_refuses_what_it_cannot_do_and_auto_does_not_take_it(
    settings: dict[str, Any], others: int, processes: int, words: str
) -> None:
    method = {**QUIET, **settings}
    with pytest.raises(ValueError, match=r"`method\.engine`: 'ghost'.*choose 'dual'") as error:
        choose_engine(MethodSettings(engine="ghost", **method), wide(), step_of(8), others, processes)
    assert words in str(error.value)
    name, why = choose_engine(MethodSettings(**method), wide(), step_of(8), others, processes)
    assert (name, words in why) == ("dual", True)


def trained(model: Any, folder: Path, **options: Any) -> OGPTrainer:
    method = MethodSettings(**{k: v for k, v in options.items() if k in MethodSettings.model_fields})
    chosen = {"steps": 4, "batch_size": 4, "micro_batch": 2, "learning_rate": 1e-2} | options
    training = TrainingSettings(**{k: v for k, v in chosen.items() if k in TrainingSettings.model_fields})
    args = make_training_arguments(training, folder / "checkpoints", seed=3)
    done = OGPTrainer(model, args, tiny.examples(12), method, training, folder / "cache")
    done.train()
    return done


@pytest.mark.parametrize("granularity", ["global", "layer", "tensor"])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_ghost_trains_the_model_that_dual_trains(
    granularity: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every diagnostic, the applied update's cosine among them."""
    monkeypatch.setattr(ogp.step.ghost, "pays", lambda *sizes: True)
    runs = [
        trained(make(kind, True), tmp_path, engine=engine, granularity=granularity, weight_decay=0.1)
        for engine in ("dual", "ghost")
    ]
    for a, b in zip(runs[0].model.parameters(), runs[1].model.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-8)
    for one, other in zip(*[r.state.log_history for r in runs], strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"step_seconds", "layers", "train_runtime"} - {n for n in one if "per_second" in n}:
            assert one[name] == pytest.approx(other[name], rel=1e-4, abs=1e-7), name


def test_a_run_says_what_it_chose(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="ogp.training.trainer"):
        done = trained(tiny.llama(), tmp_path, rule="none", steps=1)
    assert done.engine_name == "dual"
    assert "engine is dual: there is one gradient only" in caplog.text


@pytest.mark.parametrize("micro_batch", [8, 2])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_gradients_stored_in_bfloat16_leave_a_residual_in_its_rounding(
    kind: str, micro_batch: int, tmp_path: Path
) -> None:
    """What is left of the exact opposed gradient in the projected one: a cosine of about 2 ** -9 / sqrt(size)."""
    exact, *_ = run(DualEngine, make(kind, True, torch.float32), tmp_path, micro_batch=micro_batch)
    stored, *_ = run(
        DualEngine, make(kind, True, torch.float32), tmp_path, micro_batch=micro_batch, stored_as=torch.bfloat16
    )
    assert {g.dtype for g in stored.others[0] if g is not None} == {torch.bfloat16}
    update = combined(stored, orthogonal(stored.gramian(), noise=0.0))
    opposed = gradients_of(exact)[1]
    flat = [torch.cat([g.flatten().double() for g in gradients if g is not None]) for gradients in (update, opposed)]
    residual = float(flat[0] @ flat[1] / (flat[0].norm() * flat[1].norm()))
    assert abs(residual) < 3e-4
    for a, b in zip(gradients_of(stored)[0], gradients_of(exact)[0], strict=True):
        assert (a is None) == (b is None)
        assert a is None or b is None or torch.equal(a, b)  # the target's is not touched
