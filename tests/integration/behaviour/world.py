"""A deployment for one test: an orchestrator and a gateway over a real nats-server, worker processes of one language, a client."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from stepmesh import Client
from stepmesh.runs import RunHandle
from stepmesh_broker.protocol.api import GetItems, Items, RunSummary
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_gateway.server import Gateway
from stepmesh_gateway.settings import GatewaySettings, Limits

POOL = "behaviour"
PATIENCE_S = 60.0
PAYLOAD_BYTES = 512 * 1024
"""What one input or output may have here: far below nats-server's limit, so that it is the gateway's that is met."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def step(component: str, **more: Any) -> dict[str, Any]:
    """A flow of one step that takes the run's input and gives its output."""
    one = {"id": "s", "component": f"/{POOL}{component}", "input": {"$input": "$"}, **more}
    return {"steps": [one], "output": {"$step": "s"}}


async def until(what: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
    """The first true value of `what`, which may be async."""
    deadline = asyncio.get_running_loop().time() + patience_s
    while True:
        found = what()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        assert asyncio.get_running_loop().time() < deadline, what
        await asyncio.sleep(0.02)


class WorkerProcess:
    """A worker as a process. `log`: what it wrote."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        self.process.kill()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def ended(self, patience_s: float = PATIENCE_S) -> int:
        return await asyncio.wait_for(self.process.wait(), patience_s)


class GatewayProcess:
    """`stepmesh gateway` as a process, for killing."""

    def __init__(self, url: str, namespace: str, port: int) -> None:
        self._command = [sys.executable, "-m", "stepmesh_cli", "gateway", "--url", url, "--namespace", namespace, "-p", str(port)]
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Returns when its port answers."""
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        assert self._process.stdout is not None
        assert await asyncio.wait_for(self._process.stdout.readline(), PATIENCE_S)

    async def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


class World:
    """`async with World(...) as world:`; what it started ends with it."""

    def __init__(self, nats_url: str, namespace: str, folder: Path, command: Sequence[str]) -> None:
        self.nats_url = nats_url
        self.namespace = namespace
        self.folder = folder
        self.port = free_port()
        self.client: Client
        self.deployment: Deployment
        self.gateway: Gateway | None = None
        self._command = command
        self._workers: list[WorkerProcess] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> World:
        settings = DeploymentSettings(broker=self.nats_url, namespace=self.namespace, partitions=2)
        self.deployment = await self._stack.enter_async_context(Deployment(settings))
        self.client = await self.deployment.client()
        return self

    async def __aexit__(self, *ended: object) -> None:
        for worker in self._workers:
            if worker.process.returncode is None:
                worker.kill()
                await worker.ended()
        await self.stop_gateway()
        await self._stack.aclose()

    # --- gateway and workers ------------------------------------------------------------------------------------

    async def start_gateway(self, port: int | None = None, drain_s: float = 5.0) -> Gateway:
        """A gateway of this process, on the address that workers know."""
        limits = Limits(payload_bytes=PAYLOAD_BYTES)
        settings = GatewaySettings(
            namespace=self.deployment.node.settings.namespace, port=port or self.port, limits=limits, drain_s=drain_s
        )
        self.gateway = Gateway(await self.deployment.connect(), settings)
        await self.gateway.start()
        return self.gateway

    async def stop_gateway(self) -> None:
        """In order, as on SIGTERM."""
        gateway, self.gateway = self.gateway, None
        if gateway is not None:
            await gateway.stop()

    def gateway_process(self) -> GatewayProcess:
        """A gateway to be killed, on the address that workers know."""
        made = GatewayProcess(self.nats_url, self.namespace, self.port)
        self._stack.push_async_callback(made.kill)
        return made

    async def start_worker(self, concurrency: int = 8, *, more_ports: Sequence[int] = ()) -> WorkerProcess:
        """Returns when the orchestrator has heard of it."""
        targets = ",".join(f"127.0.0.1:{port}" for port in (self.port, *more_ports))
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("STEPMESH_")},
            "STEPMESH_URL": f"grpc://{targets}",
            "STEPMESH_POOL": POOL,
            "STEPMESH_NAMESPACE": self.namespace,
            "STEPMESH_CONCURRENCY": str(concurrency),
        }
        log, known = self.folder / f"worker{len(self._workers)}.log", set(await self.workers())
        with log.open("wb") as out:
            process = await asyncio.create_subprocess_exec(*self._command, env=environment, cwd=self.folder, stdout=out, stderr=out)
        worker = WorkerProcess(process, log)
        self._workers.append(worker)

        async def heard() -> bool:
            assert process.returncode is None, log.read_text()
            return bool(set(await self.workers()) - known)

        await until(heard)
        return worker

    async def workers(self) -> list[str]:
        """Ids of the pool's live workers."""
        pools = [pool for pool in await self.client.pools() if pool.pool == POOL]
        return [worker.worker for pool in pools for worker in pool.workers]

    # --- runs ---------------------------------------------------------------------------------------------------

    async def run(self, component: str, input: Any, **more: Any) -> Any:
        """The result of one step."""
        return await self.client.run(step(component, **more), input, timeout=PATIENCE_S)

    async def begin(self, component: str, inputs: Sequence[Any], **more: Any) -> RunHandle:
        """A run with an item per input."""
        return await self.client.submit(step(component, **more), inputs, max_concurrency=0)

    async def failure(self, component: str, input: Any, **more: Any) -> dict[str, Any]:
        """The error of a step that fails."""
        handle = await self.begin(component, [input], **more)
        info = await handle.wait(PATIENCE_S)
        found: dict[str, Any] = json.loads(info.results[0].result)
        assert found["outcome"] == "failed", found
        error: dict[str, Any] = found["error"]
        return error

    async def ended(self, handle: RunHandle) -> RunSummary:
        """How a run ended."""
        return (await handle.wait(PATIENCE_S)).summary

    async def values(self, handle: RunHandle) -> list[Any]:
        """The results of an ended run's items, by index."""
        found: list[Any] = []
        while True:
            page = await self.client.requests.ask(GetItems(handle.id, len(found)), Items)
            found += [json.loads(item.result).get("result") for item in page.results]
            if not page.more:
                return found

    async def recorded(self, handle: RunHandle) -> Counter[str]:
        """How often each kind of event is in the run's history."""
        return Counter([event.kind async for event in handle.events(follow=False)])

    # --- what components wrote ----------------------------------------------------------------------------------

    def file(self, name: str = "notes") -> str:
        return str(self.folder / name)

    def notes(self, what: str = "", name: str = "notes") -> list[tuple[str, int, int]]:
        """Lines `(word, attempt, pid)` of a file, those that begin with `what`."""
        path = self.folder / name
        lines = path.read_text().splitlines() if path.exists() else []
        split = [line.split() for line in lines]
        return [(word, int(attempt), int(pid)) for word, attempt, pid in split if word.startswith(what)]
