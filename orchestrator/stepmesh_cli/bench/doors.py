"""What a task costs a worker and its gateway: the stream of stepmesh.v1 against the unary calls of stepflow.v1, same no-op component.

Each way has a gateway process and a worker process of its own, over the same deployment; only their CPU time is compared.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from stepmesh_cli.bench.processes import usage
from stepmesh_cli.bench.scenarios import BATCH, Figures, submit_batches
from stepmesh_cli.bench.settings import BenchSettings, chain_flow
from stepmesh_cli.bench.stage import Stage, stage, until_present
from stepmesh_cli.errors import CommandError
from stepmesh_cli.processes import Supervisor, WorkerProcess

_GRACE_S = 15.0
_AWAY_S = 20.0


async def stream(settings: BenchSettings) -> Figures:
    """One-step runs in batches of 500, first through WorkerService.Work, then through PullTasks, TaskHeartbeat and CompleteTask."""
    if settings.broker == "memory":
        raise CommandError("a gateway process cannot reach a broker in memory", hint="leave --broker out")
    async with stage(settings, with_workers=False) as on:
        flow = await on.client.store_flow(chain_flow(1))
        streamed = await _way(on, flow, "stream", settings.amount(60))
        unary = await _way(on, flow, "unary", settings.amount(16))
        cpu = {"stream": streamed["cpu_us"], "unary": unary["cpu_us"]}
        return {
            "tasks": {"stream": streamed["tasks"], "unary": unary["tasks"]},
            "tasks_per_s": streamed["tasks_per_s"],
            "unary_tasks_per_s": unary["tasks_per_s"],
            "stream_cpu_us_per_task": cpu["stream"],
            "unary_cpu_us_per_task": cpu["unary"],
            "times_less_cpu": {side: round(cpu["unary"][side] / cpu["stream"][side], 1) for side in ("worker", "gateway")},
            **on.info(),
        }


async def _way(on: Stage, flow: str, kind: str, batches: int) -> dict[str, Any]:
    async with _processes(on, kind) as both:
        await submit_batches(on.client, flow, max(4, batches // 4))
        before, started = _cpu_s(both), time.perf_counter()
        await submit_batches(on.client, flow, batches)
        seconds, after = time.perf_counter() - started, _cpu_s(both)
        tasks = batches * BATCH
        cpu_us = {side: round((after[side] - before[side]) / tasks * 1e6, 1) for side in after}
        return {"tasks": tasks, "tasks_per_s": round(tasks / seconds), "cpu_us": cpu_us}


@asynccontextmanager
async def _processes(on: Stage, kind: str) -> AsyncGenerator[Supervisor]:
    address = f"127.0.0.1:{_free_port()}"
    url = on.deployment.url or ""
    supervisor = Supervisor({}, lambda _line: None, _failed)
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
