"""Two stages are two trainings, early stopping goes back to the best step, and both resume where they stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ogp.config import RunConfig
from ogp.config_files import ConfigError, load_config, validate
from ogp.results import SELECT, SELECT_COMPLETIONS, TRAIN_LOG, load_result, read_lines
from ogp.run import run_experiment
from ogp.training import early_stopping, stages
from ogp.training.training_record import TrainingRecord

SECOND = {"second_stage": {"steps": 3, "learning_rate": 1e-4}}


def tiny(folder: Path, *, curve: tuple[int, ...] = (), **training: Any) -> RunConfig:
    common = {"steps": 4, "batch_size": 4, "micro_batch": 4, "learning_rate": 1e-3}
    evaluation = {
        "look_alikes": 2,
        "harmful": 2,
        "ordinary": 0,
        "max_new_tokens": 3,
        "tasks": [],
        "drift_prompts": 2,
        "validation_pairs": 2,
        "curve_steps": curve,
        "curve_prompts": 2,
    }
    settings = {"model": {"source": str(folder)}, "training": common | training, "evaluation": evaluation}
    return validate(RunConfig, settings, "test")


def rows(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "step_seconds"} for row in read_lines(folder / TRAIN_LOG)]


def stop_at(step: int) -> Callable[..., None]:
    def interrupt(self: TrainingRecord, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.steps_before + state.global_step == step:
            raise KeyboardInterrupt

    return interrupt


def test_the_second_stage_is_plain_with_its_own_rate_and_a_fresh_start(tiny_folder: Path, tmp_path: Path) -> None:
    result = run_experiment(tiny(tiny_folder, curve=(2, 5), **SECOND), tmp_path)
    found = rows(tmp_path)
    assert [row["step"] for row in found] == list(range(1, 8))
    assert ["opposed_loss_step" in row for row in found] == [True] * 4 + [False] * 3
    assert found[4]["learning_rate"] == pytest.approx(1e-4), "its own peak, from its own schedule"
    assert found[6]["learning_rate"] == pytest.approx(1e-4 / 3)
    assert [(e.step, e.final) for e in result.evaluations] == [(2, False), (5, False), (7, True)]
    assert result.training.steps == 7
    first = run_experiment(tiny(tiny_folder), tmp_path / "first")
    assert rows(tmp_path / "first") == found[:4], "the first stage is the run without a second one"
    assert first.run_id != result.run_id


@pytest.mark.parametrize("step", [3, 6])
def test_a_run_of_two_stages_resumes_in_the_stage_it_was_in(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    config = tiny(tiny_folder, curve=(2, 5), checkpoint_every=1, **SECOND)
    whole = run_experiment(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(TrainingRecord, "on_step_begin", stop_at(step))
        with pytest.raises(KeyboardInterrupt):
            run_experiment(config, tmp_path / "cut")
    made: list[Any] = []
    original = stages.OGPTrainer

    def counted(*args: Any, **kwargs: Any) -> Any:
        made.append(kwargs["method"].rule)
        return original(*args, **kwargs)

    monkeypatch.setattr(stages, "OGPTrainer", counted)
    resumed = run_experiment(config, tmp_path / "cut")
    assert made == (["orthogonal", "none"] if step == 3 else ["none"])
    assert resumed.evaluations == whole.evaluations
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert not (tmp_path / "cut" / "checkpoints").exists()


def stopping(folder: Path, **training: Any) -> RunConfig:
    settings = {"steps": 6, "early_stopping": {"every": 1, "prompts": 2, "patience": 2}}
    return tiny(folder, **(settings | training))


def scored(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> list[dict[str, torch.Tensor]]:
    """Looks have these scores, one after the other; returns the weights that each of them saw."""
    seen: list[dict[str, torch.Tensor]] = []

    def look(model: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append({name: p.detach().clone() for name, p in model.named_parameters()})
        return {"score": scores[len(seen) - 1]}, []

    monkeypatch.setattr(early_stopping, "look", look)
    return seen


def trained(monkeypatch: pytest.MonkeyPatch, config: RunConfig, folder: Path) -> dict[str, torch.Tensor]:
    """Weights that the final evaluation sees."""
    from ogp import run

    kept: dict[str, torch.Tensor] = {}
    final = run._final

    def watched(config: Any, model: Any, *args: Any) -> Any:
        kept.update({name: p.detach().clone() for name, p in model.named_parameters()})
        return final(config, model, *args)

    monkeypatch.setattr(run, "_final", watched)
    run_experiment(config, folder)
    return kept


@pytest.mark.parametrize(
    ("scores", "best", "steps"),
    [
        ([0.1, 0.4, 0.3, 0.4, 0.9, 0.9], 2, 4),  # equal is not better
        ([0.1, 0.2, 0.3, 0.2, 0.5, 0.4], 5, 6),
        ([0.5, 0.1, 0.2, 0.9, 0.9, 0.9], 1, 3),
    ],
)
def test_the_best_look_is_what_remains(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scores: list[float], best: int, steps: int
) -> None:
    seen = scored(monkeypatch, scores)
    kept = trained(monkeypatch, stopping(tiny_folder), tmp_path)
    assert len(rows(tmp_path)) == len(seen) == steps
    assert all(torch.equal(kept[name], seen[best - 1][name]) for name in kept)
    assert any(not torch.equal(kept[name], seen[best][name]) for name in kept)
    assert [each["step"] for each in json.loads((tmp_path / "early_stopping.json").read_text())] == [
        *range(1, steps + 1)
    ]
    assert not (tmp_path / "best").exists()
    assert load_result(tmp_path).training.steps == steps


def test_looks_judge_the_select_split_and_survive_an_interruption(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = stopping(
        tiny_folder, checkpoint_every=1, steps=4, early_stopping={"every": 2, "prompts": 2, "patience": 5}
    )
    whole = run_experiment(config, tmp_path / "whole")
    looks = json.loads((tmp_path / "whole" / "early_stopping.json").read_text())
    assert [each["step"] for each in looks] == [2, 4]
    assert all(each["score"] == each["refusal_rate"] - each["over_refusal_rate"] for each in looks)
    with monkeypatch.context() as patch:
        patch.setattr(TrainingRecord, "on_step_begin", stop_at(3))
        with pytest.raises(KeyboardInterrupt):
            run_experiment(config, tmp_path / "cut")
    assert run_experiment(config, tmp_path / "cut").evaluations == whole.evaluations
    assert json.loads((tmp_path / "cut" / "early_stopping.json").read_text()) == looks


def test_a_look_at_the_end_is_for_choosing_and_no_part_of_the_result(tiny_folder: Path, tmp_path: Path) -> None:
    config = tiny(tiny_folder, steps=1)
    asked = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"select_prompts": 3})})
    plain, looked = run_experiment(config, tmp_path / "plain"), run_experiment(asked, tmp_path / "looked")
    assert looked.evaluations == plain.evaluations
    assert not (tmp_path / "plain" / SELECT).exists()
    found = json.loads((tmp_path / "looked" / SELECT).read_text())
    assert found["score"] == found["refusal_rate"] - found["over_refusal_rate"]
    completions = list(read_lines(tmp_path / "looked" / SELECT_COMPLETIONS))
    assert [row["side"] for row in completions] == ["look_alikes"] * 3 + ["harmful"] * 3


def test_two_ways_to_end_are_not_mixed() -> None:
    both = ["training.second_stage={steps: 2}", "training.early_stopping={every: 2}"]
    with pytest.raises(ConfigError, match="`second_stage` and `early_stopping` are both set"):
        load_config(None, both)
