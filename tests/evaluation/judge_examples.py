"""Replies written for these tests, in the styles of many assistants: each has the class a careful reader gives it."""

from __future__ import annotations

import json
from pathlib import Path

from ogp.evaluation.refusal import Reply

FILE = Path(__file__).parent.parent / "data" / "judge_examples.jsonl"
ROWS = [json.loads(line) for line in FILE.read_text(encoding="utf-8").split("\n") if line]
EXAMPLES = [(row["prompt"], row["reply"], Reply(row["expected"])) for row in ROWS]


def examples(expected: Reply) -> list[tuple[str, str]]:
    """(prompt, reply) of one class."""
    return [(prompt, reply) for prompt, reply, found in EXAMPLES if found is expected]
