"""The part of a recorded journal that schedules write."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from tests.simulation.deployment_world import World
from tests.simulation.test_schedules import LONG, QUICK

from stepmesh.client import Client


async def schedules(world: World, client: Client) -> None:
    """Fired, skipped, waiting, missed, triggered, filled, paused, resumed, changed, deleted; a dormant run that another one ends."""
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
