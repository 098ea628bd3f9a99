"""Every study's smoke version, run for real on a tiny model: all that its file asks for is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ablations.studies import plan_study, study_names, study_path
from ogp.results import TRAIN_LOG, read_lines
from ogp.run import run_experiment

TINY = [
    *("evaluation.base=null", "evaluation.look_alikes=2", "evaluation.harmful=2", "evaluation.ordinary=2"),
    *("evaluation.max_new_tokens=3", "evaluation.tasks=[ogp_grammar]", "evaluation.task_limit=2"),
    *("evaluation.drift_prompts=2", "evaluation.validation_pairs=2"),
]


@pytest.fixture(scope="module")
def beavertails(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows with the columns of BeaverTails, every second of them safe, some blank, as many as the original reads."""
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    with path.open("w") as file:
        for i in range(2 * 10_560):
            row = {
                "prompt": f"Question {i} {i % 977}?",
                "response": f"Answer {i}." if i % 501 else "",
                "is_safe": i % 2 == 0,
            }
            file.write(json.dumps(row) + "\n")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", study_names())
def test_the_smoke_version_of_every_study_runs(
    name: str, talking_folder: Path, beavertails: Path, tmp_path: Path
) -> None:
    assignments = [f"model.source={talking_folder}", *TINY]
    if name == "original":
        sections = ("data", "evaluation.harmful_from", "evaluation.validation_from")
        assignments += [f"{section}.source={beavertails}" for section in sections]
    planned = plan_study(study_path(name), smoke=True, assignments=assignments)
    for run in planned.plan.runs:
        config = planned.configs[run.run_id]
        folder = tmp_path / run.run_id
        if not folder.exists():
            assert run_experiment(config, folder).status == "done"
        steps = [row["step"] for row in read_lines(folder / TRAIN_LOG)] if not run.reference else []
        assert len(steps) == (0 if run.reference else config.training.all_steps), run.arm
