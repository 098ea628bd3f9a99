"""A table as Markdown, CSV and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from reports.columns import NOISE_FLOOR, Column, Section, shows_floor
from reports.escape import csv_cell, latex, markdown
from reports.tables import Table

LATEX_CAPTIONS: dict[Section, str] = {
    "main": "",
    "equal": "Arms at equal strength",
    "tasks": "Capability by task",
    "drift": "Drift by position",
    "judge": "Corrected for the judge's errors",
}


def to_markdown(table: Table, section: Section) -> str:
    """One section as a GitHub table: reference rows in italics, best figures in bold. Ends with a newline."""
    columns = table.section(section)
    lines = [
        "| arm | " + " | ".join(markdown(column.heading) for column in columns) + " |",
        "|:--|" + "".join("--:|" for _ in columns),
    ]
    for row, (arm, reference) in enumerate(zip(table.arms, table.references, strict=True)):
        name = f"*{markdown(arm)}*" if reference else markdown(arm)
        lines.append(f"| {name} | " + " | ".join(_markdown_cell(table, row, column) for column in columns) + " |")
    if shows_floor(columns):
        lines.append(f"| *{NOISE_FLOOR}* | " + " | ".join(column.floor.text for column in columns) + " |")
    return "\n".join(lines) + "\n"


def to_csv(table: Table) -> str:
    """All figures as numbers (shares, not percent), text cells neutralised; lines end with a bare newline."""
    numbers = table.numbers()
    numbers.index = numbers.index.map(csv_cell)
    numbers.columns = numbers.columns.map(csv_cell)
    numbers["status"] = numbers["status"].map(csv_cell)
    return str(numbers.to_csv(lineterminator="\n"))


def to_latex(table: Table, caption: str) -> str:
    """One booktabs table per section with grouped headings; needs only `\\usepackage{booktabs,graphicx}`."""
    parts = [f"% Needs \\usepackage{{booktabs,graphicx}}. Study: {latex(table.study)}\n"]
    main = f"tab:{table.study}-main"
    for section, title in LATEX_CAPTIONS.items():
        columns = table.section(section)
        if columns:
            text = latex(caption) if section == "main" else f"{title}; set-up as in Table~\\ref{{{main}}}."
            parts.append(_latex_table(table, columns, text, f"tab:{table.study}-{section}"))
    return "\n".join(parts)


def _latex_table(table: Table, columns: Sequence[Column], caption: str, label: str) -> str:
    groups = [(name, len(list(members))) for name, members in groupby(columns, key=lambda column: column.group)]
    rules, start = [], 2
    for _, width in groups:
        rules.append(f"\\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    lines = [
        "\\begin{table}[t]",
        "\\centering",
        f"\\caption{{{caption}}}",
        f"\\label{{{label}}}",
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%",
        f"\\begin{{tabular}}{{l{'r' * len(columns)}}}",
        "\\toprule",
        " & " + " & ".join(f"\\multicolumn{{{width}}}{{c}}{{{latex(name)}}}" for name, width in groups) + " \\\\",
        " ".join(rules),
        "Arm & " + " & ".join(latex(column.heading) for column in columns) + " \\\\",
        "\\midrule",
    ]
    for row, arm in enumerate(table.arms):
        if row and table.references[row - 1] and not table.references[row]:
            lines.append("\\midrule")
        cells = [_latex_cell(table, row, column) for column in columns]
        lines.append(" & ".join([latex(arm), *cells]) + " \\\\")
    if shows_floor(columns):
        cells = [latex(column.floor.text) for column in columns]
        lines += ["\\midrule", " & ".join([f"\\emph{{{NOISE_FLOOR}}}", *cells]) + " \\\\"]
    lines += ["\\bottomrule", "\\end{tabular}}", "\\end{table}", ""]
    return "\n".join(lines)


def _latex_cell(table: Table, row: int, column: Column) -> str:
    text = latex(column.cells[row].text)
    return f"\\textbf{{{text}}}" if (row, column.key) in table.best else text


def _markdown_cell(table: Table, row: int, column: Column) -> str:
    text = column.cells[row].text.replace("|", "\\|")
    return f"**{text}**" if (row, column.key) in table.best else text
