"""`stepmesh workers`: who lives, and which code of durable functions each has."""

from __future__ import annotations

import msgspec

from stepmesh_broker.protocol.pools import PoolEntry
from stepmesh_cli import exits
from stepmesh_cli.connection import HERE, Target, connected, run_to_end
from stepmesh_cli.tables import moment, print_json, print_table


def workers(*, pool: str | None = None, target: Target = HERE, json: bool = False) -> int:
    """List live workers: what they run and take at once, and their durable functions with the version of the code. A run goes on with the
    version that it began with while a worker has it.

    Parameters
    ----------
    pool
        Only workers of this pool.
    json
        One JSON object per line.
    """
    return run_to_end(_workers(target, pool, json))


async def _workers(target: Target, only: str | None, as_json: bool) -> int:
    async with connected(target) as client:
        pools = [pool for pool in await client.pools() if only in (None, pool.pool)]
    if as_json:
        for pool in pools:
            for worker in pool.workers:
                print_json({"pool": pool.pool, **msgspec.structs.asdict(worker)})
        return exits.OK
    print_table(("pool", "worker", "running", "capacity", "version", "seen", "functions"), [row for pool in pools for row in _rows(pool)])
    return exits.OK


def _rows(pool: PoolEntry) -> list[tuple[object, ...]]:
    return [
        (pool.pool, one.worker, one.running, one.capacity, one.version, moment(one.seen_ms), _functions(one.functions))
        for one in pool.workers
    ]


def _functions(functions: dict[str, str]) -> str:
    return ", ".join(f"{path} {version}" for path, version in sorted(functions.items())) or "-"
