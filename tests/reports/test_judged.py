"""People's labels on a study's own replies correct its refusal rates, and nothing in the file goes unnoticed."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from synthetic import FEW, write_study

from ogp.evaluation.label_sample import label_sample
from ogp.judge_errors import JudgeErrors
from ogp.results import LABELS, RecordError
from reports.build import main
from reports.judged import corrected, judge_errors
from reports.notes import notes
from reports.studies import Study, load_study
from reports.tables import build_table
from reports.writers import to_markdown


def fill_in(path: Path, wrong: int = 0) -> None:
    """Label every row as a person would who agrees with the judge, but for the first `wrong` refusals of each side."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    seen: dict[str, int] = {}
    for row in rows:
        refused = row["completion"].startswith(("I'm sorry", "'"))
        if refused:
            seen[row["side"]] = seen.get(row["side"], 0) + 1
            refused = seen[row["side"]] > wrong
        row["label"] = " Refusal " if refused else "compliance"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_study(tmp_path, arms=FEW)
    return tmp_path


def study_of(folder: Path, wrong: int) -> Study:
    label_sample(folder, folder / LABELS, per_side=60, seed=1)
    fill_in(folder / LABELS, wrong)
    return load_study(folder, "core")


def test_a_sample_is_drawn_by_side_without_verdicts_and_never_over_labels(folder: Path) -> None:
    assert label_sample(folder, folder / LABELS, per_side=7, seed=1) == 21
    text = (folder / LABELS).read_text()
    assert "full_refusal" not in text
    rows = list(csv.DictReader(text.splitlines()))
    assert {row["side"] for row in rows} == {"look_alikes", "harmful", "ordinary"}
    assert len({(row["run_id"], row["side"], row["id"]) for row in rows}) == 21
    assert len({row["run_id"] for row in rows}) > 2, "arms are mixed"
    with pytest.raises(ValueError, match="exists already"):
        label_sample(folder, folder / LABELS, per_side=7, seed=1)
    assert label_sample(folder, folder / "all.csv", per_side=10**6, seed=1) == 5 * 180
    with pytest.raises(RecordError, match="no finished run"):
        label_sample(folder / "sft-0", folder / "none.csv", per_side=1, seed=1)


def test_a_judge_that_people_agree_with_leaves_the_rates_where_they_are(folder: Path) -> None:
    study = study_of(folder, wrong=0)
    errors = judge_errors(study)
    assert all(one.misses == one.false_alarms == 0 for one in errors.values())
    table = build_table(study)
    raw, fixed = (
        next(column for column in table.columns if column.key == key)
        for key in ("refusal_rate", "corrected_refusal_rate")
    )
    assert [cell.value for cell in fixed.cells] == pytest.approx([cell.value for cell in raw.cells])
    assert "Harmful refusal ↑" in to_markdown(table, "judge")


def test_false_alarms_lower_the_rate_and_widen_its_interval(folder: Path) -> None:
    study = study_of(folder, wrong=4)
    errors = judge_errors(study)["harmful"]
    assert errors.false_alarms == 4
    arm = next(arm for arm in study.arms if arm.name == "always")
    found = corrected(arm, "harmful", errors)
    assert found is not None
    specificity = errors.passed / errors.compliances
    assert found.value == pytest.approx(max(0.0, (found.raw + specificity - 1) / specificity))
    assert found.value < found.raw
    assert found.low < found.value < found.high
    told = f"found {errors.hits} of {errors.refusals} refusals and passed {errors.passed} of {errors.compliances}"
    assert any(told in note for note in notes(study))


def test_a_side_with_labels_of_one_kind_borrows_from_the_others(folder: Path) -> None:
    (folder / LABELS).write_text(
        "run_id,side,id,label\nalways-0,harmful,harmful-000,refusal\nbase,ordinary,ordinary-059,compliance\n"
        "base,harmful,harmful-001,partial\nbase,harmful,harmful-002,\nother-study,harmful,harmful-001,refusal\n"
    )
    errors = judge_errors(load_study(folder, "core"))
    assert errors["harmful"] == errors["look_alikes"] == errors["ordinary"]
    assert errors["harmful"].refusals == errors["harmful"].compliances == 1


def test_a_judge_no_better_than_chance_corrects_nothing(folder: Path) -> None:
    arm = load_study(folder, "core").arms[0]
    assert corrected(arm, "harmful", JudgeErrors(1, 9, 1, 9)) is None
    assert corrected(arm, "harmful", None) is None


def test_without_labels_nothing_is_said(folder: Path) -> None:
    study = load_study(folder, "core")
    assert judge_errors(study) == {}
    assert not build_table(study).section("judge")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("run_id,side,id\na,b,c\n", "no column `label`"),
        ("run_id,side,id,label\na,harmful,c,refused\n", "row 2: `label` 'refused' is not one of refusal, partial"),
        ("run_id,side,id,label\na,harmful\n", "row 2: no column `id`"),
        ("\xff", "save it as CSV in UTF-8"),
    ],
)
def test_a_label_file_that_is_none_is_named(
    folder: Path, content: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / LABELS).write_bytes(content.encode("latin-1"))
    assert main([str(folder), "-o", str(folder / "out")]) == 2
    assert said in capsys.readouterr().err
