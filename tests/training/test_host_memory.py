"""What a step frees is there for the next one, without being mapped again page by page."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import resource, sys
from ogp.training.host_memory import keep_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [bytearray(8 << 20) for _ in range(8)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "keep":
    assert keep_memory()
first = faults()
print(first, max(faults() for _ in range(3)))
"""


def page_faults(what: str) -> tuple[int, int]:
    """Those of taking 64 MiB for the first time, and the most of three more times."""
    done = subprocess.run([sys.executable, "-c", CODE, what], capture_output=True, text=True, check=True)
    first, later = map(int, done.stdout.split())
    return first, later


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_freed_memory_is_not_mapped_again() -> None:
    first, later = page_faults("keep")
    assert first > 1000
    assert later < first / 100
    assert page_faults("plain")[1] > first / 2
