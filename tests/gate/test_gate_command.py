"""The command, its table, its JSON, and the example workflow."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

import pytest
import yaml
from gate_runs import SIDES, TASKS, edit_result, reasons, right, write_run

from ogp.config import RunConfig
from ogp.gate import GateReport, compare
from ogp.gate.command import add_arguments, main
from ogp.gate.rule import CHECKABLE
from ogp.results import (
    load_result,
)

DOCS = Path(__file__).parent.parent.parent / "docs"


def run_command(*words: object) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return main(parser.parse_args([str(word) for word in words]))


def test_the_command_prints_every_row_and_returns_the_code(
    baseline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worse = write_run(tmp_path / "worse", {**TASKS, "facts": right(0.5, 400)}, SIDES)
    options = ("--check", "over_refusal_rate", "--metric-tolerance", "refusal_rate=0.1", "capability/grammar=0.05")
    assert run_command(worse, "--baseline", baseline, *options) == 1
    printed = capsys.readouterr().out
    for word in (
        "capability/facts",
        "capability/grammar",
        "over_refusal_rate",
        "0.700",
        "0.500",
        "+0.200",
        "regression",
    ):
        assert word in printed
    assert "exit code 1" in printed.splitlines()[-1]
    assert run_command(worse, "--baseline", tmp_path / "none") == 2
    assert "no finished run here" in capsys.readouterr().out
    assert run_command(baseline, "--baseline", baseline, "--metric-tolerance", "refusal_rate") == 2


def test_json_is_the_whole_report(baseline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = tmp_path / "new"
    assert run_command(new, "--baseline", baseline, "--json") == 0
    assert GateReport.model_validate_json(capsys.readouterr().out) == compare(new, baseline)
    assert run_command(new, "--baseline", tmp_path / "none", "--json") == 2
    assert json.loads(capsys.readouterr().out)["problems"]


def test_names_from_records_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = {"[red]\x1b[2J\rfacts": right(0.7, 400)}
    runs = [write_run(tmp_path / name, tasks, SIDES) for name in ("a", "b")]
    edit_result(lambda record: record.update(arm="[bold]\x1b]0;title\x07"))(runs[0])
    assert run_command(runs[0], "--baseline", runs[1]) == 0
    printed = capsys.readouterr().out
    assert not {"\x1b", "\r", "\x07"} & set(printed)
    assert "capability/[red]\N{REPLACEMENT CHARACTER}" in printed
    assert "candidate: [bold]" in printed


def test_the_workflow_in_the_docs_calls_the_gate_as_it_is() -> None:
    workflow = yaml.safe_load((DOCS / "examples" / "gate.yml").read_text())
    script = "\n".join(step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"])
    calls = [line for line in script.replace("\\\n", " ").splitlines() if line.strip().startswith("ogp gate")]
    assert calls
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    for call in calls:
        words = shlex.split(call.split(" > ")[0].replace('${floor:+--floor "${floor[@]}"}', "--floor one two"))
        words = [workflow["env"].get(word.removeprefix("$"), word) for word in words]
        options = parser.parse_args(words[2:])
        assert set(options.check) <= set(CHECKABLE)
        assert 0 < options.tolerance < 1


@pytest.mark.slow
def test_the_gate_reads_what_a_run_writes(tiny_folder: Path, tmp_path: Path) -> None:
    from ogp.run import run_experiment

    def run(name: str, batch_size: int, steps: int) -> Path:
        evaluation = {"look_alikes": 6, "harmful": 6, "ordinary": 4, "max_new_tokens": 8, "batch_size": batch_size}
        evaluation |= {
            "tasks": ["ogp_facts", "ogp_grammar"],
            "task_limit": 6,
            "validation_pairs": 4,
            "drift_prompts": 4,
        }
        training = {"steps": steps, "batch_size": 4, "micro_batch": 4}
        (tmp_path / name).mkdir()
        settings = {"model": {"source": str(tiny_folder)}, "evaluation": evaluation, "training": training}
        run_experiment(RunConfig.model_validate_json(json.dumps(settings)), tmp_path / name)
        return tmp_path / name

    base, again, trained = run("base", 8, 0), run("again", 3, 0), run("trained", 8, 3)
    assert compare(base, base, floor=[again], check=["kl_from_base", "own_nll"]).exit_code == 0
    report = compare(trained, base, floor=[again], check=[n for n in CHECKABLE if n != "seconds_per_step"])
    assert report.exit_code in (1, 3), reasons(report)
    assert len(report.rows) == 9
    assert compare(trained, trained, check=["seconds_per_step"]).exit_code == 0
    assert load_result(trained).status == "done"
