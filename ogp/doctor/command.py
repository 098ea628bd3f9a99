"""The report of `ogp doctor`, line by line as it is found out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ogp.doctor import machine, services, stores
from ogp.doctor.finding import Finding


def examine(results: Path) -> Iterator[Finding]:
    """All findings, in reading order. `results` is where runs are going to be kept; nothing is changed anywhere."""
    yield from machine.versions()
    yield from machine.device()
    yield from machine.threads()
    yield from machine.memory()
    yield from machine.disk(results)
    yield from stores.embedded_model()
    yield from stores.caches()
    yield from services.hub()
    yield from services.wandb()


def report(results: Path) -> int:
    """Print the findings; exit code 0, or 1 where a default run would fail."""
    problems = 0
    for finding in examine(results):
        problems += finding.level == "problem"
        print(f"{finding.level:<9}{finding.topic}: {finding.found}", flush=True)
        if finding.remedy:
            print(f"{'':<9}  do: {finding.remedy}", flush=True)
    print("no problem found" if not problems else f"{problems} to mend before a run")
    return 1 if problems else 0
