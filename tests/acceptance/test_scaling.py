"""A pool goes from one worker to eight and back under load; a long task keeps its place.

STEPMESH_SCALE_TASKS: how many tasks flow (default 8,000); STEPMESH_LONG_TASK_S: how long the long task takes (default 12).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from tests.acceptance.audit import check
from tests.acceptance.cluster import ClusterLab, deployment_of
from tests.acceptance.pairs import Pair
from tests.acceptance.processes import until
from tests.acceptance.scaling import ITEMS, MOST, Scaling

from stepmesh_broker.kafka import KafkaSettings

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]
TASKS = int(os.environ.get("STEPMESH_SCALE_TASKS", "8000"))
LONG_S = float(os.environ.get("STEPMESH_LONG_TASK_S", "12"))
LONG = {"name": "long", "steps": [{"id": "long", "component": "/cpu/slow", "input": {"$input": "$"}}], "output": {"$step": "long"}}
MANY_S = 0.01


async def started(pair: Pair, request: pytest.FixtureRequest, folder: Path, workers: int) -> AsyncIterator[ClusterLab]:
    async with ClusterLab(folder, deployment_of(pair, request, folder)) as lab:
        await lab.start(nodes=1, workers=workers)
        yield lab


@pytest.fixture(params=[Pair("nats", "postgres"), Pair("kafka", "postgres")], ids=str)
async def lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ClusterLab]:
    async for made in started(request.param, request, tmp_path, workers=1):
        yield made


@pytest.fixture
async def on_kafka(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ClusterLab]:
    async for made in started(Pair("kafka", "postgres"), request, tmp_path, workers=2):
        yield made


async def test_a_pool_goes_from_one_worker_to_eight_and_back(lab: ClusterLab) -> None:
    scaled = await Scaling(lab, TASKS).run()
    print(f"\n{TASKS:,} tasks: {scaled}")
    assert scaled.again == 0, "nothing is done twice"
    assert scaled.shares.total() == TASKS
    assert len(scaled.shares) == MOST
    await lab.stop_all()
    story = await lab.story()
    check(story, set(story.created), lab.executions())
    assert story.items.total() == TASKS
    assert len(story.created) == TASKS // ITEMS


async def test_a_long_task_moves_nobody_and_is_done_once(on_kafka: ClusterLab) -> None:
    """Far longer than the broker's ack wait (6 s) and the members' session (3 s), while short tasks pass it."""
    client = await on_kafka.connected()
    handle = await client.submit(LONG, [{"seconds": LONG_S}])
    await until("it is begun", lambda: on_kafka.starts("long"))
    watching = asyncio.create_task(members(on_kafka))
    short = 0
    while not watching.done() and (await handle.info()).summary.status == "running":
        await client.run(LONG, {"seconds": MANY_S}, timeout=30)
        short += 1
    watching.cancel()
    assert await handle.result(30) == {"seconds": LONG_S}
    with pytest.raises(asyncio.CancelledError):  # it raises what it saw change
        await watching
    assert on_kafka.starts("long") == 1 + short
    await on_kafka.stop_all()
    story = await on_kafka.story()
    check(story, {handle.id}, on_kafka.executions())


async def members(lab: ClusterLab) -> None:
    """Watches the pool's consumer group for ever. Raises `AssertionError` when it is not as it was: another member, state or assignment."""
    settings = KafkaSettings.parse(lab.deployment.broker)
    admin = AIOKafkaAdminClient(bootstrap_servers=list(settings.bootstrap))
    await admin.start()
    try:
        first = await described(admin, lab)
        assert first[0] == "Stable"
        assert len(first[1]) == len(lab.workers)
        while True:
            assert await described(admin, lab) == first
            await asyncio.sleep(0.05)
    finally:
        await admin.close()


async def described(admin: AIOKafkaAdminClient, lab: ClusterLab) -> tuple[str, list[tuple[str, bytes]]]:
    """State and members with what they are assigned."""
    (answer,) = await admin.describe_consumer_groups([f"stepmesh.{lab.deployment.namespace}.tasks.cpu"])
    (_, _, state, _, _, found, *_) = answer.groups[0]
    return state, sorted((member[0], bytes(member[-1])) for member in found)
