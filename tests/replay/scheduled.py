"""A recorded journal of schedules: `python -m tests.replay.scheduled NAME` writes one with today's engine."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from datetime import UTC, datetime

from tests.replay.history import FOLDER, hashes
from tests.simulation.deployment_world import World
from tests.simulation.test_schedules import LONG, QUICK
from tests.simulation.virtual_loop import run_virtual

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.core.events import RunCreated, decode_turn
from stepmesh_orchestrator.journal.memory import MemoryJournal
from stepmesh_orchestrator.runtime.flows import FlowRegistry


async def record() -> dict[str, object]:
    """Fired, skipped, waiting, missed, triggered, filled, paused, resumed, changed, deleted; a dormant run that another one ends."""
    world = World(MemoryJournal())
    await world.start_node()
    await world.start_worker()
    client = await world.client()
    begun = world.clock.now_ms()
    await client.schedules.create("plain", QUICK, {"n": 1}, every=10, tags={"kind": "golden"}, variables={"v": 1}, max_concurrency=2)
    await client.schedules.create("cron", QUICK, cron="*/2 * * * *", time_zone="Europe/Berlin", overlap="allow", jitter=20)
    await client.schedules.create("waits", LONG, every=10, max_runs=4, overlap="buffer_one")
    await client.schedules.create("skips", LONG, every=10, max_runs=3)
    nap = {**LONG, "steps": [{"id": "a", "component": "/builtin/sleep", "input": {"duration": "1h"}}]}
    await client.schedules.create("ends", nap, every=60, overlap="cancel_other")
    await asyncio.sleep(130)
    assert world.node is not None
    await world.node.abort()
    await asyncio.sleep(300)
    await world.start_node()
    await asyncio.sleep(70)
    await client.schedules.pause("plain")
    await client.schedules.resume("plain")
    await client.schedules.trigger("plain")
    start, end = (datetime.fromtimestamp((begun + ms) / 1000, UTC) for ms in (10_000, 30_000))
    await client.schedules.backfill("plain", start, end, "golden")
    await client.schedules.create("plain", QUICK, {"n": 2}, every=20, replace=True)
    await asyncio.sleep(25)
    await client.schedules.delete("plain")
    await client.schedules.pause("ends")
    await asyncio.sleep(10)
    await world.close()
    frames = [frame.payload async for frame in world.journal.read(Partition(0))]
    flows = FlowRegistry(world.store, world.clock)
    created = {event.flow for frame in frames for event in decode_turn(frame).events if isinstance(event, RunCreated)}
    documents = {name: flow.document.decode() for name in sorted(created) if (flow := await flows.load(name)) is not None}
    return {"flows": documents, "frames": [base64.b64encode(frame).decode() for frame in frames], "hashes": await hashes(frames, flows)}


if __name__ == "__main__":
    target = FOLDER / f"{sys.argv[1]}.json"
    if target.exists():
        raise SystemExit(f"{target} exists; a recorded history is never changed")
    target.write_text(json.dumps(run_virtual(record()), indent=1) + "\n")
