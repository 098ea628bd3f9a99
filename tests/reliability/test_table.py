"""docs/reliability.md names a test for every fault, and each of them exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_every_fault_in_the_table_has_its_test() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text()
    rows = re.findall(r"^\| (\d+) \|.*?\| `(tests/\S+?)::(\w+)` \|$", text, re.M)
    numbers = [int(number) for number, _, _ in rows]
    assert numbers == list(range(1, 26))
    for _, file, name in rows:
        assert name in functions(ROOT / file), f"{file}::{name}"
    named = {name for path in ROOT.glob("tests/**/test_*.py") for name in functions(path)}
    assert {int(found[1]) for name in named if (found := re.match(r"test_fault_(\d+)_", name))} <= set(numbers)


def functions(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
