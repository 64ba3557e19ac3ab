"""`stepmesh pools`: what waits, what is under way, who works for it. In tasks."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import msgspec

from stepmesh_broker.protocol.pools import PoolEntry
from stepmesh_cli import exits
from stepmesh_cli.connection import HERE, Target, connected, run_to_end
from stepmesh_cli.errors import CommandError
from stepmesh_cli.reporting import say
from stepmesh_cli.tables import moment, print_json, print_table


def pools(*, watch: float | None = None, target: Target = HERE, json: bool = False) -> int:
    """List pools: tasks that wait, for how long, tasks under way, workers and what they take at once.

    Parameters
    ----------
    watch
        Again every so many seconds, until Ctrl-C.
    json
        One JSON object per line, with each worker.
    """
    if watch is not None and watch <= 0:
        raise CommandError(f"--watch {watch:g} is no pause", hint="give seconds, such as --watch 2")
    return run_to_end(_pools(target, watch, json))


async def _pools(target: Target, every_s: float | None, as_json: bool) -> int:
    async with connected(target) as client:
        while True:
            _show_pools(await client.pools(), as_json)
            if every_s is None:
                return exits.OK
            await asyncio.sleep(every_s)
            if not as_json:
                print()


def _show_pools(found: list[PoolEntry], as_json: bool) -> None:
    if as_json:
        for pool in found:
            print_json(msgspec.to_builtins(_as_dict(pool)))
        return
    rows = ((one.pool, one.queued, _seconds(one.oldest_ms), one.in_flight, len(one.workers), one.capacity) for one in found)
    print_table(("pool", "queued", "wait", "in flight", "workers", "capacity"), rows)
    for pool in found:
        if pool.trouble:
            say(f"pool {pool.pool}: {pool.trouble}")
    workers = [(pool.pool, *_worker(worker)) for pool in found for worker in pool.workers]
    if workers:
        print()
        print_table(("pool", "worker", "running", "capacity", "version", "seen"), workers)
    sys.stdout.flush()


def _seconds(waited_ms: int) -> str:
    return f"{waited_ms / 1000:.1f} s" if waited_ms else "-"


def _worker(worker: Any) -> tuple[Any, ...]:
    return worker.worker, worker.running, worker.capacity, worker.version, moment(worker.seen_ms)


def _as_dict(pool: PoolEntry) -> dict[str, Any]:
    sums = {"wanted": pool.wanted, "capacity": pool.capacity}
    return {**msgspec.structs.asdict(pool), **sums, "workers": [msgspec.structs.asdict(worker) for worker in pool.workers]}
