"""`stepmesh replay`: a run of a real SQLite journal as it stood at each of its positions."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from stepmesh_cli import exits
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_cli.main import main
from stepmesh_cli.moments import FOR_EVER, last_position

FLOW = {
    "name": "f",
    "steps": [
        {"id": "a", "component": "/builtin/noop", "input": {"$input": "$"}},
        {"id": "nap", "component": "/builtin/sleep", "input": {"duration": "1h", "passthrough": {"$step": "a"}}},
        {"id": "b", "component": "/builtin/noop", "input": {"$step": "nap"}},
    ],
    "output": {"$step": "b"},
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[Any]]:
    """A data folder in which a run was paused, woken, resumed and ended; its id and its events."""
    folder = tmp_path_factory.mktemp("replay") / "data"

    async def fill() -> tuple[str, list[Any]]:
        async with Deployment(DeploymentSettings(journal="sqlite", data_dir=folder)) as deployment:
            client = await deployment.client()
            await client.run({"name": "other", "output": 1}, None, timeout=20)
            handle = await client.submit(FLOW, [{"n": 1}, {"n": 2}])
            await client.control.pause(handle.id, "look")
            await client.control.wake(handle.id, item=0)
            await client.control.resume(handle.id)
            await client.control.wake(handle.id, item=1)
            await handle.wait(20)
            return handle.id, [event async for event in handle.events(follow=False)]

    run, events = asyncio.run(fill())
    return folder, run, events


def replay(capsys: pytest.CaptureFixture[str], data: Path, run: str, *flags: str) -> Any:
    assert main(["replay", run, "--data", str(data), "--json", *flags]) == exits.OK
    return json.loads(capsys.readouterr().out)


def position(events: list[Any], kind: str, item: int | None = None) -> int:
    return int(next(event.position for event in events if event.kind == kind and item in (None, event.item)))


def test_the_end_without_a_place(told: tuple[Path, str, list[Any]], capsys: pytest.CaptureFixture[str]) -> None:
    data, run, events = told
    found = replay(capsys, data, run)
    assert (found["status"], found["position"], found["waiting_on"]) == ("completed", position(events, "run_completed"), [])
    assert [item["result"]["result"] for item in found["items"]] == [{"n": 1}, {"n": 2}]
    assert [step["step_id"] for step in found["items"][0]["steps"]] == ["a", "nap", "b"]


def test_the_state_at_a_position(told: tuple[Path, str, list[Any]], capsys: pytest.CaptureFixture[str]) -> None:
    data, run, events = told
    paused = replay(capsys, data, run, "--until", str(position(events, "run_paused")))
    assert paused["status"] == "paused"
    assert [item["status"] for item in paused["items"]] == ["running", "running"]
    assert [item["input"] for item in paused["items"]] == [{"n": 1}, {"n": 2}]
    steps = paused["items"][0]["steps"]
    assert [(step["step_id"], step["status"], step["output"]) for step in steps] == [("a", "success", {"n": 1}), ("nap", "sleeping", None)]
    assert "paused" in paused["waiting_on"][0]
    assert any("sleeps" in line for line in paused["waiting_on"][1:])

    one = replay(capsys, data, run, "--until", str(position(events, "item_completed", 0)))
    assert one["status"] == "running"
    assert [item["status"] for item in one["items"]] == ["success", "running"]


def test_before_an_item_began_it_had_not(told: tuple[Path, str, list[Any]], capsys: pytest.CaptureFixture[str]) -> None:
    data, run, events = told
    found = replay(capsys, data, run, "--until", str(position(events, "run_created")))
    assert [(item["status"], item["steps"]) for item in found["items"]] == [("not_started", []), ("not_started", [])]
    assert found["frame"] == found["position"] // 1_000_000


def test_a_frame_is_taken_whole(told: tuple[Path, str, list[Any]], capsys: pytest.CaptureFixture[str]) -> None:
    data, run, events = told
    frame = position(events, "run_created") // 1_000_000
    found = replay(capsys, data, run, "--until", str(frame))
    last = max(event.position for event in events if event.position // 1_000_000 == frame)
    assert (found["frame"], found["position"]) == (frame, last)


def test_text_for_people(told: tuple[Path, str, list[Any]], capsys: pytest.CaptureFixture[str]) -> None:
    data, run, events = told
    assert main(["replay", run, "--data", str(data), "--until", str(position(events, "run_paused"))]) == exits.OK
    said = capsys.readouterr().out
    assert "paused" in said
    assert "0 of 2 items had ended" in said
    assert "It waited for:" in said


def test_a_run_that_was_not_there_yet(told: tuple[Path, str, list[Any]], capsys: pytest.CaptureFixture[str]) -> None:
    data, run, _ = told
    assert main(["replay", run, "--data", str(data), "--until", "1"]) == exits.USAGE
    assert f"SM-0281 the journal {data}/journal.db has no run {run} up to 1" in capsys.readouterr().err


def test_a_store_that_is_not_there(told: tuple[Path, str, list[Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run, _ = told
    assert main(["replay", run, "--data", str(data), "--store", f"sqlite:{tmp_path}/none.db"]) == exits.USAGE
    assert "SM-0101 there is no store" in capsys.readouterr().err
    assert not (tmp_path / "none.db").exists()


def test_a_place_is_a_frame_or_a_position() -> None:
    assert last_position(None) == FOR_EVER
    assert last_position(0) == 999_999
    assert last_position(7) == 7_999_999
    assert last_position(999_999) == 999_999_999_999
    assert last_position(1_000_000) == 1_000_000
