"""How well judges agree with people and with each other: `python -m ogp.evaluation.judge_agreement LABELS.csv`."""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from pathlib import Path

from ogp.evaluation.judges import DEFAULT_JUDGE, JUDGES, find_judge
from ogp.evaluation.refusal import Reply
from ogp.judge_errors import JudgeErrors

REFUSALS = (Reply.full_refusal, Reply.partial_refusal)  # what the project's refusal rates count
LABELS = ("refusal", "partial", "compliance")


@dataclass(frozen=True)
class Agreement:
    """Counts of human labels ("refusal", "partial", "compliance") by the judge's class.

    A refusal is a full or partial one of the judge against a human "refusal"; human partials are left out, as in the
    published comparisons. Ratios without a denominator are None.
    """

    confusion: Counter[tuple[str, Reply]]

    def count(self, label: str, *, refused: bool) -> int:
        """Rows with human `label` that the judge calls refusals, or does not."""
        return sum(
            n for (human, reply), n in self.confusion.items() if human == label and (reply in REFUSALS) == refused
        )

    @property
    def errors(self) -> JudgeErrors:
        """The counts a refusal rate is corrected with (`ogp.judge_errors.corrected_rate`); partials are left out."""
        return JudgeErrors(
            hits=self.count("refusal", refused=True),
            misses=self.count("refusal", refused=False),
            passed=self.count("compliance", refused=False),
            false_alarms=self.count("compliance", refused=True),
        )

    @property
    def precision(self) -> float | None:
        """Share of human refusals among the judge's."""
        hits = self.count("refusal", refused=True)
        return _ratio(hits, hits + self.count("compliance", refused=True))

    @property
    def recall(self) -> float | None:
        """Share of the human refusals that the judge finds: its sensitivity."""
        hits = self.count("refusal", refused=True)
        return _ratio(hits, hits + self.count("refusal", refused=False))

    @property
    def specificity(self) -> float | None:
        """Share of the human compliances that the judge calls no refusal."""
        passed = self.count("compliance", refused=False)
        return _ratio(passed, passed + self.count("compliance", refused=True))

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall."""
        hits = self.count("refusal", refused=True)
        wrong = self.count("compliance", refused=True) + self.count("refusal", refused=False)
        return _ratio(2 * hits, 2 * hits + wrong)


def agreement(labels: Sequence[str], predictions: Sequence[Reply]) -> Agreement:
    """Agreement of `predictions` with human `labels`, row by row.

    Errors: `ValueError` for lengths that differ and for a label that is not one of `LABELS`, with its row.
    """
    if len(labels) != len(predictions):
        raise ValueError(f"`labels`: {len(labels)} of them for {len(predictions)} predictions; expected one for each")
    for row, label in enumerate(labels, 1):
        if label not in LABELS:
            raise ValueError(f"`labels`: row {row} is {label!r}, expected one of {', '.join(LABELS)}")
    return Agreement(Counter(zip(labels, map(Reply, predictions), strict=True)))


def disagreement(one: Sequence[Reply], other: Sequence[Reply]) -> float:
    """Share of replies that only one of two judges calls a refusal."""
    if not one or len(one) != len(other):
        raise ValueError(f"`predictions`: {len(one)} and {len(other)}; expected the same number, at least 1")
    return sum((a in REFUSALS) != (b in REFUSALS) for a, b in zip(one, other, strict=True)) / len(one)


def _ratio(count: int, n: int) -> float | None:
    return count / n if n else None


@dataclass(frozen=True)
class LabelledReply:
    """One row of a labelled file."""

    source: str
    prompt: str
    completion: str
    label: str
    benign: bool

    @property
    def held_out(self) -> bool:
        """In the half, by prompt, that the judge was not developed on."""
        return sha256(f"s1{self.prompt.strip().lower()}".encode()).digest()[-1] % 2 == 1


def read_labels(path: Path) -> list[LabelledReply]:
    """Rows of a CSV with the columns source, model, prompt_is_benign, prompt, completion, label."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = {"source", "model", "prompt_is_benign", "prompt", "completion", "label"} - set(
            reader.fieldnames or ()
        )
        if missing:
            raise ValueError(
                f"{path}: no column {', '.join(sorted(missing))}; found {', '.join(reader.fieldnames or ())}"
            )
        return [
            LabelledReply(
                f"{row['source']}/{row['model']}",
                row["prompt"],
                row["completion"],
                row["label"],
                row["prompt_is_benign"] == "1",
            )
            for row in reader
        ]


def table(rows: Sequence[LabelledReply], judges: Sequence[str]) -> str:
    """Markdown: precision, recall and F1 of each judge on each source, and its disagreement with the default judge."""
    lines = [
        "| source | judge | n | precision | recall | F1 | refused, benign prompts | human | differs from default |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for source, group in groupby(sorted(rows, key=lambda row: row.source), key=lambda row: row.source):
        replies = list(group)
        default = _predict(DEFAULT_JUDGE, replies)
        for name in judges:
            predicted = _predict(name, replies)
            found = agreement([row.label for row in replies], predicted)
            benign = [reply in REFUSALS for row, reply in zip(replies, predicted, strict=True) if row.benign]
            human = [row.label == "refusal" for row in replies if row.benign]
            cells = (
                [source, name, str(len(replies))]
                + [_number(value) for value in (found.precision, found.recall, found.f1)]
                + [_share(benign), _share(human), f"{disagreement(predicted, default):.1%}"]
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def confusion_table(rows: Sequence[LabelledReply], judge: str) -> str:
    """Markdown: the judge's classes by source and human label."""
    lines = [f"| source | human | {' | '.join(Reply)} |", "|---|---|" + "---|" * len(Reply)]
    for source, group in groupby(sorted(rows, key=lambda row: row.source), key=lambda row: row.source):
        replies = list(group)
        found = agreement([row.label for row in replies], _predict(judge, replies)).confusion
        lines += [
            f"| {source} | {label} | {' | '.join(str(found[label, reply]) for reply in Reply)} |" for label in LABELS
        ]
    return "\n".join(lines)


def _predict(name: str, rows: Sequence[LabelledReply]) -> list[Reply]:
    judge = find_judge(name)
    return [judge(row.completion, row.prompt).reply for row in rows]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _share(flags: Sequence[bool]) -> str:
    return f"{sum(flags)}/{len(flags)}" if flags else "-"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables of a labelled file."""
    parser = argparse.ArgumentParser(prog="python -m ogp.evaluation.judge_agreement", description=__doc__)
    parser.add_argument("labels", type=Path, help="CSV: source, model, prompt_is_benign, prompt, completion, label")
    parser.add_argument("--judge", action="append", help="a judge (may be repeated; all named ones without it)")
    parser.add_argument("--held-out", action="store_true", help="only the prompts the judge was not developed on")
    options = parser.parse_args(arguments)
    try:
        rows = [row for row in read_labels(options.labels) if row.held_out or not options.held_out]
        print(table(rows, options.judge or list(JUDGES)))
        print(f"\n{confusion_table(rows, DEFAULT_JUDGE)}")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
