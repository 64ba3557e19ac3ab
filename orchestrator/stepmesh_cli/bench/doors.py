"""What a task costs a worker and its gateway: the stream of stepmesh.v1 against the unary calls of stepflow.v1, same no-op component.

Each way has a gateway process and a worker process of its own, over the same deployment; only their CPU time is compared.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from stepmesh_cli.bench.processes import usage
from stepmesh_cli.bench.scenarios import BATCH, Figures, submit_batches, submit_singles
from stepmesh_cli.bench.settings import BenchSettings, chain_flow
from stepmesh_cli.bench.stage import Stage, stage, until_present
from stepmesh_cli.errors import CommandError
from stepmesh_cli.processes import Supervisor, WorkerProcess

LEAST_S = 0.01
"""The system counts CPU time in steps of this, in seconds: less cannot be told from nothing."""
_GRACE_S = 15.0
_AWAY_S = 20.0


async def stream(settings: BenchSettings) -> Figures:
    """One-step runs, first through WorkerService.Work, then through PullTasks, TaskHeartbeat and CompleteTask; each way with 2,000 live
    tasks from batches of 500, and with 64 runs of one task."""
    if settings.broker == "memory":
        raise CommandError("a gateway process cannot reach a broker in memory", hint="leave --broker out")
    async with stage(settings, with_workers=False) as on:
        flow = await on.client.store_flow(chain_flow(1))
        streamed = await _way(on, flow, "stream", settings.amount(60), settings.amount(4_000))
        unary = await _way(on, flow, "unary", settings.amount(16), settings.amount(4_000))
        found: Figures = {"tasks_per_s": streamed["batches"].tasks_per_s, "unary_tasks_per_s": unary["batches"].tasks_per_s}
        for load in ("batches", "singles"):
            found[f"{load}_cpu_us_per_task"] = {
                f"{kind} {side}": spent
                for kind, way in (("stream", streamed), ("unary", unary))
                for side, spent in way[load].cpu_us.items()
            }
            found[f"{load}_times_less_cpu"] = {
                side: round(unary[load].cpu_us[side] / streamed[load].cpu_us[side], 1) for side in ("worker", "gateway")
            }
        return {**found, **on.info()}


class Measured(NamedTuple):
    """`cpu_us`: CPU µs per task, by side."""

    tasks_per_s: int
    cpu_us: dict[str, float]


async def _way(on: Stage, flow: str, kind: str, batches: int, singles: int) -> dict[str, Measured]:
    async with _processes(on, kind) as both:
        await submit_batches(on.client, flow, max(4, batches // 4))
        return {
            "batches": await _measured(both, submit_batches(on.client, flow, batches), batches * BATCH),
            "singles": await _measured(both, submit_singles(on.client, flow, singles, []), singles),
        }


async def _measured(both: Supervisor, work: Coroutine[Any, Any, None], tasks: int) -> Measured:
    before, started = _cpu_s(both), time.perf_counter()
    await work
    seconds, after = time.perf_counter() - started, _cpu_s(both)
    cpu_us = {side: round(max(after[side] - before[side], LEAST_S) / tasks * 1e6, 1) for side in after}
    return Measured(round(tasks / seconds), cpu_us)


@asynccontextmanager
async def _processes(on: Stage, kind: str) -> AsyncGenerator[Supervisor]:
    address = f"127.0.0.1:{_free_port()}"
    url = on.deployment.url or ""
    supervisor = Supervisor({"STEPMESH_NAMESPACE": on.settings.namespace}, lambda _line: None, _failed)
    gateway = (sys.executable, "-m", "stepmesh_cli", "gateway", "--url", url, "-p", address.partition(":")[2])
    supervisor.start([WorkerProcess("gateway", gateway), _worker(kind, address)])
    try:
        await until_present(on.deployment, 1)
        yield supervisor
    finally:
        await supervisor.stop(_GRACE_S)
        await _until_absent(on)


def _worker(kind: str, address: str) -> WorkerProcess:
    if kind == "unary":
        return WorkerProcess("worker", (sys.executable, "-m", "stepmesh_cli.bench.unary_worker", address))
    command = (sys.executable, "-m", "stepmesh_cli", "worker", "stepmesh_cli.bench.worker")
    return WorkerProcess("worker", command, {"STEPMESH_URL": f"grpc://{address}"})


def _failed(problem: BaseException) -> None:
    raise problem


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _cpu_s(both: Supervisor) -> dict[str, float]:
    found = {label: usage(pid) for label, pid in both.pids.items()}
    return {label: spent.cpu_s for label, spent in found.items() if spent is not None}


async def _until_absent(on: Stage) -> None:
    deadline = time.monotonic() + _AWAY_S
    while on.deployment.node.presence.workers("bench"):
        if time.monotonic() > deadline:
            raise CommandError(f"a bench worker did not leave within {_AWAY_S:.0f} s")
        await asyncio.sleep(0.02)
