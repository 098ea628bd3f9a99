"""A disk of a few megabytes that can really be full, and a group of processes that can really run out of memory."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The root of a file system of 4 MB, mounted in a namespace of its own and reached through /proc."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = f"mount -t tmpfs -o size=4m none '{place}' && echo ready && read _"
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        if shell.stdout.readline() != b"ready\n":
            pytest.skip("this system allows no mount, so no disk can be filled")
        yield Path(f"/proc/{shell.pid}/root{place}")
        shell.stdin.close()


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A control group of 30 MB; the kernel kills whoever takes more."""
    for parent, limit in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
        group = Path("/sys/fs/cgroup") / parent / f"ogp-test-{os.getpid()}"
        try:
            group.mkdir()
            with (group / limit).open("r+") as file:  # the kernel makes it; where it does not, there is no such group
                file.write("30000000")
        except OSError:
            with contextlib.suppress(OSError):
                group.rmdir()
            continue
        yield group
        group.rmdir()
        return
    pytest.skip("this system allows no control group, so the kernel cannot be made to kill for want of memory")
