"""Durable functions on a worker behind a gateway, while gateway and worker are killed with SIGKILL: the results are those of a quiet run,
and each command is recorded once. Orchestrator and broker live on; what kills those is in test_functions_killed.py.

STEPMESH_KILLS, STEPMESH_KILL_SEED: how often something is killed under load (default 4), and which, when (default 1).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.servers import command

from stepmesh.client import Client
from stepmesh.errors import RequestRefused
from stepmesh_broker.nats import read_endpoint

pytestmark = pytest.mark.acceptance
KILLS = int(os.environ.get("STEPMESH_KILLS", "4"))
SEED = int(os.environ.get("STEPMESH_KILL_SEED", "1"))
RUNS = 12
PATIENCE_S = 120.0
APP = """
import asyncio
from pathlib import Path

from stepmesh import App, wf

app = App("orders")


def note(what: str) -> None:
    with Path("notes.txt").open("a") as notes:
        notes.write(what + "\\n")


@app.step
async def gate(name: str) -> str:
    note(f"begin {name}")
    while not Path(name).exists():
        await asyncio.sleep(0.02)
    note(f"end {name}")
    return name


@app.step
async def add(one: int, other: int) -> int:
    await asyncio.sleep(0.02)
    return one + other


@app.workflow
async def saga(_: None) -> list[str]:
    passed: list[str] = []

    @wf.query
    def state() -> list[str]:
        return passed

    @wf.update
    async def open(name: str) -> str:
        return await gate(name)

    passed.append(await gate("first"))
    await wf.sleep("200ms")
    passed.append(await gate("second"))
    passed.append(await wf.wait_for_event("third", "s"))
    return passed


@app.workflow
async def sums(n: int) -> int:
    total = 0
    for number in range(5):
        total = await add(total, n)
        await wf.sleep("100ms")
        total += await wf.call("/orders/one", n)
    return total


@app.workflow
async def one(n: int) -> int:
    return await add(n, 1) - n


worker = app.worker()
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STEPMESH_URL", raising=False)
    Path("orders.py").write_text(APP)


def flow(name: str) -> dict[str, Any]:
    return {"steps": [{"id": "s", "component": f"/orders/{name}", "input": {"$input": "$"}}], "output": {"$step": "s"}}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Processes:
    """A gateway on one port, whichever process it is, and a worker behind it."""

    def __init__(self, broker: str) -> None:
        self.port = free_port()
        self._argv = {
            "gateway": command("gateway", "--url", broker, "-p", str(self.port)),
            "worker": command("worker", "orders.py", "--url", f"grpc://127.0.0.1:{self.port}"),
        }
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        with Path(f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(self._argv[name], stdout=log, stderr=log)

    def kill(self, name: str) -> None:
        process = self._running.pop(name)
        process.kill()
        process.wait(30)

    def look_after(self) -> None:
        """A worker that came before its gateway ends, and is started again, as whatever runs it would."""
        for name, process in [*self._running.items()]:
            if process.poll() is not None:
                self.start(name)

    def close(self) -> None:
        for name in [*self._running]:
            self.kill(name)


@contextmanager
def everything() -> Iterator[Processes]:
    """An orchestrator with an embedded broker and a journal on disk; gateway and worker beside it."""
    argv = command("up", "--json", "--broker", "embedded", "--journal", "sqlite", "--data", "data", "--http", "0")
    with Path("up.log").open("ab") as log:
        orchestrator = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=log, text=True)
    assert orchestrator.stdout is not None
    processes = None
    try:
        assert orchestrator.stdout.readline(), Path("up.log").read_text()
        broker = read_endpoint(Path("data"))
        assert broker is not None
        processes = Processes(broker)
        processes.start("gateway")
        processes.start("worker")
        yield processes
    finally:
        if processes is not None:
            processes.close()
        orchestrator.terminate()
        orchestrator.wait(60)
        orchestrator.stdout.close()


async def until(processes: Processes, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "".join(Path(name).read_text() for name in ("gateway.log", "worker.log"))
        processes.look_after()
        await asyncio.sleep(0.05)


def notes() -> Counter[str]:
    path = Path("notes.txt")
    return Counter(path.read_text().splitlines()) if path.exists() else Counter()


async def settled(client: Client, run: str) -> Counter[str]:
    events: AsyncIterator[Any] = client.handle(run).events()
    told = [event async for event in events if event.run == run and event.kind == "function_advanced"]
    return Counter(record["id"] for event in told for record in json.loads(event.data)["records"] if record["record"] == "settled")


async def test_it_goes_on_where_it_was() -> None:
    with everything() as processes:
        address = read_endpoint(Path("data"))
        assert address is not None
        async with Client.connect(address, patience_s=PATIENCE_S) as client:
            handle = await client.submit(flow("saga"), [None])
            await until(processes, lambda: notes()["begin first"])
            processes.kill("gateway")
            Path("first").touch()
            await until(processes, lambda: notes()["end first"])
            processes.start("gateway")

            await until(processes, lambda: notes()["begin second"])
            processes.kill("worker")
            processes.start("worker")
            await until(processes, lambda: notes()["begin second"] == 2)
            asked = asyncio.create_task(handle.update("open", "fourth", id="u1", timeout=PATIENCE_S))
            await until(processes, lambda: notes()["begin fourth"])
            processes.kill("gateway")
            Path("second").touch()
            Path("fourth").touch()
            processes.start("gateway")
            assert await asked == "fourth"

            await until(processes, lambda: notes()["end second"])
            processes.kill("worker")
            processes.kill("gateway")
            processes.start("gateway")
            processes.start("worker")
            assert await _answered(processes, client, handle.id) == ["first", "second"]
            await client.events.send("third", key="s", data="third", id="once")
            assert await handle.result(PATIENCE_S) == ["first", "second", "third"]
            counted = await settled(client, handle.id)
    assert sorted(counted.values()) == [1] * 5, counted
    assert {name: count for name, count in notes().items() if "second" not in name} == {
        "begin first": 1, "end first": 1, "begin fourth": 1, "end fourth": 1,
    }  # fmt: skip
    assert notes()["begin second"] >= 2, "it was begun again, because its worker was gone"


async def _answered(processes: Processes, client: Client, run: str) -> Any:
    """What the function says, once both gates are in its history and a worker is there again."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        processes.look_after()
        try:
            found = await client.handle(run).query("state")
        except RequestRefused as problem:
            if problem.code != "SM-5287":
                raise
            found = []
        if len(found) == 2:
            return found
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.1)


async def test_under_load_every_result_is_that_of_a_quiet_run() -> None:
    chance = random.Random(SEED)
    with everything() as processes:
        address = read_endpoint(Path("data"))
        assert address is not None
        async with Client.connect(address, patience_s=PATIENCE_S) as client:
            for round in range(KILLS):
                handles = [await client.submit(flow("sums"), [number]) for number in range(RUNS)]
                await asyncio.sleep(chance.uniform(0.05, 1.5))
                victim = ("gateway", "worker")[round % 2]
                processes.kill(victim)
                processes.start(victim)
                results = asyncio.gather(*(handle.result(PATIENCE_S) for handle in handles))
                await until(processes, results.done)
                assert await results == [5 * number + 5 for number in range(RUNS)]
                for handle in handles:
                    counted = await settled(client, handle.id)
                    assert (len(counted), {*counted.values()}) == (15, {1}), counted
