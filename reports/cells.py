"""One figure of a table: its text for readers and its numbers for programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ogp.results import RunResult
from reports.measures import Difference, Rate, mean, mean_capability
from reports.statistics import Estimate
from reports.studies import Arm

NOTHING = "–"


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure. `text` is for readers, the rest for programs; all None where there is nothing to show."""

    text: str = NOTHING
    value: float | None = None
    low: float | None = None
    high: float | None = None
    count: int | None = None
    n: int | None = None


EMPTY = Cell()


def rate_cell(found: Rate | None, interval: bool = True) -> Cell:
    """`3/60 [1.7, 13.7]`: count, n and the 95 % interval in percent, or the bare `3/60`."""
    if found is None:
        return Cell()
    text = f"{found.count}/{found.n}" + (f" [{100 * found.low:.1f}, {100 * found.high:.1f}]" if interval else "")
    return Cell(text, found.value, found.low, found.high, found.count, found.n)


def plain(value: float, digits: int) -> str:
    """Fixed digits with a true minus sign, never `-0.00`."""
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def mean_cell(found: Estimate | None, digits: int = 2) -> Cell:
    """`0.71 ± 0.04`, or the bare value where there is no interval."""
    if found is None:
        return Cell()
    text = plain(found.value, digits)
    if found.high is not None:
        text += f" ± {plain(found.high - found.value, digits)}"
    return Cell(text, found.value, found.low, found.high)


def points(found: Estimate | None) -> Cell:
    """`+62 [50, 74]`: a difference of shares in percentage points."""
    if found is None:
        return Cell()
    text = signed(found.value)
    if found.low is not None and found.high is not None:
        text += f" [{plain(100 * found.low, 0)}, {plain(100 * found.high, 0)}]"
    return Cell(text, found.value, found.low, found.high)


def percent(found: Estimate) -> Cell:
    """`62 [50, 74]`: a share in percent."""
    text = plain(100 * found.value, 0)
    if found.low is not None and found.high is not None:
        text += f" [{plain(100 * found.low, 0)}, {plain(100 * found.high, 0)}]"
    return Cell(text, found.value, found.low, found.high)


def signed(share: float) -> str:
    """Percentage points with their sign: +62, −3, 0."""
    text = plain(100 * share, 0)
    return text if text.startswith("−") or text == "0" else f"+{text}"


def forgetting_cell(found: Difference | None, arm: Arm, base: Arm) -> Cell:
    """Base minus arm, positive is worse: `0.02 [-0.01, 0.05]` from paired items, bare from the means without them."""
    if found is not None:
        low, high = found.estimate.low, found.estimate.high
        assert low is not None
        assert high is not None
        text = f"{plain(-found.estimate.value, 2)} [{plain(-high, 2)}, {plain(-low, 2)}]"
        return Cell(text, -found.estimate.value, -high, -low)
    before, after = mean(base, mean_capability), mean(arm, mean_capability)
    if before is None or after is None:
        return Cell()
    return Cell(plain(before.value - after.value, 2), before.value - after.value)


def level_cell(found: Estimate | None) -> Cell:
    """`62 [50, 74]`, `62 (1 of 3 seeds)` where not all reach the level, or `not reached`."""
    if found is None:
        return Cell("not reached")
    cell = percent(found)
    return replace(cell, text=f"{cell.text} ({found.over})") if " of " in found.over else cell


def share_cell(arm: Arm, read: Callable[[RunResult], float | None]) -> Cell:
    """`92 %`: mean over seeds of a share of steps."""
    found = [value for result in arm.results if (value := read(result)) is not None]
    return Cell(f"{100 * sum(found) / len(found):.0f} %", sum(found) / len(found)) if found else Cell()
