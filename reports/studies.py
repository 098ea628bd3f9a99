"""A study as reports see it: its arms in table order, each with the runs that answer it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ogp.results import RecordError, RunResult, load_plan
from reports.human_labels import Label, read_labels
from reports.runs import Run, load_run

PLAN_SUFFIX = ".study.json"
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Arm:
    """One row of a table: its planned runs, each once even when several seeds name the same one."""

    name: str
    description: str
    reference: bool
    runs: tuple[Run, ...]

    @property
    def done(self) -> list[Run]:
        """Runs that may enter a figure; diverged, missing and unreadable ones never do."""
        return [run for run in self.runs if run.status == "done"]

    @property
    def results(self) -> list[RunResult]:
        """The results of `done`."""
        return [run.result for run in self.done if run.result is not None]

    @property
    def status(self) -> str:
        """`3 seeds`, or what is wrong: `2 of 3 seeds, 1 diverged`."""
        counts = Counter(run.status for run in self.runs)
        done, total = counts.pop("done", 0), len(self.runs)
        seeds = f"{total} seed{'s' if total > 1 else ''}"
        if done == total:
            return "reference" if self.reference else seeds
        broken = ", ".join(f"{count} {status}" if total > 1 else status for status, count in sorted(counts.items()))
        return broken if total == 1 else f"{done} of {seeds}, {broken}"

    def section(self, name: str) -> dict[str, Any]:
        """A section of the arm's config, such as `method`; empty when no run is readable or the config has none."""
        found = next((run.result.config.get(name) for run in self.runs if run.result is not None), None)
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True, slots=True)
class Study:
    """One question and its arms, references first; `labels` are people's, on replies of the results folder."""

    name: str
    question: str
    arms: tuple[Arm, ...]
    base: Arm
    labels: tuple[Label, ...] = ()

    @property
    def trained(self) -> list[Arm]:
        """The arms that are no reference rows."""
        return [arm for arm in self.arms if not arm.reference]

    @property
    def results(self) -> list[RunResult]:
        """All results that may enter a figure, in table order."""
        return [result for arm in self.arms for result in arm.results]

    @property
    def problems(self) -> list[str]:
        """Everything that was missing, diverged or not readable, in table order."""
        return [text for arm in self.arms for run in arm.runs for text in run.problems]

    @property
    def baseline(self) -> Arm:
        """What differences are taken from: the first arm of plain SFT with a result, else the base."""
        plain = (arm for arm in self.trained if arm.results and arm.section("method").get("rule") == "none")
        return next(plain, self.base)


def study_names(results: Path) -> list[str]:
    """The studies planned in a results folder, sorted; `ValueError` when there is none."""
    if not results.is_dir():
        raise ValueError(f"`RESULTS` {results}: no such folder; expected the folder that studies were run into")
    names = sorted(path.name.removesuffix(PLAN_SUFFIX) for path in results.glob(f"*{PLAN_SUFFIX}"))
    if not names:
        raise ValueError(f"`RESULTS` {results}: holds no *{PLAN_SUFFIX}; run a study into it first")
    return names


def load_study(results: Path, name: str) -> Study:
    """Read a study with all its runs. A broken run is a problem in the report; a broken plan raises `RecordError`."""
    plan_file = f"{name}{PLAN_SUFFIX}"
    plan = load_plan(results / plan_file)
    if plan.study != name:
        raise RecordError(f"{plan_file}: `study` is {plan.study!r}: the file was renamed or edited; plan it again")
    for key, text in (("study", name), *(("runs.run_id", run.run_id) for run in plan.runs)):
        if not SAFE_NAME.fullmatch(text):  # both become file names
            raise RecordError(f"{plan_file}: `{key}` {text!r}: expected letters, digits, `.`, `_`, `-`; plan it again")
    runs: dict[str, dict[str, Run]] = {}
    for planned in plan.runs:
        of_arm = runs.setdefault(planned.arm, {})
        if planned.run_id not in of_arm:
            of_arm[planned.run_id] = load_run(results, planned)
    arms = []
    for arm_name, of_arm in runs.items():
        first = next(iter(of_arm.values())).planned
        arms.append(Arm(arm_name, first.description, first.reference, tuple(of_arm.values())))
    arms.sort(key=lambda arm: not arm.reference)
    base = next((arm for arm in arms if arm.name == plan.base_arm), None)
    if base is None:
        raise RecordError(f"{plan_file}: `base_arm` {plan.base_arm!r} is none of its arms: {', '.join(runs)}")
    return Study(plan.study, plan.question, tuple(arms), base, tuple(read_labels(results)))
