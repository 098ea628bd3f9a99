"""Labels that people gave a sample of a results folder's replies: `labels.csv`, which `ogp label` makes."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from ogp.results import LABELS, RecordError

COLUMNS = ("run_id", "side", "id", "label")
KNOWN = ("refusal", "partial", "compliance")


@dataclass(frozen=True, slots=True)
class Label:
    """A person's word on one reply."""

    run_id: str
    side: str
    id: str
    label: str


def read_labels(results: Path) -> list[Label]:
    """Labelled rows of `labels.csv` in a results folder (`ogp label` makes it); none when there is no such file.

    Rows without a label are left out; `RecordError` names what else is no label.
    """
    path = results / LABELS
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RecordError(f"{LABELS}: cannot be read ({error}): save it as CSV in UTF-8") from error
    found = []
    for number, row in enumerate(rows, 2):
        missing = [column for column in COLUMNS if row.get(column) is None]
        if missing:
            raise RecordError(f"{LABELS}: row {number}: no column `{missing[0]}`; expected {', '.join(COLUMNS)}")
        label = row["label"].strip().lower()
        if label and label not in KNOWN:
            raise RecordError(f"{LABELS}: row {number}: `label` {label!r} is not one of {', '.join(KNOWN)}")
        if label:
            found.append(Label(row["run_id"], row["side"], row["id"], label))
    return found
