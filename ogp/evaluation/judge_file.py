"""Judge the completions in a CSV or JSONL file: the file again with verdicts, and a small table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import combinations
from pathlib import Path
from typing import Any

from ogp.evaluation.judge_agreement import REFUSALS, disagreement
from ogp.evaluation.judges import Judge
from ogp.evaluation.refusal import Reply
from ogp.results import write_atomic

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "|", "%")
_LONGEST_CELL = 100_000_000  # characters; csv stops at 131,072 by default


def judge_file(
    source: Path, output: Path, *, completion_column: str, prompt_column: str | None, judges: Sequence[Judge]
) -> list[dict[str, Any]]:
    """Write `source` with three columns a judge (`NAME_reply`, `NAME_evidence`, `NAME_version`) to `output`.

    Returns the summary: a row a judge (judge, n, count of each class, refused, refusal_rate), then for each pair of
    judges a row (judge "A / B", n, disagreement). Refused are full and partial refusals.
    Errors: `ValueError` with the row's number (the header of a CSV is row 1) for what cannot be read or judged.
    """
    if not judges or len({judge.name for judge in judges}) < len(judges):
        raise ValueError("`judge`: expected one judge or more, each once")
    if source.suffix not in (".csv", ".jsonl") or output.suffix != source.suffix:
        raise ValueError(f"{source} -> {output}: expected .csv to .csv or .jsonl to .jsonl")
    if source.resolve() == output.resolve():
        raise ValueError(f"`out`: {output} is the input itself; name another file")
    rows = _read_csv(source) if source.suffix == ".csv" else _read_jsonl(source)
    predictions: dict[str, list[Reply]] = {judge.name: [] for judge in judges}
    for number, row in rows:
        completion = _cell(source, number, row, completion_column)
        prompt = _cell(source, number, row, prompt_column) if prompt_column else None
        for judge in judges:
            verdict = judge(completion, prompt)
            predictions[judge.name].append(verdict.reply)
            row[f"{judge.name}_reply"] = str(verdict.reply)
            row[f"{judge.name}_evidence"] = "; ".join(verdict.evidence)
            row[f"{judge.name}_version"] = judge.version
    judged = [row for _, row in rows]
    write_atomic(output, csv_text(judged) if output.suffix == ".csv" else "".join(map(_json_line, judged)))
    return _summary(judges, predictions)


def _summary(judges: Sequence[Judge], predictions: dict[str, list[Reply]]) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = []
    for judge in judges:
        replies = predictions[judge.name]
        refused = sum(reply in REFUSALS for reply in replies)
        counts = {str(reply): replies.count(reply) for reply in Reply}
        n = len(replies)
        table.append({"judge": judge.label, "n": n, **counts, "refused": refused, "refusal_rate": refused / n})
    for one, other in combinations(judges, 2):
        differs = disagreement(predictions[one.name], predictions[other.name])
        table.append({"judge": f"{one.name} / {other.name}", "n": table[0]["n"], "disagreement": differs})
    return table


def _read_jsonl(path: Path) -> list[tuple[int, dict[str, Any]]]:
    rows = []
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{path}: row {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}: row {number}: expected a JSON object, found {type(row).__name__}")
        rows.append((number, row))
    return _some(path, rows)


def _read_csv(path: Path) -> list[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    rows = []
    try:
        names = reader.fieldnames or []
        if len(set(names)) < len(names):
            raise ValueError(f"{path}: row 1: a column name stands there twice; each has to be there once")
        for number, row in enumerate(reader, 2):
            if None in row or None in row.values():
                raise ValueError(
                    f"{path}: row {number}: expected {len(names)} cells as in the header, found another number"
                )
            rows.append((number, dict(row)))
    except csv.Error as error:
        raise ValueError(f"{path}: row {len(rows) + 2}: not CSV ({error})") from error
    return _some(path, rows)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}: row {line}: not UTF-8 ({error.reason}); save the file as UTF-8") from error


def _some(path: Path, rows: list[tuple[int, dict[str, Any]]]) -> list[tuple[int, dict[str, Any]]]:
    if not rows:
        raise ValueError(f"{path}: no rows to judge")
    return rows


def _cell(path: Path, number: int, row: dict[str, Any], column: str) -> str:
    if column not in row:
        near = get_close_matches(column, row, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{path}: row {number}: no column {column!r}; there are {', '.join(row)}{hint}")
    value = row[column]
    if not isinstance(value, str):
        raise ValueError(f"{path}: row {number}: `{column}` is {json.dumps(value)[:60]}, expected a text")
    return value


def _json_line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"  # ASCII: lone surrogates of a broken reply survive


def csv_text(rows: list[dict[str, Any]]) -> str:
    """Rows as CSV, the first one's keys as header, every cell harmless to a spreadsheet."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_harmless(name) for name in rows[0]])
    writer.writerows([_harmless(value) for value in row.values()] for row in rows)
    return text.getvalue()


def _harmless(cell: str) -> str:
    """A cell no spreadsheet takes for a formula: an apostrophe before what could start one (OWASP, CSV injection)."""
    if not cell.lstrip(" ").startswith(_FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell  # a number
