"""Commands on what a deployment offers: `components`, `pools`."""

from __future__ import annotations

from typing import Any

import msgspec

from stepmesh_broker.protocol.api import ComponentEntry
from stepmesh_cli import exits
from stepmesh_cli.connection import HERE, Target, connected, run_to_end
from stepmesh_cli.tables import moment, print_json, print_table, raw


def components(*, target: Target = HERE, json: bool = False) -> int:
    """List the components that workers offer, by the path that a flow writes.

    Parameters
    ----------
    json
        One JSON object per line, with schemas.
    """
    return run_to_end(_components(target, json))


async def _components(target: Target, as_json: bool) -> int:
    async with connected(target) as client:
        found = await client.components()
    if as_json:
        for entry in found:
            print_json(_component(entry))
    else:
        rows = ((one.path, one.pool, one.workers, _first_line(one.component.description)) for one in found)
        print_table(("path", "pool", "workers", "description"), rows)
    return exits.OK


def pools(*, target: Target = HERE, json: bool = False) -> int:
    """List pools: tasks that wait, tasks under way, workers.

    Parameters
    ----------
    json
        One JSON object per line, with each worker.
    """
    return run_to_end(_pools(target, json))


async def _pools(target: Target, as_json: bool) -> int:
    async with connected(target) as client:
        found = await client.pools()
    if as_json:
        for pool in found:
            print_json(msgspec.to_builtins(_as_dict(pool)))
        return exits.OK
    print_table(("pool", "queued", "in flight", "workers"), ((pool.pool, pool.queued, pool.in_flight, len(pool.workers)) for pool in found))
    workers = [(pool.pool, *_worker(worker)) for pool in found for worker in pool.workers]
    if workers:
        print()
        print_table(("pool", "worker", "running", "capacity", "version", "seen"), workers)
    return exits.OK


def _worker(worker: Any) -> tuple[Any, ...]:
    return worker.worker, worker.running, worker.capacity, worker.version, moment(worker.seen_ms)


def _as_dict(pool: Any) -> dict[str, Any]:
    return {**msgspec.structs.asdict(pool), "workers": [msgspec.structs.asdict(worker) for worker in pool.workers]}


def _component(entry: ComponentEntry) -> dict[str, Any]:
    component = entry.component
    return {
        "path": entry.path,
        "pool": entry.pool,
        "workers": entry.workers,
        "component": component.path,
        "description": component.description,
        "input_schema": raw(component.input_schema),
        "output_schema": raw(component.output_schema),
    }


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
