"""The part of a recorded journal that is written when durable functions are tried again, and go on with another version of their code."""

from __future__ import annotations

import asyncio

from tests.simulation.deployment_world import World
from tests.simulation.test_builds import FITS, OTHER, SAGA, build

from stepmesh.client import Client


async def going_on(world: World, client: Client) -> None:
    """One that waits goes to a version that does not fit, is tried again, and goes back; then another one takes it over for good."""
    workers = [build(version, names).worker() for version, names in (("blue", FITS), ("red", OTHER), ("green", FITS))]
    running = [asyncio.create_task(workers[0].run(await world.connection()))]
    run = await client.submit(SAGA, ["one"])
    await asyncio.sleep(10)
    running += [asyncio.create_task(worker.run(await world.connection())) for worker in workers[1:]]
    await asyncio.sleep(10)
    for version in ("red", None, "blue", "green"):
        await run.resume(version=version)
        await asyncio.sleep(5)
    await client.events.send("go", key="one", id="go")
    assert await run.result(timeout=600) == ["blue", "green"]
    for worker in workers:
        worker.stop()
    await asyncio.gather(*running)
