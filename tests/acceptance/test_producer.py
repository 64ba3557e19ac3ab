"""A producer over real brokers, whose orchestrator is killed in the middle of its batches and started again: every key is one run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.acceptance.audit import check, read_story
from tests.acceptance.cluster import FLOW, ClusterLab, deployment_of
from tests.acceptance.pairs import Pair

from stepmesh import Client, Producer, ProducerLimits
from stepmesh.batches import Batch

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]
KEYS = 150
LARGE = 500
LIMITS = ProducerLimits(items_per_run=50, runs_under_way=8)


@pytest.fixture(params=["nats", "kafka"])
async def lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ClusterLab]:
    async with ClusterLab(tmp_path, deployment_of(Pair(request.param, "sqlite"), request, tmp_path)) as made:
        await made.start(nodes=1, workers=1)
        yield made


async def produce(producer: Producer, under_way: asyncio.Event) -> Batch:
    for number in range(KEYS):
        await producer.submit([{"n": number}], key=f"key-{number}")
        if number == KEYS // 3:
            under_way.set()
    return await producer.submit(({"n": number} for number in range(LARGE)), key="large")


async def killed_in_the_middle(lab: ClusterLab, client: Client) -> list[str]:
    """The run ids of the large batch."""
    under_way = asyncio.Event()
    async with client.producer(FLOW, limits=LIMITS) as producer:
        producing = asyncio.create_task(produce(producer, under_way))
        await under_way.wait()
        lab.nodes.pop().kill()
        assert not producing.done()
        await lab.ready(lab.start_node())
        batch = await producing
        async with asyncio.timeout(120):
            found = [(one.index, one.value, one.error) async for one in batch.results()]
    assert sorted(found) == [(number, number, None) for number in range(LARGE)]
    return [run.id for run in await batch]


async def test_every_key_is_one_run(lab: ClusterLab) -> None:
    client = await lab.connected()
    large = await killed_in_the_middle(lab, client)
    async with client.producer(FLOW, limits=LIMITS) as producer:  # it begins again
        again = await produce(producer, asyncio.Event())
    runs = await again
    assert ([run.id for run in runs], {run.existing for run in runs}) == (large, {True})
    summaries = await client.list_runs(limit=1_000)
    for summary in summaries:
        await client.handle(summary.run).wait(timeout=60)
    assert {summary.run_key for summary in summaries} == {f"key-{n}" for n in range(KEYS)} | {f"large/{n}" for n in range(LARGE // 50)}

    await lab.stop_all()
    story = await read_story(lab.data)
    check(story, {summary.run for summary in summaries}, lab.executions())
    assert len(story.created) == KEYS + LARGE // 50
