"""`stepmesh replay` of runs with durable functions, over a real SQLite journal; and `check-replay` of one that was taken over."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from stepmesh_cli import exits
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_cli.main import main
from stepmesh_cli.worker import load_module

CODE = """
import asyncio
from stepmesh import Worker
from stepmesh.durable import wf
from stepmesh.durable.app import App
from stepmesh.durable.retrying import Retry

app = App("orders")
tokens = []
broken = [True]


@app.step
async def charge(order: str) -> str:
    return "receipt of " + order


@app.step
async def mail(token: str) -> None:
    tokens.append(token)


@app.step(retry=Retry(max=2, backoff="1ms"))
async def ship(order: str) -> int:
    if broken[0]:
        raise ValueError("no van")
    return 1


@app.workflow
async def saga(order: str) -> str:
    receipt = await charge(order)
    wf.set("status", "charged")
    promise = wf.promise(str)
    await mail(promise.token)
    by = await promise
    await ship(str(wf.uuid()))
    return receipt + " by " + by


worker = Worker("till")
worker.include(app.components())
"""
FLOW = {
    "steps": [{"id": "saga", "component": "/till/saga", "input": {"$input": "$"}}],
    "output": {"$step": "saga"},
}


class Recorded(NamedTuple):
    folder: Path
    code: Path
    failed: str
    again: str
    waiting: str
    positions: list[int]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """A run that failed, one that went on from there, and one that waits. `positions`: of the first one's events."""
    folder = tmp_path_factory.mktemp("replay")
    code = folder / "replayed_orders.py"
    code.write_text(CODE)
    module: Any = load_module(str(code))

    async def token(place: int) -> str:
        async with asyncio.timeout(20):
            while len(module.tokens) <= place:
                await asyncio.sleep(0.01)
        return str(module.tokens[place])

    async def fill() -> Recorded:
        async with Deployment(DeploymentSettings(journal="sqlite", data_dir=folder / "data", workers=(module.worker,))) as deployment:
            client = await deployment.client()
            failed = await client.submit(FLOW, ["o1"])
            await client.promises.resolve(await token(0), "ann")
            assert (await failed.wait(20)).summary.status == "failed"
            positions = [event.position async for event in failed.events(follow=False)]
            module.broken[0] = False
            again = await client.control.retry(failed.id)
            assert await client.handle(again.run).result(20) == "receipt of o1 by ann"
            assert len(module.tokens) == 1, "nobody is asked again: the token of the first run is the one in the history"
            waiting = await client.submit(FLOW, ["o2"])
            await token(1)
            return Recorded(folder / "data", code, failed.id, again.run, waiting.id, positions)

    return asyncio.run(fill())


def replayed(capsys: pytest.CaptureFixture[str], recorded: Recorded, run: str, *flags: str) -> Any:
    assert main(["replay", run, "--data", str(recorded.folder), "--json", *flags]) == exits.OK
    return json.loads(capsys.readouterr().out)


def test_the_commands_of_a_function_are_shown(recorded: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    (told,) = replayed(capsys, recorded, recorded.failed)["functions"]
    assert (told["item"], told["step"], told["taken_over"], told["waits_at"]) == (0, "saga", 0, [])
    states = {one["id"]: (one["kind"], one["state"]) for one in told["commands"]}
    assert states == {
        "r/charge": ("step", "settled"),
        "r/status": ("attribute", "noted"),
        "r/str": ("promise", "settled"),
        "r/mail": ("step", "settled"),
        "r/ship": ("step", "failed"),
    }
    ship = next(one for one in told["commands"] if one["id"] == "r/ship")
    assert (ship["tries"], ship["value"]["message"]) == (1, "no van")
    line = 1 + CODE.split("\n").index("    await ship(str(wf.uuid()))")
    assert ship["where"] == f"replayed_orders.py:{line}"


def test_a_function_is_shown_as_it_stood_at_any_position_and_after_any_record(
    recorded: Recorded, capsys: pytest.CaptureFixture[str]
) -> None:
    (last,) = replayed(capsys, recorded, recorded.failed)["functions"]
    seen = [replayed(capsys, recorded, recorded.failed, "--until", str(position))["functions"] for position in recorded.positions]
    grown = [sum(one["records"] for one in functions) for functions in seen]
    assert grown == sorted(grown)
    assert (grown[0], grown[-1]) == (0, last["records"])
    for number in range(1, last["records"] + 1):
        (told,) = replayed(capsys, recorded, recorded.failed, "--record", str(number))["functions"]
        assert [one["record"] for one in told["commands"]] == [one["record"] for one in last["commands"] if one["record"] <= number]
    early = replayed(capsys, recorded, recorded.failed, "--record", str(last["commands"][0]["record"]))["functions"][0]
    assert [one["state"] for one in early["commands"]] == ["waiting"]
    for number in (0, last["records"] + 1):
        assert main(["replay", recorded.failed, "--data", str(recorded.folder), "--record", str(number)]) == exits.FAILED
        assert "SM-1081" in capsys.readouterr().err


def test_one_that_waits_is_told_with_its_place(recorded: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", recorded.waiting, "--data", str(recorded.folder)]) == exits.OK
    told = capsys.readouterr().out
    line = 1 + CODE.split("\n").index("    promise = wf.promise(str)")
    assert f"Its body waits at replayed_orders.py:{line}" in told
    assert "r/charge" in told


def test_what_a_function_noted_down_is_shown_with_its_step(recorded: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    for run in (recorded.failed, recorded.waiting, recorded.again):
        (step,) = replayed(capsys, recorded, run)["items"][0]["steps"]
        assert (step["attributes"], step["tags"]) == ({"status": "charged"}, None)


def test_what_was_taken_over_is_told(recorded: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    (first,) = replayed(capsys, recorded, recorded.failed)["functions"]
    (told,) = replayed(capsys, recorded, recorded.again)["functions"]
    assert 0 < told["taken_over"] < first["records"]
    assert {one["state"] for one in told["commands"]} == {"settled", "noted"}
    assert main(["replay", recorded.again, "--data", str(recorded.folder)]) == exits.OK
    assert f"{told['taken_over']} were taken over from another run" in capsys.readouterr().out


def test_a_history_that_was_taken_over_replays_with_the_same_code(recorded: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-replay", str(recorded.code), "--data", str(recorded.folder), "--json"]) == exits.OK
    told = json.loads(capsys.readouterr().out)
    assert (told["replayed"], told["diverged"]) == (3, 0)
