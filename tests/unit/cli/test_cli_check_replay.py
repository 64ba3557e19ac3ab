"""`stepmesh check-replay`: histories of a real SQLite journal, replayed with the code that made them and with code that changed since."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from stepmesh_broker.protocol.histories import Began, Issued, Kind, Settled
from stepmesh_broker.protocol.ids import RunId
from stepmesh_cli import exits
from stepmesh_cli.check_replay import check, workflows_of
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_cli.function_histories import Recorded
from stepmesh_cli.main import main
from stepmesh_cli.worker import load_module

CODE = """
from stepmesh import Worker
from stepmesh.durable import wf
from stepmesh.durable.app import App

app = App("orders")
tokens = []


@app.step
async def charge(order: str) -> str:
    return "receipt of " + order


@app.step
async def mail(token: str) -> None:
    tokens.append(token)


@app.workflow
async def saga(order: str) -> str:
    receipt = await charge(order)
    promise = wf.promise(str)
    await mail(promise.token)
    return receipt + " by " + await promise


@app.workflow
async def countdown(left: int) -> int:
    await charge(str(left))
    if left:
        wf.continue_as_new(left - 1)
    return left


worker = Worker("till")
worker.include(app.components())
"""
INSERTED = ("    receipt = await charge(order)\n", "    await wf.run('fraud-check', len, order)\n    receipt = await charge(order)\n")


def flow(path: str, input: Any) -> dict[str, Any]:
    return {"steps": [{"id": "it", "component": path, "input": input}], "output": {"$step": "it"}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a run that ended, one that waits, and one that began anew twice."""
    folder = tmp_path_factory.mktemp("check")
    code = folder / "recorded_orders.py"
    code.write_text(CODE)
    module: Any = load_module(str(code))

    async def token(place: int) -> str:
        async with asyncio.timeout(20):
            while len(module.tokens) <= place:
                await asyncio.sleep(0.01)
        return str(module.tokens[place])

    async def fill() -> None:
        async with Deployment(DeploymentSettings(journal="sqlite", data_dir=folder / "data", workers=(module.worker,))) as deployment:
            client = await deployment.client()
            ended = await client.submit(flow("/till/saga", {"$input": "$.order"}), [{"order": "o1"}])
            await client.promises.resolve(await token(0), "ann")
            await ended.wait(20)
            await client.submit(flow("/till/saga", {"$input": "$.order"}), [{"order": "o2"}])
            await token(1)
            assert await client.run(flow("/till/countdown", 2), None, timeout=20) == 0

    asyncio.run(fill())
    return folder / "data"


def checked(tmp_path: Path, capsys: pytest.CaptureFixture[str], data: Path, code: str, *flags: str) -> tuple[int, Any]:
    module = tmp_path / "orders.py"
    module.write_text(code)
    exit_code = main(["check-replay", str(module), "--data", str(data), "--json", *flags])
    return exit_code, json.loads(capsys.readouterr().out)


def test_the_code_that_made_them_replays_them_all(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = checked(tmp_path, capsys, data, CODE)
    assert (code, told["replayed"], told["diverged"], told["not_there"]) == (exits.OK, 5, 0, {})
    assert [one["workflow"] for one in told["histories"]] == ["saga", "saga", *["countdown"] * 3], (
        "a new history after each continue_as_new"
    )
    assert [one["status"] for one in told["histories"]] == ["ok"] * 5


def test_an_inserted_step_is_told_with_its_place(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = checked(tmp_path, capsys, data, CODE.replace(*INSERTED))
    line = CODE.replace(*INSERTED).splitlines().index("    await wf.run('fraud-check', len, order)") + 1
    assert (code, told["replayed"], told["diverged"]) == (exits.FAILED, 5, 2)
    first = told["histories"][0]
    assert (first["status"], first["code"], first["where"]) == ("diverged", "SM-1001", f"orders.py:{line}")
    assert "`fraud-check` was inserted before `charge`" in first["message"]
    assert [one["status"] for one in told["histories"][2:]] == ["ok"] * 3

    text = main(["check-replay", str(tmp_path / "orders.py"), "--data", str(data)])
    said = capsys.readouterr().out
    assert text == exits.FAILED
    assert f"SM-1001 Replay diverged at orders.py:{line}" in said
    assert said.splitlines()[-1] == "5 replayed, 2 diverged, 0 of workflows that are not there"


def test_only_one_workflow_and_only_the_newest(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = checked(tmp_path, capsys, data, CODE.replace(*INSERTED), "--workflow", "countdown", "--last", "2")
    assert (code, told["replayed"], told["diverged"], told["not_there"]) == (exits.OK, 2, 0, {})
    assert [one["workflow"] for one in told["histories"]] == ["countdown"] * 2


def test_a_workflow_that_is_not_in_the_module(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    renamed = CODE.replace("async def countdown", "async def count")
    code, told = checked(tmp_path, capsys, data, renamed)
    assert (code, told["replayed"], told["not_there"]) == (exits.OK, 2, {"/till/countdown": 3})


@pytest.mark.parametrize(
    ("code", "flags", "problem"),
    [
        (CODE, ["--workflow", "refund"], "SM-0311"),
        ("x = 1", [], "SM-0310"),
        (CODE, ["--last", "0"], "SM-0101"),
        (CODE, ["--since", "soon"], "SM-1070"),
    ],
)
def test_bad_use(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], code: str, flags: list[str], problem: str) -> None:
    module = tmp_path / "orders.py"
    module.write_text(code)
    assert main(["check-replay", str(module), "--data", str(data), *flags]) == exits.USAGE
    assert problem in capsys.readouterr().err


def test_since_is_when_a_history_began(tmp_path: Path) -> None:
    (tmp_path / "orders.py").write_text(CODE)
    known = workflows_of(load_module(str(tmp_path / "orders.py")))
    now = round(time.time() * 1000)

    def recorded(run: str, began_ms: int) -> Recorded:
        asked = Issued("r/charge", Kind.STEP, "charge", "", b'{"order":"o"}', "orders.py:1", began_ms)
        return Recorded(
            RunId(run), "it", "/orders/saga", f"{run}.0.0", b'"o"', began_ms, [Began(began_ms), asked, Settled("r/charge", began_ms)]
        )

    both = [recorded("old", now - 2), recorded("new", now)]
    assert [one.run for one, _, _ in check(both, known, None, now - 1).results] == ["new"]
    assert [one.run for one, _, _ in check(both, known, None, now - 2).results] == ["old", "new"]
    assert [one.run for one, _, _ in check(both, known, 1, 0).results] == ["new"]
