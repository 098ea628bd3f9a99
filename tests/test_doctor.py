"""The doctor finds planted problems, says what to do, keeps secrets, and is not held up by a network that is silent."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ogp.cli import main
from ogp.doctor import machine, services, stores
from ogp.doctor.command import examine
from ogp.embedded import write_manifest
from ogp.network import hub_reachable, why_unreachable

TOKEN = "hf_" + "aBcD1234" * 4


@pytest.fixture
def silent_server() -> Iterator[str]:
    """An address that takes no connection and refuses none: packets go nowhere, as behind a firewall."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        fillers = []
        for _ in range(4):  # the queue of waiting connections is full after the first few
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
            fillers.append(filler)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        for filler in fillers:
            filler.close()


def refusing_server() -> str:
    """An address where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_every_topic_is_reported_and_each_problem_has_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("WANDB_BASE_URL", refusing_server())
    code = main(["doctor", "--results", str(tmp_path / "new" / "results")])
    told = capsys.readouterr().out
    findings = list(examine(tmp_path))
    topics = {finding.topic for finding in findings}
    wanted = {"python", "packages", "device", "threads", "memory", "cache folder", "results folder", "embedded model"}
    assert wanted | {"cache models", "cache teacher", "cache base-replies", "hub", "W&B"} <= topics
    assert all(finding.remedy for finding in findings if finding.level != "ok")
    assert code == any(finding.level == "problem" for finding in findings)
    assert TOKEN not in told
    assert all(f"{topic}: " in told for topic in topics)
    assert not (tmp_path / "new").exists(), "the doctor changes nothing"


def test_torn_caches_are_named_and_whole_ones_are_not(own_cache: Path) -> None:
    shutil.rmtree(own_cache, ignore_errors=True)
    whole, torn, strange = (own_cache / "models" / name for name in ("whole", "torn", "strange"))
    for folder in (whole, torn, strange):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights")
    for folder in (whole, torn):
        write_manifest(folder)
    (torn / "model.safetensors").write_bytes(b"weight")  # and `strange` has no manifest
    (own_cache / "teacher").mkdir()
    (own_cache / "teacher" / "a.bin").write_bytes(b"states")
    (own_cache / "teacher" / "a.json").write_text('{"sha256": "0"}')
    notes = [finding.found for finding in stores.caches() if finding.level == "note"]
    assert [note.split(":")[0] for note in notes] == [str(strange), str(torn), str(own_cache / "teacher" / "a.bin")]
    assert any(finding.found.startswith("1 whole") for finding in stores.caches() if finding.topic == "cache models")
    shutil.rmtree(own_cache)


def test_a_folder_that_cannot_be_written_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OGP_CACHE", "/proc/ogp")
    cache, results = machine.disk(Path("/proc/results"))
    assert cache.level == results.level == "problem"
    assert "OGP_CACHE" in cache.remedy
    assert "--results" in results.remedy


def test_too_little_room_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "RUN_SPACE", 1 << 60)
    monkeypatch.setattr(machine, "RUN_MEMORY", 1 << 60)
    assert [finding.level for finding in machine.disk(tmp_path)] == ["ok", "problem"]
    assert [finding.level for finding in machine.memory()] == ["problem"]


@pytest.mark.parametrize("threads", ["1000", "many"])
def test_more_threads_than_cores_are_noted(monkeypatch: pytest.MonkeyPatch, threads: str) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    (finding,) = machine.threads()
    assert finding.level == "note"
    assert "OMP_NUM_THREADS" in finding.remedy


@pytest.mark.timeout(20)
def test_a_silent_a_refusing_and_an_unknown_host_are_told_apart(silent_server: str) -> None:
    assert "within" in why_unreachable(silent_server) or "timed out" in why_unreachable(silent_server)
    assert "refused" in why_unreachable(refusing_server())
    assert why_unreachable("https://no-such-host.invalid")
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not why_unreachable(f"http://127.0.0.1:{server.getsockname()[1]}")


def test_behind_a_proxy_the_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", refusing_server())
    assert "127.0.0.1" in why_unreachable("https://hub.invalid")
    monkeypatch.setenv("no_proxy", "hub.invalid")
    assert "hub.invalid" in why_unreachable("https://hub.invalid")


@pytest.mark.timeout(20)
def test_hub_and_wandb_are_asked_where_they_are_configured(
    monkeypatch: pytest.MonkeyPatch, silent_server: str, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for address in (silent_server, refusing_server()):
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("WANDB_BASE_URL", address)
        assert not hub_reachable()
        assert [finding.level for finding in (*services.hub(), *services.wandb())] == ["note", "note"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("WANDB_BASE_URL", address)
        assert [finding.level for finding in (*services.hub(), *services.wandb())] == ["ok", "note"]
        (tmp_path / "none").write_text("machine 127.0.0.1 login user password x\n")
        assert [finding.level for finding in services.wandb()] == ["ok"]
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert not hub_reachable()
