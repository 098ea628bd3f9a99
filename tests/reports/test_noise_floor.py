"""The base measured again: its difference is the floor of every figure, wherever a difference is shown."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import AGAIN, FEW, REFERENCES, write_study

from ogp.results import COMPLETIONS, load_result, read_lines
from reports.columns import NOISE_FLOOR
from reports.comparisons import compare
from reports.content import Report
from reports.html_page import to_html
from reports.noise_floor import flipped_verdicts, noise_floor, reruns
from reports.notes import notes
from reports.studies import Study, load_study
from reports.tables import build_table
from reports.writers import to_csv, to_latex, to_markdown


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("results")
    write_study(results, arms=FEW, seeds=(0, 1, 2), references=(*REFERENCES, AGAIN))
    return results


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    return load_study(folder, "core")


def test_only_the_base_in_other_batches_is_a_rerun(tmp_path: Path, study: Study) -> None:
    assert [arm.name for arm in reruns(study)] == ["base-again"]
    same_batches = replace(AGAIN, name="copy", evaluation={})
    other_judge = replace(AGAIN, name="judged", evaluation={"batch_size": 24, "judge": "gcg-29"})
    write_study(tmp_path, arms=FEW, references=(*REFERENCES, same_batches, other_judge))
    assert reruns(load_study(tmp_path, "core")) == []


def test_the_floor_is_the_difference_of_every_metric(folder: Path, study: Study) -> None:
    floor = noise_floor(study)
    before, after = (load_result(folder / name).final().metrics for name in ("base", "base-again"))
    assert floor["kl_from_base"] == pytest.approx(1e-6)
    for name in before:
        assert floor[name] == pytest.approx(abs(before[name].value - after[name].value))
    tasks = [name for name in before if name.startswith("capability/")]
    mean = sum(after[name].value - before[name].value for name in tasks) / len(tasks)
    assert floor["capability"] == pytest.approx(abs(mean))


def test_flips_that_cancel_are_counted(folder: Path, study: Study) -> None:
    replies = [
        {(r["side"], r["id"]): r["reply"] for r in read_lines(folder / name / COMPLETIONS)}
        for name in ("base", "base-again")
    ]
    flipped = sum(replies[0][key] != replies[1][key] for key in replies[0] if key[0] == "look_alikes")
    assert flipped > 0
    assert flipped_verdicts(study)["over_refusal_rate"] == (flipped, 60)
    assert any(f"verdicts changed on {flipped} of 60 look-alike" in note for note in notes(study))


def test_every_format_shows_the_floor(study: Study) -> None:
    table = build_table(study)
    floor = noise_floor(study)
    row = list(csv.DictReader(io.StringIO(to_csv(table))))[-1]
    assert row["arm"] == NOISE_FLOOR
    for name in ("over_refusal_rate", "capability", "kl_from_base", "kl_from_base/1", "capability/ogp_facts"):
        assert float(row[name]) == pytest.approx(floor[name]), name
    for section in ("main", "tasks", "drift"):
        assert to_markdown(table, section).splitlines()[-1].startswith(f"| *{NOISE_FLOOR}* |")
    assert to_markdown(table, "equal").splitlines()[-1].startswith("| aligned |")
    assert to_latex(table, "x").count(f"\\emph{{{NOISE_FLOOR}}}") == 3


def test_a_difference_within_the_floor_says_so(study: Study) -> None:
    found = {(one.arm, one.measure): one for one in compare(study)}
    assert all(one.floor == noise_floor(study)[one.measure] for one in found.values())
    small = next(iter(found.values()))
    value = small.difference.estimate.value
    assert replace(small, floor=abs(value) + 0.01).text.endswith("inside the noise floor")
    assert "noise floor" not in replace(small, floor=abs(value) / 2).text
    assert "noise floor" not in replace(small, floor=None).text


def test_a_study_without_a_rerun_says_that_it_has_no_floor(tmp_path: Path) -> None:
    write_study(tmp_path, arms=FEW[:1], prompts=8, curve_prompts=4, items=4)
    study = load_study(tmp_path, "core")
    assert noise_floor(study) == {}
    assert any("noise floor not measured" in note for note in notes(study))
    report = Report(study, build_table(study), [], [], "", [], [], None)
    assert "<tfoot>" not in to_html(report)
