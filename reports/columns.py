"""A column of a table, and columns that are more than a figure of each run: equal strength, corrections, floors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from ogp.results import Side
from reports.cells import EMPTY, NOTHING, Cell, level_cell, percent, plain
from reports.equal_strength import LEVELS, equal_strength, shared_kl
from reports.judged import corrected, judge_errors
from reports.measures import selectivity
from reports.noise_floor import noise_floor, reruns
from reports.runs import METRIC_OF
from reports.statistics import Estimate
from reports.studies import Study

Section = Literal["main", "equal", "tasks", "drift", "judge", "replies"]
NOISE_FLOOR = "noise floor"
CORRECTED: dict[Side, tuple[str, int]] = {
    "look_alikes": ("Over-refusal", -1),
    "harmful": ("Harmful refusal", 1),
    "ordinary": ("Ordinary refusal", -1),
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `better` is +1 when more is better, -1 when less is, 0 when neither; cells in row order.

    `floor` is what measuring the base again changed; the row of all floors stands below the arms.
    """

    key: str
    section: Section
    group: str
    title: str
    better: int
    cells: tuple[Cell, ...]
    floor: Cell = EMPTY

    @property
    def heading(self) -> str:
        """Title with the arrow of the better direction."""
        return f"{self.title} {'↓ ↑'[self.better + 1]}".strip()

    def shows(self, cell: Cell) -> bool:
        """Whether a cell is worth a column; broken replies that never happened are not."""
        return cell.text != NOTHING and (cell.value != 0 or self.section != "replies")


def shows_floor(columns: Iterable[Column]) -> bool:
    """Whether the row of noise floors has anything to say about these columns."""
    return any(column.floor.value is not None for column in columns)


def corrected_columns(study: Study) -> list[Column]:
    """Refusal rates behind the judge's errors, where people have labelled some of the study's replies."""
    errors = judge_errors(study)
    columns = []
    for side, (title, better) in CORRECTED.items():
        found = [corrected(arm, side, errors.get(side)) for arm in study.arms]
        cells = tuple(
            EMPTY if one is None else percent(Estimate(one.value, one.low, one.high, "labels")) for one in found
        )
        columns.append(Column(f"corrected_{METRIC_OF[side]}", "judge", "Corrected (%)", title, better, cells))
    return columns


def kl_positions(study: Study) -> list[str]:
    """Metrics of KL by the token's place in the reply, in order of place."""
    names = {name for result in study.results for name in result.final().metrics if name.startswith("kl_from_base/")}
    return sorted(names, key=lambda name: int(re.sub(r"\D.*", "", name.split("/")[1]) or 0))


def column_floors(study: Study) -> dict[str, float]:
    """Noise floor by column key: of metrics, and of what is computed from them."""
    floors = noise_floor(study)
    found = [one for arm in reruns(study) if (one := selectivity(arm, study.base)) is not None]
    if found:
        floors["selectivity"] = max(abs(one.value) for one in found)
    if "capability" in floors:
        floors["forgetting"] = floors["capability"]
    return floors


def floor_cell(column: Column, floors: Mapping[str, float]) -> Cell:
    """A column's noise floor: `±1.7` points for shares of prompts, `±0.002` for the rest."""
    value = floors.get(column.key)
    if value is None:
        return Cell()
    share = column.key.endswith("_rate") or "_rate/" in column.key or column.key == "selectivity"
    small = f"{value:.0e}" if 0 < value < 5e-4 else plain(value, 3)
    return Cell(f"±{plain(100 * value, 1)}" if share else f"±{small}", value)


def equal_strength_columns(study: Study) -> list[Column]:
    """What each arm keeps when its over-refusal, or its drift, is the same as that of the others."""
    kl = shared_kl(study)
    found = [equal_strength(arm, study, kl) for arm in study.arms]
    columns = [
        Column(
            f"refusal_rate_at_over_refusal_{100 * level:.0f}",
            "equal",
            "Harmful refusal (%) at",
            f"over-refusal {100 * level:.0f} %",
            1,
            tuple(Cell() if one is None else level_cell(one.kept[index]) for one in found),
        )
        for index, level in enumerate(LEVELS)
    ]
    areas = tuple(Cell() if one is None else percent(one.area) for one in found)
    columns.append(Column("trade_off_area", "equal", "Trade-off", "area (%)", 1, areas))
    for index, (title, better) in enumerate((("Over-refusal", -1), ("Harmful refusal", 1))):
        cells = tuple(Cell() if one is None or kl is None else level_cell(one.at_kl[index]) for one in found)
        group = f"At KL {plain(kl or 0.0, 3)}"
        columns.append(
            Column(f"{title.lower().replace(' ', '_')}_at_kl", "equal", group, f"{title} (%)", better, cells)
        )
    return columns
