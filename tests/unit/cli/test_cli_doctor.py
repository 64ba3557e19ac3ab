"""`stepmesh doctor`: what it finds on a good machine, and on bad ones."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from stepmesh_cli import doctor, exits
from stepmesh_cli.data_folder import DataFolder
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_cli.main import main

NOOP = {"name": "n", "steps": [{"id": "a", "component": "/builtin/noop", "input": 1}], "output": {"$step": "a"}}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STEPMESH_URL", raising=False)


def examined(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main(["doctor", "--json", *arguments])
    return code, {check["name"]: check for check in map(json.loads, capsys.readouterr().out.splitlines())}


def make_journal(folder: Path) -> Path:
    async def work() -> None:
        async with Deployment(DeploymentSettings(data_dir=folder, journal="sqlite")) as deployment:
            assert await (await deployment.client()).run(NOOP, None, timeout=30) == 1

    asyncio.run(work())
    return folder / "journal.db"


def test_a_good_machine(capsys: pytest.CaptureFixture[str]) -> None:
    code, checks = examined(capsys)
    assert code == exits.OK
    assert {check["state"] for check in checks.values()} <= {"ok", "warning"}
    assert {"python", "stepmesh", "nats-server", "data folder", "disk space", "fsync", "journal", "deployment"} <= set(checks)
    assert checks["data folder"]["found"].endswith("not made yet")
    assert checks["deployment"]["found"] == "none runs here"
    assert list(Path.cwd().iterdir()) == []


def test_a_file_in_place_of_the_folder(capsys: pytest.CaptureFixture[str]) -> None:
    Path("data").touch()
    code, checks = examined(capsys, "--data", "data")
    assert code == exits.FAILED
    assert checks["data folder"]["state"] == checks["fsync"]["state"] == "failed"
    assert "--data" in checks["data folder"]["fix"]


def test_a_good_journal_is_verified(capsys: pytest.CaptureFixture[str]) -> None:
    make_journal(Path("data"))
    code, checks = examined(capsys, "--data", "data")
    assert checks["journal"]["state"] == "ok"
    assert "frames in 1 partitions verified" in checks["journal"]["found"]
    assert checks["data folder"]["found"].endswith("free")
    assert checks["deployment"]["state"] == "ok"
    assert code == exits.OK


def test_a_flipped_byte_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    with sqlite3.connect(make_journal(Path("data"))) as connection:
        payload = bytearray(connection.execute("SELECT payload FROM frames ORDER BY sequence LIMIT 1").fetchone()[0])
        payload[-1] ^= 1
        connection.execute("UPDATE frames SET payload=? WHERE sequence=(SELECT min(sequence) FROM frames)", (bytes(payload),))
    connection.close()
    code, checks = examined(capsys, "--data", "data")
    assert (code, checks["journal"]["state"]) == (exits.FAILED, "failed")
    assert checks["journal"]["fix"] == "stepmesh journal verify --data data"


def test_what_is_no_journal_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    Path("data").mkdir()
    Path("data/journal.db").write_bytes(b"not a database" * 1000)
    code, checks = examined(capsys, "--data", "data")
    assert (code, checks["journal"]["state"]) == (exits.FAILED, "failed")


def test_a_journal_in_use_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    make_journal(Path("data"))
    folder = DataFolder(Path("data"))
    folder.own()
    _, checks = examined(capsys, "--data", "data")
    folder.release()
    assert "not verified here" in checks["journal"]["found"]
    assert "in use by process" in checks["data folder"]["found"]


@pytest.mark.parametrize(("above", "told"), [(0, "verified"), (1, "not verified here")])
def test_a_large_journal_is_left_to_its_own_command(
    above: int, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    size = make_journal(Path("data")).stat().st_size
    monkeypatch.setattr(doctor, "QUICK_BYTES", size - above)
    _, checks = examined(capsys, "--data", "data")
    assert checks["journal"]["found"].endswith(told)


def test_a_slow_disk_and_little_space_are_warnings(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "SLOW_SYNC_MS", 0.0)
    monkeypatch.setattr(doctor, "LOW_SPACE", 1 << 60)
    code, checks = examined(capsys)
    assert (checks["fsync"]["state"], checks["disk space"]["state"]) == ("warning", "warning")
    assert checks["disk space"]["fix"] == "make room"
    assert code == exits.OK


def test_a_broker_that_is_away(capsys: pytest.CaptureFixture[str]) -> None:
    code, checks = examined(capsys, "--url", "nats://127.0.0.1:1")
    assert (code, checks["deployment"]["state"]) == (exits.FAILED, "failed")
    assert "SM-3001" in checks["deployment"]["found"]
