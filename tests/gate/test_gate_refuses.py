"""What cannot be trusted or compared is refused, with the reason and without a row."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gate_runs import SIDES, TASKS, edit_result, reasons, write_run

from ogp.gate import compare
from ogp.gate.rule import CHECKABLE
from ogp.results import (
    COMPLETIONS,
    ITEMS,
    RESULT,
    read_lines,
)

Change = Callable[[Path], None]


def edit_lines(name: str, change: Callable[[list[dict[str, Any]]], object]) -> Change:
    def apply(folder: Path) -> None:
        rows = list(read_lines(folder / name))
        change(rows)
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    return apply


def tear(name: str) -> Change:
    def apply(folder: Path) -> None:
        raw = (folder / name).read_bytes()
        (folder / name).write_bytes(raw[: len(raw) // 2])

    return apply


def metrics_of(record: dict[str, Any]) -> dict[str, Any]:
    return record["evaluations"][-1]["metrics"]


BROKEN: dict[str, tuple[Change, str]] = {
    "no result": (lambda folder: (folder / RESULT).unlink(), "no finished run here"),
    "torn result": (tear(RESULT), "torn, edited or of another version"),
    "empty result": (lambda folder: (folder / RESULT).write_text(""), "torn"),
    "torn items": (tear(ITEMS), "torn"),
    "no items": (lambda folder: (folder / ITEMS).unlink(), "cannot be read"),
    "empty items": (lambda folder: (folder / ITEMS).write_text(""), "in the saved items"),
    "torn completions": (tear(COMPLETIONS), "torn"),
    "no completions": (lambda folder: (folder / COMPLETIONS).unlink(), "cannot be read"),
    "nan item": (edit_lines(ITEMS, lambda rows: rows[3].update(score=float("nan"))), "is nan, not in [0, 1]"),
    "text item": (edit_lines(ITEMS, lambda rows: rows[3].update(score="1")), "lacks `task`, `item` or `score`"),
    "percent item": (edit_lines(ITEMS, lambda rows: rows[3].update(score=70)), "not in [0, 1]"),
    "changed item": (edit_lines(ITEMS, lambda rows: rows[0].update(score=0.0)), "in the saved items"),
    "item twice": (edit_lines(ITEMS, lambda rows: rows.append(rows[0])), "occurs twice"),
    "prompt twice": (edit_lines(COMPLETIONS, lambda rows: rows.append(rows[0])), "occurs twice"),
    "changed reply": (edit_lines(COMPLETIONS, lambda rows: rows[0].update(reply="incoherent")), "in the saved items"),
    "unknown reply": (edit_lines(COMPLETIONS, lambda rows: rows[0].update(reply="refusal")), "no known"),
    "hostile reply": (edit_lines(COMPLETIONS, lambda rows: rows[0].update(side=[], id={})), "no known"),
    "nan metric": (
        edit_result(lambda r: metrics_of(r)["capability/facts"].update(value=float("nan"))),
        "finite number",
    ),
    "nan stderr": (
        edit_result(lambda r: metrics_of(r)["refusal_rate"].update(stderr=float("nan"))),
        "standard error of nan",
    ),
    "missing task": (edit_result(lambda r: metrics_of(r).pop("capability/facts")), "`capability/facts` is missing"),
    "missing refusals": (edit_result(lambda r: metrics_of(r).pop("refusal_rate")), "`refusal_rate` is missing"),
    "no final": (edit_result(lambda r: r["evaluations"].pop()), "no final one"),
    "diverged": (edit_result(lambda r: r.update(status="diverged", message="nan loss")), "diverged (nan loss)"),
    "other judge": (edit_result(lambda r: r.update(judge="gcg")), "`judge` is "),
    "other decoding": (edit_result(lambda r: r.update(decoding="sampled")), "`decoding` is "),
    "other split": (edit_result(lambda r: r["evaluations"][-1].update(split="select")), "`evaluation.split` is "),
    "other tasks": (edit_result(lambda r: r["config"]["evaluation"].update(tasks=["x"])), "`evaluation.tasks` is "),
    "other lm_eval": (edit_result(lambda r: r["environment"].update(lm_eval="0.5")), "`environment.lm_eval` is "),
    "other batch": (edit_result(lambda r: r["config"]["evaluation"].update(batch_size=3)), "`evaluation.batch_size`"),
    "no settings": (edit_result(lambda r: r.update(config={})), "`config.evaluation` is missing"),
    "other prompts": (edit_lines(COMPLETIONS, lambda rows: rows[450].update(prompt="Else?")), "another text"),
    "other metric": (edit_lines(ITEMS, lambda rows: rows[9].update(metric="acc_norm")), "another text or metric"),
    "other ids": (edit_lines(ITEMS, lambda rows: rows[9].update(item="new")), "1 only in the baseline"),
}


SIDES_OF_FAULTS = [(fault, side) for fault in BROKEN for side in ("candidate", "baseline", "floor")]
SIDES_OF_FAULTS.remove(("other batch", "floor"))  # what a floor run is for


@pytest.mark.parametrize(("fault", "side"), SIDES_OF_FAULTS)
def test_what_cannot_be_trusted_or_compared_is_refused_with_the_reason(
    baseline: Path, tmp_path: Path, fault: str, side: str
) -> None:
    change, reason = BROKEN[fault]
    runs = {"baseline": baseline, "candidate": tmp_path / "new", "floor": tmp_path / "floor"}
    assert compare(runs["candidate"], runs["baseline"], floor=[runs["floor"]]).exit_code == 0
    change(runs[side])
    report = compare(runs["candidate"], runs["baseline"], floor=[runs["floor"]])
    assert (report.exit_code, report.rows) == (2, ())
    assert reason in reasons(report)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"tolerance": -0.1}, "`--tolerance`: -0.1"),
        ({"tolerance": 2.0}, "0.02 is two points"),
        ({"tolerance": float("nan")}, "`--tolerance`: nan"),
        ({"metric_tolerance": {"refusal_rate": float("nan")}}, "refusal_rate = nan"),
        ({"metric_tolerance": {"kl_from_base": float("inf")}, "check": ["kl_from_base"]}, "kl_from_base = inf"),
        ({"metric_tolerance": {"capability/fact": 0.1}}, "nearest: capability/facts"),
        ({"metric_tolerance": {"over_refusal_rate": 0.1}}, "not compared here"),
        ({"check": ["refusals"]}, "nearest: refusal_rate"),
        ({"floor": [Path("nowhere")]}, "nowhere: no finished run here"),
    ],
)
def test_bad_arguments_are_refused(baseline: Path, options: dict[str, Any], reason: str) -> None:
    report = compare(baseline, baseline, **options)
    assert report.exit_code == 2
    assert reason in reasons(report)


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    report = compare(tmp_path / "a", tmp_path / "b", tolerance=5)
    assert [str(tmp_path / "a") in reasons(report), str(tmp_path / "b") in reasons(report)] == [True, True]
    assert len(report.problems) == 3


def test_without_capability_tasks_there_is_nothing_to_gate(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, {}, SIDES) for name in ("a", "b")]
    report = compare(*runs)
    assert (report.exit_code, "no capability task" in reasons(report)) == (2, True)


@pytest.mark.parametrize("name", [name for name in CHECKABLE if name != "refusal_rate"])
def test_a_metric_asked_for_but_missing_is_refused(tmp_path: Path, name: str) -> None:
    runs = [write_run(tmp_path / run, TASKS, {"harmful": SIDES["harmful"]}, steps=0) for run in ("a", "b")]
    for run in runs:
        edit_result(lambda record: metrics_of(record).pop(name, None))(run)
    report = compare(*runs, check=[name])
    assert report.exit_code == 2
    assert f"`{name}`" in reasons(report)


def test_throughput_is_compared_on_one_machine_only(baseline: Path, tmp_path: Path) -> None:
    moved = write_run(tmp_path / "moved", TASKS, SIDES, environment={"threads": "2"})
    assert compare(moved, baseline).exit_code == 0
    assert "`environment.threads`" in reasons(compare(moved, baseline, check=["seconds_per_step"]))


def test_drift_from_another_model_is_not_compared(baseline: Path, tmp_path: Path) -> None:
    settings = {"evaluation": {"base": "embedded:original"}}
    other = write_run(tmp_path / "other", TASKS, SIDES, settings=settings)
    assert compare(other, baseline).exit_code == 0
    assert "`evaluation.base`" in reasons(compare(other, baseline, check=["kl_from_base"]))
    named = write_run(
        tmp_path / "named",
        TASKS,
        SIDES,
        settings={"model": {"source": "embedded:original"}, "evaluation": {"base": "embedded:over-refusing"}},
    )
    assert compare(named, baseline, check=["own_nll"], metric_tolerance={"own_nll": 0.1}).exit_code == 0
