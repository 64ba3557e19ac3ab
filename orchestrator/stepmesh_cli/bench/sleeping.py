"""The scenario of runs that sleep: what one weighs in memory and on disk, how fast all are back, and how 10,000 wake at once."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from stepmesh.client import Client
from stepmesh_cli.bench.processes import mib, own_usage
from stepmesh_cli.bench.scenarios import Figures
from stepmesh_cli.bench.settings import BenchSettings
from stepmesh_cli.bench.stage import stage
from stepmesh_cli.bench.standing import folder_of
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_cli.errors import CommandError

SLEEP = {
    "name": "bench sleep",
    "steps": [{"id": "s", "component": "/builtin/sleep", "input": {"until": {"$input": "until"}}}],
    "output": {"$step": "s"},
}
NOOP = {"name": "bench awake", "steps": [{"id": "s", "component": "/builtin/noop", "input": 1}], "output": {"$step": "s"}}
AT_ONCE = 10_000
"""Runs that wake at the same moment; a tenth of all when there are fewer than 100,000."""
LANES = 128
FAR = timedelta(days=30)
PATIENCE_S = 900.0
WARM = 1_000


async def sleeping(settings: BenchSettings) -> Figures:
    """One-step runs that sleep for a month, and some that are due together a while after the crash."""
    runs = settings.runs or settings.amount(100_000)
    together = min(AT_ONCE, max(1, runs // 10))
    async with folder_of(settings) as data:
        there = replace(settings, data=data)
        async with stage(there, with_workers=False) as on:
            flow = await on.client.store_flow(SLEEP)
            await _submit(on.client, flow, WARM, FAR)
            await until(lambda: dormant(on.deployment) == WARM)
            gc.collect()
            before, on_disk = own_usage(), sizes(data)
            started = time.perf_counter()
            await _submit(on.client, flow, runs - together, FAR)
            submitted = time.perf_counter() - started
            await until(lambda: dormant(on.deployment) == runs - together + WARM)
            gc.collect()
            after = own_usage()
            grown = {"memory": after.rss - before.rss, **(sizes(data) - on_disk)}
            per_run = {name: round(size / (runs - together)) for name, size in grown.items()}
            due = datetime.now(UTC) + timedelta(seconds=50 + runs / 10_000)
            await _submit(on.client, flow, together, due)
            await until(lambda: dormant(on.deployment) == runs + WARM)
            about = on.info()
            await on.deployment.node.abort()
        after_crash, woken = await _recovered(there, due, runs + WARM, together)
        after_stop, _ = await _recovered(there, None, runs + WARM - together, 0)
    return {
        "runs": runs, "runs_per_s": round(runs / submitted), "submit_seconds": round(submitted, 3), "bytes_per_run": per_run,
        "peak_rss_mb": {"orchestrator": mib(after.peak_rss)},
        "recovery_seconds": {"after_crash": after_crash, "after_stop": after_stop}, **woken, **about,
    }  # fmt: skip


async def _recovered(settings: BenchSettings, due: datetime | None, wanted: int, together: int) -> tuple[float, Figures]:
    """Seconds until a new process of the deployment serves, and how those that are due together wake."""
    deployment = Deployment(DeploymentSettings(broker=settings.broker, journal=settings.journal, data_dir=settings.data))
    started = time.perf_counter()
    await deployment.start()
    seconds = round(time.perf_counter() - started, 3)
    try:
        if dormant(deployment) != wanted:
            raise CommandError(f"{dormant(deployment)} dormant runs are back, not {wanted}")
        return seconds, {} if due is None else await _wake(deployment, due, wanted - together, together)
    finally:
        await deployment.stop()


async def _wake(deployment: Deployment, due: datetime, left: int, together: int) -> Figures:
    """From the moment that all are due until the last has ended, with somebody else's short runs meanwhile."""
    client = await deployment.client()
    flow, took = await client.store_flow(NOOP), list[float]()
    if datetime.now(UTC) > due - timedelta(seconds=5):
        raise CommandError("the runs that wake together are due before the recovery is over", hint="measure fewer runs")

    def is_over() -> bool:
        return dormant(deployment) == left and not _live(deployment)

    while datetime.now(UTC) < due - timedelta(seconds=10):  # noqa: ASYNC110  # what is waited for is the time
        await asyncio.sleep(0.1)
    lags: list[float] = []
    watch = asyncio.create_task(_lags(lags))
    while not is_over() or datetime.now(UTC) < due:
        started = time.perf_counter()
        await client.run(flow, None)
        took.append(time.perf_counter() - started)
        await asyncio.sleep(0.005)
    seconds = (datetime.now(UTC) - due).total_seconds()
    watch.cancel()
    took.sort()
    others = {"runs": len(took), "p50": round(took[len(took) // 2] * 1000, 1), "max": round(took[-1] * 1000, 1)}
    return {
        "woken_together": together,
        "wake_seconds": round(seconds, 3),
        "others_meanwhile_ms": others,
        "longest_stall_ms": round(max(lags) * 1000, 1),
    }


async def _lags(found: list[float]) -> None:
    """How late this process's loop is, seconds, all the time."""
    while True:
        wanted = time.perf_counter() + 0.005
        await asyncio.sleep(0.005)
        found.append(time.perf_counter() - wanted)


async def _submit(client: Client, flow: str, runs: int, until: datetime | timedelta) -> None:
    """`until`: when all of them are due, or a time over which they are spread."""
    now = datetime.now(UTC)

    def instants() -> Iterator[str]:
        for number in range(runs):
            moment = until if isinstance(until, datetime) else now + FAR / 2 + until / 2 * number / runs
            yield moment.strftime("%Y-%m-%dT%H:%M:%SZ")

    left = instants()

    async def lane() -> None:
        for instant in left:
            await client.submit(flow, [{"until": instant}])

    await asyncio.gather(*(lane() for _ in range(LANES)))


def _states(deployment: Deployment) -> list[Any]:
    return [service.shard.session.state for service in deployment.node.partitions.values()]


def dormant(deployment: Deployment) -> int:
    """Runs that left memory."""
    return sum(len(state.dormant) for state in _states(deployment))


def _live(deployment: Deployment) -> int:
    return sum(len(state.runs) for state in _states(deployment))


def sizes(folder: Path) -> Counter[str]:
    """Bytes of all files: of journal and store with their indexes, after what was in their write-ahead logs went to its place, and of the
    embedded broker."""
    for database in folder.glob("*.db"):
        _checkpoint(database)
    found: Counter[str] = Counter()
    for path in folder.rglob("*"):
        if path.is_file():
            found[path.relative_to(folder).parts[0].partition(".")[0]] += path.stat().st_size
    return Counter({name: found[name] for name in ("journal", "store", "nats")})


def _checkpoint(database: Path) -> None:
    """Without it the first 16 MB of a log, which is overwritten again and again, would count as the runs'."""
    with closing(sqlite3.connect(database, timeout=PATIENCE_S, isolation_level=None)) as connection:
        refused, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if refused:
        raise CommandError(f"the write-ahead log of {database.name} was in use for {PATIENCE_S:.0f} s")


async def until(condition: Callable[[], bool]) -> None:
    """Raises `CommandError` when it takes too long."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise CommandError(f"the runs did not become dormant within {PATIENCE_S:.0f} s")
        await asyncio.sleep(0.1)
