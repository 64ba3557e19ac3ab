"""Scenarios over runs that stand still: what live runs weigh, and how fast they are back after a crash. No worker runs."""

from __future__ import annotations

import asyncio
import gc
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from stepmesh.client import Client
from stepmesh_cli.bench.processes import mib, own_usage
from stepmesh_cli.bench.scenarios import Figures
from stepmesh_cli.bench.settings import BenchSettings, chain_flow
from stepmesh_cli.bench.stage import stage
from stepmesh_cli.deployment import Deployment, DeploymentSettings

BATCH = 1_000


async def memory(settings: BenchSettings) -> Figures:
    """Bytes per live ten-step run of one item: growth of this process's resident memory over 100,000 of them."""
    runs = settings.amount(100_000)
    async with stage(settings, with_workers=False) as on:
        flow = await on.client.store_flow(chain_flow())
        await _submit_runs(on.client, flow, 1_000)
        gc.collect()
        before = own_usage()
        started = time.perf_counter()
        await _submit_runs(on.client, flow, runs)
        seconds = time.perf_counter() - started
        gc.collect()
        after = own_usage()
        return {
            "runs": runs, "runs_per_s": round(runs / seconds), "bytes_per_run": round((after.rss - before.rss) / runs),
            "peak_rss_mb": {"orchestrator": mib(after.peak_rss)}, "seconds": round(seconds, 3), **on.info(),
        }  # fmt: skip


async def recovery(settings: BenchSettings) -> Figures:
    """Seconds from nothing to serving, with 10,000 live ten-step runs in the journal and no snapshot of them, after a crash."""
    runs = settings.amount(10_000)
    async with folder_of(settings) as data:
        crashing = replace(settings, data=data)
        async with stage(crashing, with_workers=False) as on:
            flow = await on.client.store_flow(chain_flow())
            await _submit_runs(on.client, flow, runs)
            await on.deployment.node.abort()
        again = DeploymentSettings(broker=settings.broker, journal=settings.journal, data_dir=data, namespace=settings.namespace)
        deployment = Deployment(again)
        started = time.perf_counter()
        await deployment.start()
        seconds = time.perf_counter() - started
        live = sum(
            len(service.shard.session.state.runs) + len(service.shard.session.state.dormant)
            for service in deployment.node.partitions.values()
        )
        drained = time.perf_counter()
        for service in deployment.node.partitions.values():
            await service.shard.dispatcher.outbox.drained()
        sent = time.perf_counter() - drained
        durability = deployment.node.ports.journal.durability
        await deployment.stop()
        return {
            "runs": runs, "recovered": live, "seconds": round(seconds, 3), "resend_seconds": round(sent, 3),
            "runs_per_s": round(live / seconds), "durability": durability,
        }  # fmt: skip


async def _submit_runs(client: Client, flow: str, runs: int) -> None:
    left = iter(range(runs))

    async def lane() -> None:
        for number in left:
            await client.submit(flow, [{"n": number, "text": "a small input"}])

    await asyncio.gather(*(lane() for _ in range(128)))


@asynccontextmanager
async def folder_of(settings: BenchSettings) -> AsyncGenerator[Path]:
    """The data folder that was named, or one that goes with the measurement."""
    if settings.data is not None:
        yield settings.data
        return
    folder = Path(tempfile.mkdtemp(prefix="stepmesh-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
