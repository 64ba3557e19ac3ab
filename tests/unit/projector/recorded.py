"""A deployment's journal and the read model that its own projector made, for those who read the journal from outside."""

from __future__ import annotations

import asyncio
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from tests.replay.history import FAILING
from tests.simulation.deployment_world import World
from tests.simulation.test_crash_every_write import FLOW
from tests.simulation.virtual_loop import run_virtual

from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.ids import Namespace, Partition
from stepmesh_orchestrator.core.rows import ItemRow, RunRow
from stepmesh_orchestrator.journal.memory import MemoryJournal
from stepmesh_orchestrator.ports import Frame, RunQuery, Store
from stepmesh_orchestrator.store.memory import MemoryStore

DORMANT = {
    "name": "leaves memory",
    "steps": [
        {"id": "first", "component": "/cpu/echo", "input": {"$input": "$"}},
        {"id": "nap", "component": "/builtin/sleep", "input": {"duration": "60s", "passthrough": {"$step": "first"}}},
        {"id": "last", "component": "/cpu/echo", "input": {"$step": "nap"}},
    ],
    "output": {"$step": "last"},
}
TELLS = {"usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 13}, "cost": 0.1, "currency": "USD"}
"""Told by two tasks of a run; the sleep between them hands it on and is none."""
ReadModel = list[tuple[RunRow, list[ItemRow]]]
NAMESPACE = Namespace("default")
PARTITION = Partition(0)


class Recorded(NamedTuple):
    """`store`: flows, and the read model of the deployment itself."""

    frames: list[Frame]
    store: MemoryStore


async def read_model(store: Store, namespace: Namespace = NAMESPACE) -> ReadModel:
    """All of it, in a fixed order."""
    runs = await store.list_runs(RunQuery(namespace, limit=1_000_000))
    return [(run, list(await store.get_items(run.run))) for run in sorted(runs, key=lambda run: run.run)]


@functools.cache
def recorded() -> Recorded:
    """Chains, retries, sleeps, maps, skips, defaults, failures, a cancel, a deletion, and a run that left memory."""
    with ThreadPoolExecutor(1) as thread:  # a loop of its own, beside the test's
        return thread.submit(lambda: run_virtual(_record())).result()


async def _record() -> Recorded:
    world = World(MemoryJournal())
    await world.start_node()
    await world.start_worker()
    client = await world.client()
    for flow, inputs in ((FLOW, [{"n": n} for n in range(6)]), (FAILING, [{"skip": True}, {"skip": False}])):
        handle = await client.submit(flow, inputs, run_key=str(flow["name"]), tags={"kind": "golden"})
        await handle.wait(timeout=100)
    deleted = await client.submit(FAILING, [{"skip": True}])
    await deleted.wait(timeout=100)
    await client.requests.ask(api.DeleteRun(deleted.id), api.Deleted)
    dormant = await client.submit(DORMANT, [TELLS, 2])
    await dormant.wait(timeout=200)
    slow = await client.submit(FLOW, [{"n": 3}])
    await asyncio.sleep(1)
    await client.cancel(slow.id)
    await slow.wait(timeout=100)
    await world.close()
    return Recorded([frame async for frame in world.journal.read(PARTITION)], world.store)


async def flows_of(store: MemoryStore) -> MemoryStore:
    """A store with the same flows and no read model."""
    copy = MemoryStore()
    copy._flows = dict(store._flows)
    return copy
