"""A durable function that sleeps and waits for an event, while everything that runs it is killed with SIGKILL: on every journal that
survives that, it goes on where it was, and each of its steps is recorded once. In memory nothing survives, and that is said beforehand.

STEPMESH_SLEEP_S: how long it sleeps, in seconds (default 4).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.acceptance.pairs import Pair
from tests.acceptance.servers import command

from stepmesh.client import Client
from stepmesh.errors import RunNotFound
from stepmesh_broker.nats import read_endpoint

pytestmark = pytest.mark.acceptance
SLEEP_S = float(os.environ.get("STEPMESH_SLEEP_S", "4"))
PATIENCE_S = 60.0
APP = """
import os
import time
from pathlib import Path

from stepmesh.durable import wf
from stepmesh.durable.app import App

app = App("orders")


@app.step
async def note(what: str) -> float:
    with Path("notes.txt").open("a") as notes:
        notes.write(f"{what} {time.time()}\\n")
    return time.time()


@app.workflow
async def saga(seconds: float) -> list[float]:
    begun = await note("begun")
    await wf.sleep(seconds)
    slept = await note("slept")
    paid = await wf.wait_for_event("paid", "o1")
    await note("paid")
    return [slept - begun, paid]


worker = app.worker()
"""
PAIRS = (Pair("embedded", "sqlite"), Pair("nats", "postgres"), Pair("nats", "redis"), Pair("kafka", "postgres"))


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STEPMESH_URL", raising=False)
    Path("orders.py").write_text(APP)


@contextmanager
def everything(broker: str, journal: str, namespace: str) -> Iterator[Callable[[], None]]:
    """`stepmesh up` with a worker process and, where it is embedded, the broker. Gives what kills it all at once."""
    where = ("--broker", broker, "--journal", journal, "--namespace", namespace, "--data", "data", "--http", "0")
    with Path("up.log").open("ab") as log:
        process = subprocess.Popen(
            command("up", "--json", "--worker", "orders.py", *where), stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )
    assert process.stdout is not None
    try:
        assert process.stdout.readline(), Path("up.log").read_text()
        yield lambda: _kill(process)
    finally:
        _kill(process)
        process.stdout.close()


def _kill(process: subprocess.Popen[str]) -> None:
    """Its whole family: workers have sessions of their own."""
    family = [process.pid, *_children(process.pid)]
    for pid in family:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait(30)


def _children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return [one for child in map(int, found) for one in (child, *_children(child))]


def notes() -> Counter[str]:
    path = Path("notes.txt")
    return Counter(line.split()[0] for line in path.read_text().splitlines()) if path.exists() else Counter()


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, Path("up.log").read_text()
        await asyncio.sleep(0.05)


def address(broker: str) -> str:
    found = read_endpoint(Path("data")) if broker == "embedded" else broker
    assert found is not None
    return found


@pytest.mark.parametrize("pair", PAIRS, ids=str)
async def test_it_goes_on_where_it_was(pair: Pair, request: pytest.FixtureRequest) -> None:
    broker, journal = pair.addresses(request)
    namespace = f"t{uuid.uuid4().hex[:12]}"
    flow = {"steps": [{"id": "saga", "component": "/orders/saga", "input": {"$input": "$"}}], "output": {"$step": "saga"}}
    with everything(broker, journal, namespace) as kill:
        async with Client.connect(address(broker), namespace) as client:
            run = (await client.submit(flow, [SLEEP_S])).id
        await until(lambda: notes()["begun"])
        await asyncio.sleep(0.5)
        kill()
    with everything(broker, journal, namespace) as kill:
        await until(lambda: notes()["slept"])
        kill()
    with everything(broker, journal, namespace):
        async with Client.connect(address(broker), namespace, patience_s=PATIENCE_S) as client:
            await client.events.send("paid", key="o1", data=42, id="once")
            took, paid = await client.handle(run).result(PATIENCE_S)
            events = [event async for event in client.handle(run).events()]
    assert (took >= SLEEP_S, paid) == (True, 42)
    records = [record for event in events if event.kind == "function_advanced" for record in json.loads(event.data)["records"]]
    settled = Counter(record["id"] for record in records if record["record"] == "settled")
    assert settled == {"r/note": 1, "r/sleep": 1, "r/note#2": 1, "r/paid": 1, "r/note#3": 1}
    assert notes()["begun"] == 1


async def test_in_memory_it_is_lost_and_that_was_said() -> None:
    namespace = f"t{uuid.uuid4().hex[:12]}"
    flow = {"steps": [{"id": "saga", "component": "/orders/saga", "input": {"$input": "$"}}], "output": {"$step": "saga"}}
    with everything("embedded", "memory", namespace) as kill:
        async with Client.connect(address("embedded"), namespace) as client:
            run = (await client.submit(flow, [SLEEP_S])).id
            assert "nothing" in (await client.requests.info()).survives
        await until(lambda: notes()["begun"])
        kill()
    with everything("embedded", "memory", namespace):
        async with Client.connect(address("embedded"), namespace, patience_s=PATIENCE_S) as client:
            with pytest.raises(RunNotFound):
                await client.handle(run).info()
