"""Notes from the truth meter: steps that the optimizer turned back, and steps too long for the first order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from synthetic import SFT, Arm, projection, write_study

from ogp.results import RESULT, load_result, write_record
from reports.notes import notes
from reports.studies import load_study

ARMS = (
    Arm("sft", (0.0, 0.1, 0.0), 0.5, 0.9, SFT),
    Arm("always", (0.3, 0.6, 0.0), 0.6, 0.3, projection()),
    Arm("in-update", (0.3, 0.6, 0.0), 0.6, 0.3, projection() | {"space": "update"}),
)


@pytest.mark.parametrize(
    ("meter", "said"),
    [
        ({"update_cosine": 0.2}, {"always": "the step AdamW made of it was not (mean |cosine| 0.20)"}),
        ({"update_cosine": 0.005}, {}),
        (
            {"predicted_change": -0.01, "measured_change": 0.03},
            {"always": "changed by +0.03 nats per token a step where its gradient says -0.01"},
        ),
        ({"predicted_change": 0.01, "measured_change": 0.012}, {}),
        ({"predicted_change": 0.01}, {}),
    ],
)
def test_the_truth_meter_speaks_up(meter: dict[str, Any], said: dict[str, str], tmp_path: Path) -> None:
    write_study(tmp_path, arms=ARMS, prompts=6, curve_prompts=2, items=4)
    for name in ("always-0", "in-update-0"):
        result = load_result(tmp_path / name)
        silent = dict.fromkeys(("update_cosine", "predicted_change", "measured_change"))
        training = result.training.model_copy(update=silent | meter)
        write_record(tmp_path / name / RESULT, result.model_copy(update={"training": training}))
    found = [note for note in notes(load_study(tmp_path, "core")) if "AdamW" in note or "first order" in note]
    assert len(found) == len(said)
    for arm, text in said.items():
        assert text in found[0]
        assert arm in found[0]
    assert ("in-update" in "".join(found)) is ("measured_change" in meter and bool(said))
