"""A sample of saved replies for people to label: what a judge misses and flags shows on the replies it was used on."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from ogp.data import SIDES
from ogp.evaluation.judge_file import csv_text
from ogp.results import COMPLETIONS, RESULT, RecordError, read_lines, write_atomic


def label_sample(results: Path, output: Path, *, per_side: int, seed: int) -> int:
    """Write a CSV (run_id, side, id, prompt, completion, label) with an empty `label` to fill in; returns its rows.

    A simple random sample of the final replies of all finished runs below `results`, `per_side` on each side, in random
    order and without the verdicts, so that whoever labels does not know the arm or the judge. Saved in the results
    folder under the name `labels.csv`, it corrects the refusal rates of the reports (`ogp.judge_errors`).
    Errors: `RecordError` when there is no finished run, `ValueError` when `output` exists: labels are work.
    """
    if output.exists():
        raise ValueError(f"`--out` {output}: exists already and may hold labels; name another file")
    folders = sorted(path.parent for path in results.glob(f"*/{RESULT}"))
    if not folders:
        raise RecordError(f"{results}: no finished run here (no {RESULT}): give a results folder")
    replies: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for folder in folders:
        for row in read_lines(folder / COMPLETIONS):
            if row.get("final") is True and row.get("side") in replies:
                replies[row["side"]].append({"run_id": folder.name, **row})
    draw = random.Random(seed)
    chosen = [row for found in replies.values() for row in draw.sample(found, min(per_side, len(found)))]
    draw.shuffle(chosen)
    columns = ("run_id", "side", "id", "prompt", "completion")
    write_atomic(output, csv_text([{**{key: str(row[key]) for key in columns}, "label": ""} for row in chosen]))
    return len(chosen)
