"""Plain producers over three orchestrators as processes, one of which is killed: a key is one run, however often it is written or read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from tests.acceptance.audit import check, read_story
from tests.acceptance.cluster import FLOW, PARTITIONS, ClusterLab, deployment_of
from tests.acceptance.pairs import Pair
from tests.services.producers import Record, kafka_records, nats_records

from stepmesh import endpoint
from stepmesh.client import Client
from stepmesh_broker.protocol.ids import Namespace, RunId
from stepmesh_broker.protocol.records import PlainRecord
from stepmesh_broker.protocol.submission import submitted_run

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]
KEYED = 120
BARE = 20


@pytest.fixture(params=["nats", "kafka"])
async def lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ClusterLab]:
    async with ClusterLab(tmp_path, deployment_of(Pair(request.param, "sqlite"), request, tmp_path)) as made:
        await made.start(workers=1)
        yield made


def records(flow: str, first: int, count: int) -> list[Record]:
    """Each with a key of its own."""
    headers = {"content-type": "application/json", "stepmesh-contract": "1"}
    return [
        (json.dumps({"flowId": flow, "input": [{"n": number}], "tags": {"n": str(number)}}).encode(), f"key-{number}", headers)
        for number in range(first, first + count)
    ]


async def write(lab: ClusterLab, found: list[Record]) -> None:
    """By the client of the broker itself."""
    await (kafka_records if lab.deployment.broker.startswith("kafka") else nats_records)(
        lab.deployment.broker, lab.deployment.namespace, found
    )


def runs_of(lab: ClusterLab, keys: int) -> set[RunId]:
    """By their keys, as anybody may compute them."""
    return {
        submitted_run(PlainRecord(0, 0, 0, b"", b"key-%d" % number), Namespace(lab.deployment.namespace), PARTITIONS)
        for number in range(keys)
    }


async def completed(client: Client) -> int:
    return len(await client.list_runs(status="completed", limit=1_000))


async def until_completed(client: Client, count: int) -> None:
    async with asyncio.timeout(90):
        while await completed(client) < count:
            await asyncio.sleep(0.1)


async def test_every_key_is_one_run_whoever_dies_and_however_often_it_is_read(lab: ClusterLab) -> None:
    client = await lab.connected()
    flow = await client.store_flow(FLOW)
    await write(lab, records(flow, 0, 40))
    await until_completed(client, 10)
    lab.nodes.pop(0).kill()
    await write(lab, [*records(flow, 40, 80), (b"nonsense", "bad", {})])
    await write(lab, [(value, "", headers) for value, _, headers in records(flow, 1_000, BARE)])
    await until_completed(client, KEYED + BARE)
    await lab.ready(lab.start_node())
    await lab.shared(3)

    await write(lab, records(flow, 0, KEYED))  # the producer begins again
    if lab.deployment.broker.startswith("kafka"):
        await read_again_from_the_beginning(lab)
    await write(lab, records(flow, KEYED, 1))
    await until_completed(client, KEYED + BARE + 1)
    broker = endpoint.broker(lab.deployment.broker, lab.deployment.namespace)
    await broker.connect()
    letters = [letter for letter in await broker.parked() if letter.pool == "submit"]
    await broker.close()
    assert {(letter.data, letter.reason[:7]) for letter in letters} == {(b"nonsense", "SM-3050")}

    await lab.stop_all()
    story = await read_story(lab.data)
    accepted = runs_of(lab, KEYED + 1)
    check(story, accepted, lab.executions())
    assert len(story.created) == KEYED + 1 + BARE, "no second run for any record"
    assert accepted < set(story.created)
    assert set(story.ended.values()) == {"completed"}


async def read_again_from_the_beginning(lab: ClusterLab) -> None:
    """The group's offsets set back to 0, as an operator would, while nobody reads."""
    topic = f"stepmesh.{lab.deployment.namespace}.submit"
    places = [TopicPartition(topic, number) for number in range(16)]
    consumer = AIOKafkaConsumer(bootstrap_servers=lab.deployment.broker.removeprefix("kafka://"), group_id=topic, enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign(places)
        async with asyncio.timeout(60):
            while sum([await consumer.committed(place) or 0 for place in places]) < 2 * KEYED + BARE + 1:
                await asyncio.sleep(0.1)
        nodes = tuple(lab.nodes)
        for node in nodes:
            await lab.stop_node(node)
        await consumer.commit(dict.fromkeys(places, 0))
    finally:
        await consumer.stop()
    for _ in nodes:
        await lab.ready(lab.start_node())
    await lab.shared(len(nodes))
