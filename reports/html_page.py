"""A report as one HTML file that opens from disk: no network, light and dark, sortable tables, completions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from reports.cells import NOTHING
from reports.columns import NOISE_FLOOR, Column, shows_floor
from reports.comparisons import MEASURES, TITLES
from reports.content import DIFFERENCES, HOW_TO_READ, SECTIONS, Report
from reports.escape import visible
from reports.figures import Drawn
from reports.style import INK, PAPER
from reports.tables import Table

_NOT_INLINE = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<defs>\s*<style.*?</style>\s*</defs>", re.DOTALL)
ENLARGED = 1.75  # pixels on a wide page for a point of a figure, so that all have letters of one size
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class HtmlCell:
    """A cell's text, the number it is sorted by, and whether it is set in bold."""

    text: str
    value: float | None
    best: bool


@dataclass(frozen=True, slots=True)
class HtmlRow:
    """One arm's cells."""

    arm: str
    description: str
    reference: bool
    cells: list[HtmlCell]


@dataclass(frozen=True, slots=True)
class HtmlTable:
    """A table with grouped headings: `groups` are (name, number of columns)."""

    anchor: str
    title: str
    text: str
    caption: str
    groups: list[tuple[str, int]]
    columns: list[str]
    rows: list[HtmlRow]
    floor: HtmlRow | None = None


def to_html(report: Report) -> str:
    """The whole page. Every text is escaped by the template engine, and hidden characters are made visible."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, finalize=_visible
    )
    tables = [_section(report, section) for section in SECTIONS if report.table.section(section)]
    tables += _differences(report)
    present = [
        *((table.anchor, table.title) for table in tables),
        *([("notes", "Notes")] if report.notes else []),
        *([("figures", "Figures")] if report.figures[1:] else []),
        *([("completions", "Completions")] if report.replies else []),
    ]
    return environment.get_template("study.html").render(
        report=report,
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),  # noqa: S704 - our own file
        script=Markup((TEMPLATES / "script.js").read_text(encoding="utf-8")),  # noqa: S704 - our own file
        sections=[("setup", "Set-up"), *present, ("arms", "Arms"), ("reading", "How to read this")],
        tables=tables,
        figures=[
            {"name": one.name, "title": one.title, "description": one.description, "svg": inline_svg(one)}
            for one in report.figures
        ],
        how_to_read=HOW_TO_READ,
    )


def inline_svg(figure: Drawn) -> Markup:
    """The figure's SVG as part of a page: named for screen readers, in the page's colours, its ids its own."""
    path = next(path for path in figure.files if path.suffix == ".svg")
    text = _NOT_INLINE.sub("", path.read_text(encoding="utf-8"))
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{figure.name}-", text)
    text = text.replace(INK, "currentColor").replace(PAPER, "var(--paper)")
    opening = re.search(r"<svg[^>]*viewBox=\"([^\"]*)\"[^>]*>", text)
    assert opening is not None, "matplotlib writes a viewBox"
    named = escape(visible(figure.alternative))
    width = ENLARGED * float(opening[1].split()[2])
    head = f'<svg viewBox="{opening[1]}" style="max-width: {width:.0f}px" role="img" aria-label="{named}">'
    return Markup(head + text[opening.end() :].strip())  # noqa: S704 - matplotlib escapes what it writes


def _visible(value: object) -> object:
    return visible(value) if type(value) is str else value


def _section(report: Report, section: str) -> HtmlTable:
    """One section of the study's table."""
    table = report.table
    key = next(key for key in SECTIONS if key == section)
    columns = table.section(key)
    title, text = SECTIONS[key]
    return HtmlTable(
        anchor="results" if key == "main" else key,
        title=title,
        text=text,
        caption=report.caption if key == "main" else "",
        groups=[(name, len(list(members))) for name, members in groupby(columns, key=lambda column: column.group)],
        columns=[column.heading for column in columns],
        rows=[_row(report, table, columns, row) for row in range(len(table.arms))],
        floor=_floor(columns) if shows_floor(columns) else None,
    )


def _floor(columns: list[Column]) -> HtmlRow:
    cells = [HtmlCell(column.floor.text, None, False) for column in columns]
    return HtmlRow(NOISE_FLOOR, "largest difference of a re-run of the base from the base", False, cells)


def _row(report: Report, table: Table, columns: list[Column], row: int) -> HtmlRow:
    cells = [
        HtmlCell(column.cells[row].text, column.cells[row].value, (row, column.key) in table.best) for column in columns
    ]
    return HtmlRow(table.arms[row], report.study.arms[row].description, table.references[row], cells)


def _differences(report: Report) -> list[HtmlTable]:
    """The paired differences from the baseline as a table; nothing when there are none."""
    found = {(one.arm, one.measure): one for one in report.comparisons}
    if not found:
        return []
    measures = [measure for measure in MEASURES if any(measure == key for _, key in found)]
    rows = []
    for arm in dict.fromkeys(one.arm for one in report.comparisons):
        ones = [found.get((arm, measure)) for measure in measures]
        cells = [
            HtmlCell(one.text, one.difference.estimate.value, one.found) if one else HtmlCell(NOTHING, None, False)
            for one in ones
        ]
        rows.append(HtmlRow(arm, "", False, cells))
    base = report.study.baseline.name
    groups = [("points, 95 % interval", len(measures))]
    titles = [TITLES[measure] for measure in measures]
    return [HtmlTable("differences", f"Differences from {base}", DIFFERENCES, "", groups, titles, rows)]
