"""Thirty kills at random moments over a small grid, then one clean run: every result as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from ogp.results import COMPLETIONS, ITEMS, TRAIN_LOG, load_plan, load_result, read_lines
from tests.reliability.studies import STUDY, children, command, run, study_file

KILLS = 30
SECONDS = (1.0, 11.0)
"""Between a start and a kill: from the loading of libraries to the evaluation."""


def recorded(results: Path) -> dict[str, Any]:
    """Everything a grid has found out, by arm, without what clocks and memory meters said."""
    found = {}
    for item in load_plan(results / "mine.study.json").runs:
        folder = results / item.run_id
        result = load_result(folder).model_dump(mode="json")
        for name in ("seconds", "peak_memory_bytes"):
            del result[name]
        for name in ("seconds", "seconds_per_step"):
            del result["training"][name]
        rows = read_lines(folder / TRAIN_LOG) if not item.reference else ()
        log = [{k: v for k, v in row.items() if k != "step_seconds"} for row in rows]
        assert [row["step"] for row in log] == list(range(1, len(log) + 1)), "no step is doubled"
        texts = [(folder / name).read_text() for name in (COMPLETIONS, ITEMS)]
        found[f"{item.arm} {item.seed}"] = json.dumps([result, log, texts], sort_keys=True)
    assert len(list(results.glob("*/result.json"))) == len(found), "no run is doubled"
    return found


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_thirty_kills_change_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    longer = {"training": {"steps": 40, "checkpoint_every": 2}}
    arms = {name: {**arm, "settings": {**arm["settings"], **longer}} for name, arm in STUDY["arms"].items()}
    for name in ("undisturbed", "killed"):
        study_file(tmp_path / name, tiny_folder, arms=arms)
    (tmp_path / "killed" / "pairs.jsonl").unlink()
    study = (tmp_path / "undisturbed" / "mine.yaml").read_text()
    (tmp_path / "killed" / "mine.yaml").write_text(study)  # the same data file, hence the same ids
    seeds = ("--seeds", "0", "1", "--workers", "2")
    assert run(tmp_path / "undisturbed", *seeds).returncode == 0
    expected = recorded(tmp_path / "undisturbed" / "results")

    moments = random.Random(0)
    rounds, killed = 0, {"runner": 0, "run": 0}
    while sum(killed.values()) < KILLS:
        with subprocess.Popen(command(tmp_path / "killed", *seeds), stdout=subprocess.DEVNULL) as runner:
            while runner.poll() is None and sum(killed.values()) < KILLS:
                time.sleep(moments.uniform(*SECONDS))
                running = children(runner.pid)
                if moments.random() < 0.5 and running:
                    os.kill(moments.choice(running), signal.SIGKILL)
                    killed["run"] += 1
                elif runner.poll() is None:
                    runner.kill()
                    killed["runner"] += 1
            runner.kill()
        if runner.returncode == 0:  # finished in spite of all: compare, and begin a new grid
            assert recorded(tmp_path / "killed" / "results") == expected
            (tmp_path / "killed" / "results").rename(tmp_path / f"round-{rounds}")
            rounds += 1
    last = run(tmp_path / "killed", *seeds)
    assert last.returncode == 0, last.stdout
    assert recorded(tmp_path / "killed" / "results") == expected
    logs = [path.read_text() for path in (tmp_path / "killed").glob("results/*/run.log")]
    went_on = sum(log.count("going on from checkpoint") for log in logs)
    print(f"{killed} killed, {rounds} grids finished on the way, {went_on} times gone on from a checkpoint in the last")
