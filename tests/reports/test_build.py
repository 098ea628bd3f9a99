"""From a results folder to files: the same bytes every time, and nothing broken stays silent or stops the rest."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from synthetic import FEW, write_study

from ogp.results import COMPLETIONS, ITEMS, RESULT, TRAIN_LOG, load_result, read_lines, write_lines, write_record
from reports.build import build, main
from reports.comparisons import compare
from reports.setup import caption
from reports.studies import load_study

ROOT = Path(__file__).parent.parent.parent


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def page(results: Path, out: Path) -> str:
    """The Markdown page of a study without its pictures, which take seconds and are tested elsewhere."""
    from reports.content import Report
    from reports.markdown_page import to_page
    from reports.notes import notes
    from reports.setup import setup_box
    from reports.tables import build_table

    study = load_study(results, "core")
    return to_page(
        Report(study, build_table(study), [], setup_box(study), caption(study, []), notes(study), [], None), out
    )


def test_every_format_is_there(built: Path) -> None:
    names = set(digests(built))
    assert {"core.md", "core.csv", "core.tex", "figures/core-trade_off.png", "figures/core-trade_off.svg"} <= names
    linked = [line.split("](")[1].rstrip(")") for line in (built / "core.md").read_text().splitlines() if "![" in line]
    assert len(linked) >= 6
    assert all((built / link).is_file() for link in linked)


def test_same_results_same_bytes_whatever_the_surroundings(results: Path, built: Path, tmp_path: Path) -> None:
    matplotlibrc = tmp_path / "matplotlibrc"
    matplotlibrc.write_text("font.size: 30\nlines.linewidth: 9\n")
    surroundings = {"TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "7", "MATPLOTLIBRC": str(matplotlibrc)}
    subprocess.run(
        [sys.executable, "-W", "error", "-m", "reports.build", str(results), "-o", str(tmp_path / "again")],
        cwd=ROOT,
        env={**os.environ, **surroundings},
        check=True,
    )
    assert digests(tmp_path / "again") == digests(built)


def test_pages_name_no_machine_path(results: Path, built: Path) -> None:
    for path in built.rglob("*"):
        if path.suffix in {".md", ".csv", ".tex", ".svg"}:
            content = path.read_text()
            assert str(results) not in content
            assert str(built) not in content


def test_the_set_up_stands_in_the_page(built: Path) -> None:
    content = (built / "core.md").read_text()
    for text in ("embedded:over-refusing", "greedy, at most 48 new tokens", "ogp 1", "0123abc", "60 look-alike"):
        assert text in content


def test_captions_name_n_seeds_judge_decoding_base_and_what_could_be_found(results: Path) -> None:
    study = load_study(results, "core")
    text = caption(study, compare(study))
    for part in ("60 look-alike", "Seeds: 0.", "Judge: ogp 1.", "Decoding: greedy", "Base: base", "Minimum detectable"):
        assert part in text
    assert "single seed" in text


def test_notes_say_when_a_switch_made_no_difference(results: Path, tmp_path: Path) -> None:
    content = page(results, tmp_path)
    assert "always projected the same way as conflicting-only in 100 % of steps: always" in content
    assert "nearly plain SFT, because gradients were aligned in only 0 % of steps: aligned" in content
    assert "single seed: no interval over seeds" in content
    assert "evaluations on the way asked 16 of the 60 look-alikes" in content


def test_a_run_done_with_half_the_examples_is_named(results: Path, tmp_path: Path) -> None:
    assert "half the examples" not in page(results, tmp_path)
    copy = shutil.copytree(results, tmp_path / "copy")
    halved = load_result(copy / "always-0").model_copy(update={"halved": True})
    write_record(copy / "always-0" / RESULT, halved)
    assert "half the examples per forward pass (other last digits): always seed 0" in page(copy, tmp_path)


def damage_torn(folder: Path) -> None:
    path = folder / RESULT
    path.write_bytes(path.read_bytes()[:200])


def damage_foreign(folder: Path) -> None:
    result = load_result(folder)
    write_record(folder / RESULT, result.model_copy(update={"run_id": "another"}))


def damage_unevaluated(folder: Path) -> None:
    result = load_result(folder)
    write_record(folder / RESULT, result.model_copy(update={"evaluations": result.evaluations[:-1]}))


def damage_nan(folder: Path) -> None:
    content = (folder / RESULT).read_text()
    (folder / RESULT).write_text(
        content.replace('"kl_from_base": {\n     "value": 0.3', '"kl_from_base": {"value": NaN')
    )


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / RESULT).unlink(), "always, seed 0: missing"),
        (damage_torn, "always, seed 0: always-0/result.json: `the whole file`"),
        (damage_foreign, "the file belongs to another run"),
        (damage_unevaluated, "has no final one"),
        (damage_nan, "always-0/result.json: "),
    ],
)
def test_an_unusable_result_is_named_and_the_others_are_reported(
    tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    write_study(tmp_path, arms=FEW)
    damage(tmp_path / "always-0")
    study = load_study(tmp_path, "core")
    assert [said in problem for problem in study.problems] == [True]
    content = page(tmp_path, tmp_path / "out")
    row = next(line for line in content.splitlines() if line.startswith("| always |"))
    assert row.split("|")[2].strip() == "–"
    assert row.rstrip(" |").endswith(("missing", "unreadable"))
    assert "| sft | " in content
    assert "always, seed 0" in content


def damage_row(file: str, change: Callable[[dict[str, object]], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        rows = list(read_lines(folder / file))
        change(rows[-1])
        write_lines(folder / file, rows)

    return damage


def flip(row: dict[str, object]) -> None:
    row["reply"] = "full_compliance" if row["reply"] == "full_refusal" else "full_refusal"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / COMPLETIONS).unlink(), "always-0/completions.jsonl: cannot be read"),
        (lambda folder: (folder / COMPLETIONS).write_text('{"step": 1'), "completions.jsonl:1: not JSON"),
        (lambda folder: (folder / COMPLETIONS).write_bytes(b"\xff\xfe"), "completions.jsonl: cannot be read"),
        (damage_row(COMPLETIONS, lambda row: row.pop("reply")), "KeyError('reply')"),
        (damage_row(COMPLETIONS, lambda row: row.update(reply="maybe")), "is not a known one"),
        (damage_row(COMPLETIONS, lambda row: row.update(id="ordinary-000")), "occurs twice"),
        (damage_row(COMPLETIONS, flip), "one of the two was edited"),
        (lambda folder: (folder / ITEMS).write_text("[]\n"), "items.jsonl:1: expected an object"),
        (damage_row(ITEMS, lambda row: row.update(score=7)), "is not in [0, 1]"),
        (lambda folder: (folder / TRAIN_LOG).write_text("torn"), "train.jsonl:1: not JSON"),
    ],
)
def test_a_broken_side_file_is_named_and_the_result_still_counts(
    tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    write_study(tmp_path, arms=FEW)
    before = page(tmp_path, tmp_path / "out")
    damage(tmp_path / "always-0")
    study = load_study(tmp_path, "core")
    assert len(study.problems) == 1
    assert said in study.problems[0]
    assert str(tmp_path) not in study.problems[0]
    after = page(tmp_path, tmp_path / "out")
    cells = [
        next(x for x in text.splitlines() if x.startswith("| always |")).split("|")[2:4] for text in (before, after)
    ]
    assert cells[0] == cells[1]


def test_empty_results_are_reported_as_missing(tmp_path: Path) -> None:
    plan = write_study(tmp_path / "full", arms=FEW)
    write_record(tmp_path / "none" / "core.study.json", plan)
    written = build(tmp_path / "none", tmp_path / "out")
    content = (tmp_path / "out" / "core.md").read_text()
    assert content.count("missing") >= 5
    assert not [path for path in written if path.suffix == ".png"]


def test_runs_measured_in_different_ways_are_said_to_be(tmp_path: Path) -> None:
    write_study(tmp_path, arms=FEW)
    result = load_result(tmp_path / "sft-0")
    environment = {**result.environment, "threads": "8"}
    write_record(tmp_path / "sft-0" / RESULT, result.model_copy(update={"judge": "gcg-29", "environment": environment}))
    content = page(tmp_path, tmp_path / "out")
    assert "the runs differ in judge: gcg-29, ogp 1" in content
    assert "the runs differ in threads: 2, 8" in content


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "-o", "out"], "no such folder"),
        ([".", "-o", "out"], "holds no *.study.json"),
        (["results", "-o", "out", "--study", "cores"], "did you mean 'core'?"),
        (["results", "-o", "file/out"], "file"),
    ],
)
def test_mistakes_end_with_one_line_and_code_2(
    tmp_path: Path,
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path / "results", arms=FEW[:1])
    Path("file").write_text("")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error


def test_a_broken_plan_does_not_stop_the_other_studies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = write_study(tmp_path, arms=FEW[:1])
    (tmp_path / "torn.study.json").write_text('{"study": "torn"')
    write_record(tmp_path / "renamed.study.json", plan)
    escaping = plan.model_copy(update={"study": "path", "runs": (plan.runs[0].model_copy(update={"run_id": "../x"}),)})
    write_record(tmp_path / "path.study.json", escaping)
    write_record(tmp_path / "base.study.json", plan.model_copy(update={"study": "base", "base_arm": "gone"}))
    assert main([str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    for said in ("torn.study.json", "`study` is 'core'", "`runs.run_id` '../x'", "`base_arm` 'gone'"):
        assert said in error
    assert (tmp_path / "out" / "core.md").is_file()


def test_hostile_text_comes_out_as_text(hostile_built: Path) -> None:
    out = {path.suffix: path.read_text() for path in hostile_built.iterdir() if path.is_file()}
    rendered = MarkdownIt("gfm-like", {"linkify": False}).render(out[".md"])
    tags = set(re.findall(r"</?([a-z0-9]+)", rendered))
    allowed = "h1 h2 p em strong img table thead tbody tr th td ul li code"
    assert tags <= set(allowed.split())
    sources = re.findall(r'(?:src|href)="([^"]*)"', rendered)
    assert sources
    assert all(source.startswith("figures/core-") for source in sources)
    for text in out.values():
        assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", text)
    for row in csv.reader(io.StringIO(out[".csv"])):
        assert not any(cell.startswith(("=", "+", "@", "|")) for cell in row)
    assert "\\input{" not in out[".tex"]
    figure = (hostile_built / "figures" / "core-trade_off.svg").read_text()
    assert "<script" not in figure


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_tables_compile(built: Path, tmp_path: Path) -> None:
    packages = "\\usepackage{booktabs,graphicx}"
    body = "\\begin{document}\\input{core.tex}\\end{document}"
    (tmp_path / "x.tex").write_text(f"\\documentclass{{article}}{packages}{body}")
    shutil.copy(built / "core.tex", tmp_path)
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "x.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
