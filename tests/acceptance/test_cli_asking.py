"""A workflow is asked from the command line, over processes that are killed; `check-replay` reads its history before new code goes out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.acceptance.test_cli_up import objects, running, stepmesh

pytestmark = pytest.mark.acceptance

ORDERS = """
import asyncio

from stepmesh.durable import wf
from stepmesh.durable.app import App

app = App("orders")


@app.step
async def normalise(address: str) -> str:
    return address.strip()


@app.workflow
async def deliver(address: str) -> str:
    gone = asyncio.Event()

    @wf.query
    def state() -> str:
        return address

    @wf.update
    async def change(to: str) -> str:
        nonlocal address
        address = await normalise(to)
        return address

    @wf.update
    def leave() -> None:
        gone.set()

    await gone.wait()
    return address


worker = app.worker()
"""
FLOW = {"steps": [{"id": "it", "component": "/orders/deliver", "input": {"$input": "$"}}], "output": {"$step": "it"}}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STEPMESH_URL", raising=False)
    Path("orders.py").write_text(ORDERS)
    Path("deliver.json").write_text(json.dumps(FLOW))


def refused(*arguments: str, code: int = 2) -> str:
    done = subprocess.run([sys.executable, "-m", "stepmesh_cli", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    return done.stderr


def test_a_workflow_is_asked_and_its_history_outlives_a_kill() -> None:
    with running("--worker", "orders.py") as up:
        run = stepmesh("submit", "deliver.json", "--input-json", '"here"').strip()
        assert json.loads(stepmesh("update", run, "change", "--json-args", '" there "', "--id", "u1")) == "there"
        assert stepmesh("query", run, "state") == '"there"\n'
        assert "SM-1072" in refused("query", run, "status", code=1)
        up.process.kill()
        up.process.wait(60)
    with running("--worker", "orders.py") as up:
        assert objects("query", run, "state") == [{"run": run, "query": "state", "value": "there"}]
        assert json.loads(stepmesh("update", run, "change", "--json-args", '" there "', "--id", "u1")) == "there"
        assert stepmesh("update", run, "leave") == "null\n"
        objects("events", run, "--follow")
        assert "SM-5280" in refused("update", run, "leave")
        up.process.terminate()
        up.process.wait(60)
    assert "1 replayed, 0 diverged" in stepmesh("check-replay", "orders.py", "--data", ".stepmesh")
    Path("orders.py").write_text(ORDERS.replace("await normalise(to)", "await wf.run('look up', str.strip, to)"))
    assert "SM-1001 Replay diverged at orders.py:2" in stepmesh("check-replay", "orders.py", "--data", ".stepmesh", code=1)
