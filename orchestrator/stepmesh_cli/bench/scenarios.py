"""Scenarios over a running deployment: chain, single, fanout, latency. Each returns its figures as one flat object.

The chain's steps are told beside what a plain client of the same broker does right afterwards, on the same server (`raw`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from stepmesh.client import Client
from stepmesh_cli.bench.raw import figures, rate
from stepmesh_cli.bench.settings import STEPS, BenchSettings, chain_flow, fanout_flow
from stepmesh_cli.bench.stage import Meter, Stage, stage
from stepmesh_cli.bench.traffic import Traffic

Figures = dict[str, Any]
BATCH = 500
LIVE_BATCHES = 4
"""Live items of the chain: 2,000, as in the prototypes (architecture.md, Speed)."""
SUBMITTERS = 64
FAN = 1_000
_INPUT = {"n": 1}


async def chain(settings: BenchSettings) -> Figures:
    """Runs of ten no-op steps in a row, 2,000 live at a time, submitted in batches of 500."""
    async with stage(settings) as on:
        flow = await on.client.store_flow(chain_flow())
        batches = settings.amount(80)
        await submit_batches(on.client, flow, max(2, batches // 8))
        before = replace(on.traffic)
        async with on.measured() as meter:
            await submit_batches(on.client, flow, batches)
        steps, carried = batches * BATCH * STEPS, on.traffic.since(before)
        found = {"steps": steps, "steps_per_s": round(steps / meter.seconds), **spent(meter, steps), **on.info()}
        return {**found, **await _beside_raw(on, steps, meter.seconds, carried)}


async def single(settings: BenchSettings) -> Figures:
    """One-step runs, each submitted and waited for by itself, 64 at a time."""
    async with stage(settings) as on:
        flow = await on.client.store_flow(chain_flow(1))
        runs = settings.amount(4_000)
        await submit_singles(on.client, flow, runs // 8, [])
        took: list[float] = []
        async with on.measured() as meter:
            await submit_singles(on.client, flow, runs, took)
        return {"runs": runs, "runs_per_s": round(runs / meter.seconds), **_quantiles(took), **spent(meter, runs), **on.info()}


async def fanout(settings: BenchSettings) -> Figures:
    """A run that maps a no-op step over 1,000 items, several times in a row."""
    async with stage(settings) as on:
        flow = await on.client.store_flow(fanout_flow())
        rounds = settings.amount(10)
        took: list[float] = []
        await _timed(lambda: on.client.run(flow, list(range(FAN)), max_concurrency=0), [])
        async with on.measured() as meter:
            for _ in range(rounds):
                await _timed(lambda: on.client.run(flow, list(range(FAN)), max_concurrency=0), took)
        items = rounds * FAN
        return {"items": items, "items_per_s": round(items / meter.seconds), **_quantiles(took), **spent(meter, items), **on.info()}


async def latency(settings: BenchSettings) -> Figures:
    """One-step runs one after the other on an idle deployment: submit to result, as a client sees it."""
    async with stage(settings) as on:
        flow = await on.client.store_flow(chain_flow(1))
        runs = settings.amount(500)
        await _one_by_one(on, flow, runs // 5, [])
        took: list[float] = []
        async with on.measured() as meter:
            await _one_by_one(on, flow, runs, took)
        return {"runs": runs, "runs_per_s": round(runs / meter.seconds), **_quantiles(took), **spent(meter, runs), **on.info()}


async def _beside_raw(on: Stage, steps: int, seconds: float, carried: Traffic) -> Figures:
    """Nothing where no server carries messages."""
    url = on.deployment.url
    if url is None:
        return {}
    one_each, framed = figures.exchanges(steps, carried, LIVE_BATCHES * BATCH)
    took = await rate.measured(url, on.settings.namespace, (one_each, framed))
    return figures.compared(steps, seconds, carried, (one_each, took[0]), (framed, took[1]))


async def submit_batches(client: Client, flow: str, batches: int) -> None:
    """Runs of 500 items each, `LIVE_BATCHES` at a time, to their ends."""
    left = iter(range(batches))

    async def lane() -> None:
        for _ in left:
            handle = await client.submit(flow, [_INPUT] * BATCH, max_concurrency=0)
            await handle.wait()

    await asyncio.gather(*(lane() for _ in range(LIVE_BATCHES)))


async def submit_singles(client: Client, flow: str, runs: int, took: list[float]) -> None:
    """Runs of one item, `SUBMITTERS` at a time; `took` gets the seconds of each."""
    left = iter(range(runs))

    async def lane() -> None:
        for _ in left:
            await _timed(lambda: client.run(flow, _INPUT), took)

    await asyncio.gather(*(lane() for _ in range(SUBMITTERS)))


async def _one_by_one(on: Stage, flow: str, runs: int, took: list[float]) -> None:
    for _ in range(runs):
        await _timed(lambda: on.client.run(flow, _INPUT), took)


async def _timed(work: Callable[[], Awaitable[Any]], took: list[float]) -> None:
    started = time.perf_counter()
    await work()
    took.append(time.perf_counter() - started)


def _quantiles(took: list[float]) -> Figures:
    ordered = sorted(took)
    return {f"p{quantile}_ms": round(ordered[min(len(ordered) - 1, len(ordered) * quantile // 100)] * 1000, 3) for quantile in (50, 99)}


def spent(meter: Meter, units: int) -> Figures:
    """Time, CPU time and memory of a measured stretch."""
    return {"seconds": round(meter.seconds, 3), "cpu_us_per_step": meter.per_unit(units), "peak_rss_mb": meter.peak_rss_mb}
