"""Workers of `stepmesh server`: those that it starts for its plugins, and those that come by themselves; what survives whose death.

The workers are the SDK's over grpc://, and one that makes stepflow.v1's unary calls and no more.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.processes import until
from tests.acceptance.servers import command, serving, started

from stepmesh.client import Client
from stepmesh_broker.protocol.api import GetSteps, Steps
from stepmesh_broker.protocol.ids import RunId

pytestmark = pytest.mark.acceptance
HERE = Path(__file__).parent
STEPS = """
import asyncio, os
from pathlib import Path
from stepmesh import Worker

worker = Worker(pool="cpu")
Path(f"started-{os.getpid()}").touch()


def note(line):
    with open("ledger", "a") as ledger:
        ledger.write(line + "\\n")


@worker.component
async def echo(value: object) -> object:
    return value


@worker.component
async def gate(name: str) -> str:
    note(f"begin {name}")
    while not Path(name).exists():
        await asyncio.sleep(0.02)
    return name


@worker.component
async def die(name: str) -> str:
    note(f"begin {name}")
    if Path(name).exists():
        return "lived"
    Path(name).touch()
    os._exit(7)


@worker.component
async def environment(names: list[str]) -> dict[str, str]:
    return {name: os.environ.get(name, "") for name in names}
"""
WORKER = [sys.executable, "-m", "stepmesh_cli", "worker", "steps.py"]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("STEPMESH_URL", "STEPMESH_POOL"):
        monkeypatch.delenv(name, raising=False)
    Path("steps.py").write_text(STEPS)


def configured(**plugins: Any) -> str:
    """A configuration file with these plugins, each under a route of its name."""
    routes = {f"/{name}": [{"plugin": name}] for name in plugins}
    retry = {"transportMaxRetries": 5, "backoff": {"type": "constant", "delayMs": 20}}
    Path("config.json").write_text(json.dumps({"plugins": plugins, "routes": routes, "retry": retry}))
    return "config.json"


def launched(queue: str, **more: Any) -> dict[str, Any]:
    return {"type": "grpc", "queueName": queue, "command": WORKER[0], "args": WORKER[1:], **more}


def flow(component: str) -> dict[str, Any]:
    return {"steps": [{"id": "a", "component": component, "input": {"$input": "$"}}], "output": {"$step": "a"}}


def ledger() -> list[str]:
    return Path("ledger").read_text().splitlines() if Path("ledger").exists() else []


@contextmanager
def beside(argv: list[str], **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that only the test looks after; its output goes to a file."""
    with open("beside.log", "ab") as log, subprocess.Popen(argv, stdout=log, stderr=log, env={**os.environ, **environment}) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_a_worker_finds_the_server_in_its_environment() -> None:
    names = ["STEPFLOW_TRANSPORT", "STEPFLOW_TASKS_URL", "STEPFLOW_QUEUE_NAME", "STEPFLOW_BLOB_URL", "STEPFLOW_ORCHESTRATOR_URL"]
    ours = ["STEPMESH_URL", "STEPMESH_POOL", "MINE"]
    with serving("-c", configured(py=launched("q-1", env={"MINE": "yes"}))) as server:
        async with Client.connect(f"grpc://{server.address}") as client:
            found = await client.run(flow("/py/environment"), names + ours, timeout=30)
    here = server.address
    assert found == {
        "STEPFLOW_TRANSPORT": "grpc",
        "STEPFLOW_TASKS_URL": here,
        "STEPFLOW_QUEUE_NAME": "q-1",
        "STEPFLOW_BLOB_URL": here,
        "STEPFLOW_ORCHESTRATOR_URL": here,
        "STEPMESH_URL": f"grpc://{here}",
        "STEPMESH_POOL": "q-1",
        "MINE": "yes",
    }


async def test_a_crash_touches_only_the_tasks_of_that_worker() -> None:
    with serving("-c", configured(a=launched("a"), b=launched("b"))) as server:
        async with Client.connect(f"grpc://{server.address}") as client:
            other = await client.submit(flow("/b/gate"), ["open"])
            await until("b works", lambda: "begin open" in ledger())
            assert await client.run(flow("/a/die"), "died", timeout=60) == "lived"
            server.until("worker a ended with code 7 and starts again")
            Path("open").touch()
            assert await other.result(30) == "open"
    assert sorted(ledger()) == ["begin died", "begin died", "begin open"]


