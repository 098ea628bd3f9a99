"""A study of three runs on a tiny model, executed by the command as a user would."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
EVALUATION = {
    "look_alikes": 2,
    "harmful": 2,
    "ordinary": 2,
    "max_new_tokens": 3,
    "tasks": [],
    "drift_prompts": 2,
    "validation_pairs": 2,
}
"""The least that still measures every side."""
STUDY: dict[str, Any] = {
    "question": "Does the path work?",
    "settings": {
        "training": {"steps": 2, "batch_size": 2, "micro_batch": 2, "learning_rate": 1e-3},
        "evaluation": EVALUATION,
    },
    "base": "base",
    "references": {"base": {"description": "where every arm starts"}},
    "arms": {
        "sft": {"description": "plain SFT", "settings": {"method": {"rule": "none"}}},
        "ogp": {"description": "projection", "settings": {"method": {"rule": "orthogonal"}}},
    },
    "smoke": {"arms": ["sft"], "settings": {"training": {"steps": 1}}},
}


def study_file(folder: Path, model: Path, **changes: Any) -> Path:
    """`mine.yaml` in `folder`, with training data in a file beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [{"prompt": f"What is {n} and {n}?", "answer": f"It is {2 * n}."} for n in range(20)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    settings = {**STUDY["settings"], "model": {"source": str(model)}, "data": {"source": str(folder / "pairs.jsonl")}}
    path = folder / "mine.yaml"
    study = json.loads(json.dumps({**STUDY, "settings": settings, **changes}))  # no shared parts, which YAML would mark
    path.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    return path


def command(folder: Path, *more: str) -> list[str]:
    """run_all on the study of `folder`, results and reports beside it."""
    return [
        *(sys.executable, str(ROOT / "ablations" / "run_all.py"), "--study", str(folder / "mine.yaml")),
        *("--results", str(folder / "results"), "--reports", str(folder / "reports"), "--workers", "1", *more),
    ]


def run(folder: Path, *more: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command to its end."""
    return subprocess.run(command(folder, *more), capture_output=True, text=True, cwd=folder, **options)


def report_bytes(folder: Path) -> dict[str, bytes]:
    """Every file of the report."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted((folder / "reports").rglob("*")) if p.is_file()}


def children(process: int) -> list[int]:
    """Processes a process has started and that still are."""
    try:
        return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def alive(process: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(") ", 1)[1][0] not in "ZX"
    except OSError:
        return False
