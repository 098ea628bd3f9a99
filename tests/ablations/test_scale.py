"""Ten thousand runs are planned and surveyed in little memory, and no file is read once per run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability.studies import ROOT, study_file

ARMS, SEEDS = 100, 100
MEASURED = (  # a command's peak memory, and how many files it opens outside the runs' folders
    "import sys\n"
    "opened = 0\n"
    "def hook(event, args):\n"
    "    global opened\n"
    "    opened += event == 'open' and '/results/' not in str(args[0]) and not str(args[0]).endswith(('.py', '.pyc'))\n"
    "sys.addaudithook(hook)\n"
    "sys.argv = sys.argv[1:]\n"
    "import runpy\n"
    "try:\n"
    "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
    "except SystemExit as end:\n"
    "    assert not end.code, end.code\n"
    "status = open('/proc/self/status').read()\n"  # ru_maxrss would be the test process's: it survives fork and exec
    "print(status.split('VmHWM:')[1].split()[0], opened - 1, file=sys.stderr)\n"
)


def measured(*words: str) -> tuple[str, int, int]:
    """Output, peak memory in bytes and opened files of a Python command."""
    done = subprocess.run([sys.executable, "-c", MEASURED, *words], capture_output=True, text=True, check=True)
    peak, opened = map(int, done.stderr.split()[-2:])
    return done.stdout, peak * 1024, opened


@pytest.mark.slow
def test_ten_thousand_runs_are_planned_and_surveyed_in_little_memory(tiny_folder: Path, tmp_path: Path) -> None:
    """Time is measured by hand (docs/reliability.md); here, that no file is read once per run."""
    arms = {
        f"arm-{i}": {"description": "x", "settings": {"training": {"learning_rate": 1e-5 * (i + 1)}}}
        for i in range(ARMS)
    }
    study_file(tmp_path, tiny_folder, arms=arms, smoke={"arms": ["arm-0"], "settings": {}})
    run_all, seeds = str(ROOT / "ablations" / "run_all.py"), [str(seed) for seed in range(SEEDS)]
    words = ["--study", str(tmp_path / "mine.yaml"), "--seeds", *seeds, "--results", str(tmp_path / "results")]
    shown, peak, opened = measured(run_all, *words, "--dry-run")
    assert f"{ARMS * SEEDS + 1} runs, 0 finished" in shown
    assert peak < 500 << 20
    assert opened < 1000

    code = (
        "import sys; from pathlib import Path; from ablations.studies import plan_study; from ogp.results import *\n"
        "planned = plan_study(Path(sys.argv[1]), seeds=range(100)); results = Path(sys.argv[2])\n"
        "write_record(results / 'mine.study.json', planned.plan)\n"
        "from ogp.runs.run_state import *\n"
        "for run in planned.configs: (results / run).mkdir(); (results / run / 'status.json').write_text("
        "RunStatus(state='failed', message='m').model_dump_json())\n"
    )
    (tmp_path / "results").mkdir()
    subprocess.run([sys.executable, "-c", code, words[1], words[-1]], check=True, cwd=ROOT)
    shown, peak, opened = measured(str(ROOT / "ogp" / "cli.py"), "status", words[-1])
    assert str(ARMS * SEEDS + 1) in shown
    assert peak < 500 << 20
    assert opened < 1000
