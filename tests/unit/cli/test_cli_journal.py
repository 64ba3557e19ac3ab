"""`stepmesh journal`: verify, dump and repair a real SQLite journal, whole and damaged."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from stepmesh_cli import exits
from stepmesh_cli.data_folder import DataFolder
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_cli.main import main

HUGE = 123456789012345678901234567890
FLOW = {
    "name": "f",
    "steps": [
        {"id": "a", "component": "/builtin/noop", "input": {"$input": "$"}},
        {"id": "b", "component": "/nowhere/x", "skip": True},
        {"id": "c", "component": "/builtin/sleep", "input": {"duration_ms": 0}},
        {"id": "d", "component": "/builtin/sleep", "input": {"bad": 0}, "onError": {"action": "useDefault", "defaultValue": "é"}},
    ],
    "output": [{"$step": "a"}, {"$step": "b"}, {"$step": "c"}, {"$step": "d"}],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder in which two runs ended."""
    folder = tmp_path / "data"

    async def fill() -> None:
        async with Deployment(DeploymentSettings(journal="sqlite", data_dir=folder)) as deployment:
            client = await deployment.client()
            for _ in range(2):
                await client.run(FLOW, {"n": HUGE}, timeout=20)

    asyncio.run(fill())
    return folder


def flip(data: Path, sequence: int) -> None:
    """Change one byte of a frame."""
    with closing(sqlite3.connect(data / "journal.db")) as connection, connection:
        (payload,) = connection.execute("SELECT payload FROM frames WHERE sequence = ?", (sequence,)).fetchone()
        torn = payload[:-1] + bytes([payload[-1] ^ 1])
        connection.execute("UPDATE frames SET payload = ? WHERE sequence = ?", (torn, sequence))


def test_a_good_journal(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["journal", "verify", "--data", str(data)]) == exits.OK
    assert "good" in capsys.readouterr().out
    assert main(["journal", "verify", "--data", str(data), "--json"]) == exits.OK
    told = json.loads(capsys.readouterr().out)
    assert told["good"]
    assert told["partitions"][0]["frames"] >= 2


def test_dump_is_json_lines_with_readable_events(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["journal", "dump", "--data", str(data)]) == exits.OK
    frames = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [frame["sequence"] for frame in frames] == list(range(1, len(frames) + 1))
    events = [event for frame in frames for event in frame["events"]]
    created = next(event for event in events if event["event"] == "RunCreated")
    assert created["inputs"] == [{"n": HUGE}]
    assert {"StepSucceeded", "StepSkipped", "StepSleeping", "StepDefaulted", "ItemEnded", "RunEnded"} <= {
        event["event"] for event in events
    }
    defaulted = next(event for event in events if event["event"] == "StepDefaulted")
    assert (defaulted["output"], defaulted["failure"]["code"]) == ("é", "INVALID_INPUT")


def test_dump_of_one_run_and_from_a_sequence_on(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["journal", "dump", "--data", str(data)])
    frames = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    run = frames[-1]["events"][-1]["run"]
    main(["journal", "dump", "--data", str(data), "--run", run])
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {event["run"] for frame in found for event in frame["events"]} == {run}
    main(["journal", "dump", "--data", str(data), "--after", str(len(frames) - 1)])
    assert [json.loads(line)["sequence"] for line in capsys.readouterr().out.splitlines()] == [len(frames)]
    main(["journal", "dump", "--data", str(data), "--partition", "7"])
    assert capsys.readouterr().out == ""


def test_a_flipped_byte_is_found_repaired_and_kept_aside(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(data, 2)
    assert main(["journal", "verify", "--data", str(data)]) == exits.FAILED
    told = capsys.readouterr().out
    assert "frame 2" in told
    assert f"stepmesh journal repair --data {data}" in told
    assert main(["journal", "repair", "--data", str(data), "--json"]) == exits.OK
    done = json.loads(capsys.readouterr().out)
    assert done["repaired"]
    assert Path(done["copy"]).is_file()
    assert main(["journal", "verify", "--data", str(data)]) == exits.OK


def test_dump_ends_at_the_damage_with_its_error(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(data, 2)
    assert main(["journal", "dump", "--data", str(data)]) == exits.FAILED
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 1
    assert "SM-4002" in told.err


def test_repair_of_a_good_journal_changes_nothing(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path.name for path in data.iterdir())
    assert main(["journal", "repair", "--data", str(data)]) == exits.OK
    assert "nothing was changed" in capsys.readouterr().out
    assert sorted(path.name for path in data.iterdir()) == before


@pytest.mark.parametrize("command", ["verify", "dump", "repair"])
def test_not_beside_a_live_owner(data: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = DataFolder(data)
    folder.own()
    assert main(["journal", command, "--data", str(data)]) == exits.USAGE
    assert "SM-0102" in capsys.readouterr().err
    folder.release()
    assert main(["journal", command, "--data", str(data)]) == exits.OK


@pytest.mark.parametrize("command", ["verify", "dump", "repair"])
def test_no_journal_there(tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["journal", command, "--data", str(tmp_path / "empty")]) == exits.USAGE
    assert "SM-0108" in capsys.readouterr().err
    assert not (tmp_path / "empty").exists()


def test_a_file_that_is_no_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "journal.db").write_bytes(b"not a database" * 100)
    assert main(["journal", "verify", "--data", str(tmp_path)]) == exits.FAILED
    assert "SM-40" in capsys.readouterr().err


def test_the_journals_own_file_may_be_named(data: Path) -> None:
    assert main(["journal", "verify", "--data", str(data / "journal.db")]) == exits.OK