async def test_a_worker_that_never_starts_neither_ends_the_server_nor_spins() -> None:
    plugins = {
        "nowhere": {"type": "grpc", "queueName": "n", "command": "/nowhere/program"},
        "broken": {"type": "grpc", "queueName": "b", "command": sys.executable, "args": ["-c", "import sys; sys.exit('no such model')"]},
        "well": launched("w"),
    }
    with serving("-c", configured(**plugins)) as server:
        assert "/nowhere/program: No such file or directory" in server.until(
            "worker nowhere ended with code 127 and starts again in 10.0 s"
        )
        assert "no such model" in server.until("worker broken ended with code 1 and starts again in 0.1 s")
        server.until("worker broken ended with code 1 and starts again in 0.4 s")
        async with Client.connect(f"grpc://{server.address}") as client:
            assert await client.run(flow("/well/echo"), 1, timeout=30) == 1
            pools = {pool.pool: pool for pool in await client.pools()}
            assert "/nowhere/program: No such file" in pools["n"].trouble
            assert "no such model" in pools["b"].trouble
            assert pools["w"].trouble == ""
            stuck = await client.submit(flow("/broken/model"), [1])
            assert "pool b has 0 workers: worker broken ended with code 1" in "".join(await client.explain(stuck.id))
        server.process.send_signal(signal.SIGTERM)
        assert server.end()[0] == 0


def unary(address: str) -> list[str]:
    return [sys.executable, str(HERE / "unary_worker.py"), "data", address]


@pytest.mark.parametrize("kind", ["sdk", "unary"])
async def test_a_signal_ends_the_server_while_workers_are_connected(kind: str) -> None:
    with serving("-c", configured(cpu={"type": "grpc", "queueName": "cpu"})) as server:
        argv = WORKER if kind == "sdk" else unary(server.address)
        with beside(argv, STEPMESH_URL=f"grpc://{server.address}", STEPMESH_LEDGER="unary-ledger") as worker:
            async with Client.connect(f"grpc://{server.address}") as client:
                assert await client.run(flow("/cpu/echo"), 1, timeout=30) == 1
                began = time.monotonic()
                server.process.send_signal(signal.SIGTERM)
                code, said = await asyncio.to_thread(server.end)
            assert code == 0
            assert time.monotonic() - began < 4
            assert "Traceback" not in said
            assert worker.poll() is None


@pytest.mark.parametrize("kind", ["sdk", "unary"])
async def test_a_worker_goes_on_while_its_server_is_killed_and_started_again(kind: str) -> None:
    port = free_port()
    argv = command("server", "-p", str(port), "-c", configured(cpu={"type": "grpc", "queueName": "cpu"}), "--data", "data")
    component, input = ("/cpu/gate", "open") if kind == "sdk" else ("/cpu/slow", "done")
    begun, result = ("begin open", "open") if kind == "sdk" else ("start", "done")

    def begins() -> int:
        file = Path("ledger" if kind == "sdk" else "unary-ledger")
        return sum(line.startswith(begun) for line in file.read_text().splitlines()) if file.exists() else 0

    with beside(
        WORKER if kind == "sdk" else unary(f"127.0.0.1:{port}"), STEPMESH_URL=f"grpc://127.0.0.1:{port}", STEPMESH_LEDGER="unary-ledger"
    ):
        with started(argv) as server:
            async with Client.connect(f"grpc://{server.address}") as client:
                run = (await client.submit(flow(component), [input])).id
            await until("the task is begun", begins)
            server.process.kill()
            server.process.wait(30)
        Path("open").touch()
        with started(argv) as server:
            async with Client.connect(f"grpc://{server.address}") as client:
                assert await client.handle(run).result(60) == result
                [step] = (await client.requests.ask(GetSteps(RunId(run)), Steps)).steps
                assert (step.status, step.attempt) == ("success", 1)
            server.process.send_signal(signal.SIGTERM)
            assert (await asyncio.to_thread(server.end))[0] == 0
    assert begins() == 1
