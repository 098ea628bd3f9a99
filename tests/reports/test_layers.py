"""The heat map by layer shows the logged cosines, and stays away where there are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic import CORE, LAYERS, STEPS, write_study

from reports.figures import _layers
from reports.layers import bound, cosines, layer_map, layered_arms
from reports.studies import Study, load_study
from reports.style import new_figure, style


@pytest.fixture
def study(tmp_path: Path) -> Study:
    write_study(tmp_path, arms=CORE, prompts=4, curve_prompts=2, items=4)
    return load_study(tmp_path, "core")


def test_cosines_are_those_logged_and_skipped_steps_are_blank(study: Study) -> None:
    run = next(arm for arm in study.trained if arm.name == "projection-1").done[0]
    values = cosines(run)
    assert values is not None
    assert values.shape == (LAYERS, STEPS)
    assert np.isnan(values[:, 0]).all(), "step 1 is skipped"
    for step in range(1, STEPS):
        assert values[:, step] == pytest.approx([layer[0] for layer in run.train[step]["layers"]])


def test_one_arm_of_each_rule_projections_first(study: Study) -> None:
    names = [arm.name for arm in layered_arms(study)]
    assert names == ["projection-1", "projection-aligned", "projection-conflicting", "difference-1"]


def test_the_map_is_drawn_to_a_shared_scale(study: Study) -> None:
    arms = layered_arms(study)
    panels = [values for arm in arms if (values := cosines(arm.done[0])) is not None]
    end = bound(panels)
    assert max(np.nanmax(np.abs(values)) for values in panels) <= end <= 1
    with style():
        mesh = layer_map(new_figure(4, 3).subplots(), arms[0], panels[0], end)
    assert mesh.get_clim() == (-end, end)
    np.testing.assert_array_equal(np.ma.filled(mesh.get_array(), np.nan).reshape(panels[0].shape), panels[0])


UNUSABLE = {
    "not logged": [None] * STEPS,
    "empty": [[]] * STEPS,
    "text": ["x"] * STEPS,
    "no cosine": [[[None, 1.0, 1.0]] * LAYERS] * STEPS,
    "another depth at every step": [[[0.1, 1.0, 1.0]] * depth for depth in range(1, STEPS + 1)],
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_runs_without_usable_layers_have_no_map(study: Study, kind: str) -> None:
    for arm in study.trained:
        for run in arm.done:
            for row, layers in zip(run.train, UNUSABLE[kind], strict=True):
                row["layers"] = layers
    assert layered_arms(study) == []
    with style():
        assert list(_layers(study)) == []
