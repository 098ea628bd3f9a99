"""A Ray cluster as the runner sees it: connecting to it, what a run needs of it, how many runs it has room for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablations.interruption import Interrupted, deferred
from ogp.config_files import ConfigError
from ogp.network import why_unreachable

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("ogp", "ablations")  # what a node needs to execute a run
PATIENCE = 3.0  # seconds to answer on the head node's port


@dataclass(frozen=True)
class Need:
    """What one run takes of a node: CPU cores (and as many threads), GPUs, bytes of main memory."""

    cpus: int
    gpus: int
    memory: int

    def __str__(self) -> str:
        return f"{self.cpus} CPUs, {self.gpus} GPUs and {self.memory / 2**30:.1f} GiB of memory"

    def resources(self) -> dict[str, float]:
        """In Ray's names."""
        return {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory}


class Cluster:
    """A connection to a Ray cluster. `ray` is the package, imported here and nowhere else."""

    def __init__(self, ray: Any) -> None:
        self.ray = ray

    def room(self, need: Need) -> int:
        """Runs the living nodes have room for, side by side, when nothing else is on them."""
        return sum(_fits(node, need) for node in self.nodes())

    def nodes(self) -> list[dict[str, float]]:
        """Resources of the living nodes."""
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def has_gpus(self) -> bool:
        """Whether any node has one."""
        return any(node.get("GPU", 0) for node in self.nodes())

    def refuse_impossible(self, need: Need) -> None:
        """`ConfigError` where no node could ever take a run: Ray would let it wait for ever."""
        if not self.room(need):
            have = "; ".join(
                f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs, {node.get('memory', 0) / 2**30:.1f} GiB"
                for node in self.nodes()
            )
            raise ConfigError(
                f"--executor ray: a run needs {need} on one node, and no node has that ({have}): lower "
                "--gpus-per-run, --cpus-per-run or --memory-per-run, or add nodes first"
            )


@contextmanager
def connected(address: str | None) -> Iterator[Cluster]:
    """A connection to the cluster at `address` (host:port of its head), or to RAY_ADDRESS, or to one on this machine.

    Where there is none of these, a cluster of this one machine is started, and ended afterwards. Nodes run the code of
    this checkout, sent to them; `ConfigError` says what is wrong with address, token or installation.
    """
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray
    except ImportError as error:
        raise ConfigError(f"--executor ray: {error}; install it: pip install 'ogp[cluster]'") from error
    address = address or os.environ.get("RAY_ADDRESS") or None
    _refuse_unanswered(address)
    left_out = [f"/{path.name}" for path in ROOT.iterdir() if path.name not in ROOMS]
    try:
        with deferred():  # puts our handlers back too: Ray has its own for SIGTERM, which exits
            ray.init(
                address=address,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                runtime_env={"working_dir": str(ROOT), "excludes": left_out},
            )
    except SystemExit as error:
        raise Interrupted("SIGTERM") from error
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError) as error:
        first_line = " ".join(str(error).split())[:400]
        raise ConfigError(
            f"--executor ray: cannot join the cluster at {address or 'this machine'}: {first_line}. Run this command "
            "on one of its machines, with the RAY_AUTH_MODE and the token that it was started with"
        ) from error
    try:
        yield Cluster(ray)
    finally:
        ray.shutdown()


def _refuse_unanswered(address: str | None) -> None:
    if address in (None, "auto", "local"):
        return
    assert address is not None
    host, colon, port = address.rpartition(":")
    if "//" in address or not (host and colon and port.isdigit()):
        raise ConfigError(
            f"--address {address!r}: expected host:port of the cluster's head node, such as 10.0.0.1:6379"
        )
    reason = why_unreachable(f"ray://{address}", PATIENCE)
    if reason:
        raise ConfigError(f"--address {address}: {reason}; is `ray start --head` running there?")


def _fits(node: dict[str, float], need: Need) -> int:
    shares = [node.get(name, 0.0) / amount for name, amount in need.resources().items() if amount]
    return int(min(shares, default=0))
