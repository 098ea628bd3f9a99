"""`ogp gate`: its options, its table and its exit code."""

from __future__ import annotations

import argparse
import math
from functools import partial
from pathlib import Path

from ogp.gate.rule import CHECKABLE, DEFAULT_TOLERANCES, WORDS, GateReport, compare

HEADS = ("metric", "n", "before", "after", "forgetting", "95 % interval", "noise floor", "MDE", "McNemar p")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ogp gate`."""
    parser.add_argument("candidate", type=Path, help="run folder of the model under test, or its result.json")
    parser.add_argument("--baseline", type=Path, required=True, help="run folder it must not be worse than")
    defaults = ", ".join(f"{name} {value:g}" for name, value in DEFAULT_TOLERANCES.items())
    parser.add_argument(
        "--tolerance", type=float, help=f"how much worse is accepted in every row; 0.02 is two points ({defaults})"
    )
    parser.add_argument(
        "--metric-tolerance",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="tolerance of one metric; capability=... is for all tasks",
    )
    parser.add_argument(
        "--floor",
        nargs="+",
        action="extend",
        default=[],
        type=Path,
        metavar="FOLDER",
        help="re-runs of the baseline in other batches; differences up to theirs are noise",
    )
    parser.add_argument(
        "--check",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help=f"compared besides capability and refusal_rate: {', '.join(CHECKABLE)}",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def main(options: argparse.Namespace) -> int:
    """Print the report; returns the exit code: 0 pass, 1 regression, 2 unusable input, 3 not enough evidence."""
    pairs = [text.rpartition("=") for text in options.metric_tolerance]
    report = compare(
        options.candidate,
        options.baseline,
        tolerance=options.tolerance,
        metric_tolerance={name: _number(value) for name, _, value in pairs},
        floor=options.floor,
        check=options.check,
    )
    if options.json:
        print(report.model_dump_json(indent=1))
    else:
        show(report)
    return report.exit_code


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan  # refused by compare, which knows what is allowed


def show(report: GateReport) -> None:
    """The report as a table, with the reasons below it."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 160  # a log file or a job summary does not wrap
    table = Table(*HEADS, "tolerance", "verdict")
    for row in report.rows:
        interval = "none" if row.low is None else f"{row.low:+.3f} to {row.high:+.3f}"
        values = f"{row.before:.3f}", f"{row.after:.3f}", f"{row.forgetting:+.3f}", interval
        known = (row.noise_floor, row.minimum_detectable_effect, row.mcnemar_p, row.tolerance)
        cells = ("-" if value is None else f"{value:.3f}" for value in known)
        table.add_row(_plain(row.metric), str(row.n), *values, *cells, row.verdict)
    say = partial(console.print, soft_wrap=True)
    say(f"candidate: {_plain(report.candidate)}\nbaseline:  {_plain(report.baseline)}")
    if report.rows:
        console.print(table)
    for row in report.rows:
        if row.verdict != "pass":
            say(f"{_plain(row.metric)}: {row.verdict}: {row.reason}")
    for text in report.notes:
        say(f"note: {_plain(text)}")
    for text in report.problems:
        say(f"unusable: {_plain(text)}")
    say(f"{WORDS[report.exit_code]} (exit code {report.exit_code})")


def _plain(text: str) -> str:
    """Names and messages come from files: nothing that steers a terminal gets through."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
