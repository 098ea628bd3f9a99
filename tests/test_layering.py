"""The house has one-way doors: imports between rooms go only along the arrows of the README."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EVALUATION = {
    *("evaluation", "judge_errors", "config", "data", "pairs", "results", "embedded", "models", "network"),
    "products",
}
FOUNDATION = {
    *("config", "config_files", "results", "identity", "embedded", "progress"),
    *("exit_codes", "run_state", "results_lock", "redaction", "network", "hub", "preflight", "checkpoints"),
}
ALLOWED = {
    "pairs_settings": set(),
    "method_settings": {"pairs_settings"},
    "config": {"pairs_settings", "method_settings"},
    "rules": set(),
    "redaction": set(),
    "network": set(),
    "judge_errors": set(),
    "results": {"exit_codes", "redaction"},
    "progress": set(),
    "exit_codes": set(),
    "checkpoints": {"embedded", "exit_codes"},
    "run_state": {"results"},
    "results_lock": {"config_files"},
    "status": {"progress", "results", "results_lock", "run_state"},
    "clean": {"results", "results_lock", "run_state", "status"},
    "objectives": set(),
    "forwards": set(),
    "products": {"forwards"},
    "tape": {"forwards", "products"},
    "outer_products": {"products"},
    "learning_rates": set(),
    "host_memory": set(),
    "last_layer": {"causal_lm", "forwards", "learning_rates"},
    "config_files": {"config", "redaction"},
    "embedded": {"config", "results"},
    "tracking": {"config", "redaction"},
    "identity": {"config", "embedded", "hub"},
    "hub": {"config", "network"},
    "preflight": {"config", "config_files", "evaluation", "hub"},
    "models": {"config", "embedded", "hub", "network"},
    "data": set(),
    "pairs": {"pairs_settings", "config", "data", "hub"},
    "training_data": {"config", "data", "pairs", "embedded", "identity", "evaluation", "products"},
    "doctor": {"embedded", "network"},
    "batches": set(),
    "gradients": {"rules"},
    "evaluation": EVALUATION,
    "gate": {"results", "evaluation"},
    "rejudge": {"evaluation", "results"},
}


ABOVE_THE_STEP = {"trainer", "stages", "training_record", "training_data", "run", "cli", "gate", "rejudge", "doctor"}


def imported(path: Path) -> set[str]:
    """Dotted names a module imports, at any depth, in functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


HALLS = ("step", "training", "runs")
"""Packages whose modules are rooms of their own; other packages are one room each."""


def room_of(parts: Sequence[str]) -> str:
    """The room that a path or dotted name inside `ogp` belongs to."""
    return parts[1] if parts[0] in HALLS and len(parts) > 1 else parts[0]


ROOMS = {
    room_of(path.relative_to(ROOT / "ogp").with_suffix("").parts)
    for path in (ROOT / "ogp").rglob("*.py")
    if path.name != "__init__.py"
}


def rooms(path: Path) -> set[str]:
    """The rooms of `ogp` that a module imports."""
    found = {room_of(name.split(".")[1:]) for name in imported(path) if name.startswith("ogp.")}
    return found & ROOMS


@pytest.mark.parametrize("path", sorted((ROOT / "ogp").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_library_imports_follow_the_arrows(path: Path) -> None:
    outside = {n.split(".")[0] for n in imported(path)} & {"ablations", "benchmarks", "reports", "tests"}
    assert not outside, f"the library must not know {outside}"
    room = room_of(path.relative_to(ROOT / "ogp").with_suffix("").parts)
    if room in ALLOWED:
        assert rooms(path) - {room} <= ALLOWED[room]
    if room == "evaluation":
        assert "trainer" not in rooms(path)
    if path.parent.name == "step":
        assert not rooms(path) & ABOVE_THE_STEP


@pytest.mark.parametrize("path", sorted((ROOT / "reports").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_reports_read_results_only(path: Path) -> None:
    assert rooms(path) <= {"results", "judge_errors"}
    assert not {n.split(".")[0] for n in imported(path)} & {"torch", "transformers", "ablations"}


@pytest.mark.parametrize("path", sorted((ROOT / "ablations").glob("*.py")), ids=lambda p: p.name)
def test_ablations_use_settings_records_and_ids_only(path: Path) -> None:
    assert rooms(path) <= FOUNDATION
    assert not {n.split(".")[0] for n in imported(path)} & {"torch", "transformers"}


def test_no_file_outgrows_its_idea() -> None:
    lengths = {
        path.relative_to(ROOT): len(path.read_text().splitlines())
        for room in ("ogp", "ablations", "reports", "benchmarks")
        for path in (ROOT / room).rglob("*.py")
    }
    assert {path: n for path, n in lengths.items() if n > 300} == {}


@pytest.mark.parametrize("module", ["ogp", "ogp.config", "ogp.results", "ogp.identity", "ogp.cli", "ablations.run_all"])
def test_light_modules_load_neither_torch_nor_transformers(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'transformers', 'pandas', 'datasets'}} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_readme_tree_names_every_module() -> None:
    readme = (ROOT / "README.md").read_text()
    for room in ("ogp", "ablations", "reports", "benchmarks"):
        for path in (ROOT / room).rglob("*.py"):
            if path.name != "__init__.py" and "__pycache__" not in path.parts:
                assert path.name in readme, f"{path.relative_to(ROOT)} is missing in the README's tree"
