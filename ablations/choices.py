"""Rows of a table that are chosen after the runs: of some arms, the one that is best on the select split."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from pydantic import Field

from ogp.config import Name, Settings
from ogp.results import SELECT, PlannedRun, StudyPlan


class Choice(Settings):
    """Names one of several arms; the report split, which the table shows, has no part in it."""

    description: str = Field(min_length=1, description="what is chosen, in a few words")
    among: tuple[Name, ...] = Field(min_length=2, description="arms with `evaluation.select_prompts` above 0")


def with_choices(plan: StudyPlan, choices: Mapping[str, Choice], results: Path) -> tuple[StudyPlan, list[str]]:
    """`plan` with a row for every choice that its finished runs decide, and a sentence about each choice.

    An arm's score is the mean over its seeds; of equal ones the first named is taken, for all seeds the same.
    """
    rows, told = list(plan.runs), []
    for name, choice in choices.items():
        scores = {arm: _score(plan, arm, results) for arm in choice.among}
        known = {arm: score for arm, score in scores.items() if score is not None}
        if len(known) < len(scores):
            without = ", ".join(arm for arm in scores if arm not in known)
            told.append(f"{name}: not chosen, without a look at the select split: {without}")
            continue
        best = max(known, key=known.__getitem__)
        told.append(f"{name}: {best}, of " + ", ".join(f"{arm} {score:+.2f}" for arm, score in known.items()))
        description = f"{choice.description}: {best}"
        rows += [run.model_copy(update={"arm": name, "description": description}) for run in rows_of(plan, best)]
    return plan.model_copy(update={"runs": tuple(rows)}), told


def rows_of(plan: StudyPlan, arm: str) -> list[PlannedRun]:
    """The planned runs of one arm."""
    return [run for run in plan.runs if run.arm == arm]


def _score(plan: StudyPlan, arm: str, results: Path) -> float | None:
    """Mean score of an arm's runs; None unless every one has left its look."""
    try:
        return fmean(json.loads((results / run.run_id / SELECT).read_text())["score"] for run in rows_of(plan, arm))
    except (OSError, ValueError, KeyError, TypeError):
        return None
