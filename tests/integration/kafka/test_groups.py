"""Places in a pool's group: kept without fetching, taken with any session, shared with those that wait."""

from __future__ import annotations

import asyncio

import pytest
from tests.integration.kafka.load import POOL, connected, namespace


async def test_a_consumer_that_takes_nothing_for_long_keeps_its_place_and_its_frames(kafka_url: str) -> None:
    broker = await connected(kafka_url, namespace(), session_s=1.0)
    source = await broker.tasks(POOL)
    for first in range(0, 400, 100):
        await asyncio.gather(*(broker.publish_tasks(POOL, b"%d" % number, f"{number}") for number in range(first, first + 100)))
    await asyncio.sleep(3.0)  # three sessions: this is the time that is tested
    got: dict[bytes, int] = {}
    async with asyncio.timeout(30):
        while len(got) < 400:
            for delivery in await source.fetch(16, 1.0):
                assert delivery.data not in got
                got[delivery.data] = delivery.deliveries
                await delivery.ack()
    assert set(got.values()) == {1}
    await broker.close()


@pytest.mark.parametrize("session_s", [0.9, 1.0])
async def test_a_session_that_the_cluster_does_not_allow_becomes_the_usual_one(kafka_url: str, session_s: float) -> None:
    broker = await connected(kafka_url, namespace(), session_s=session_s)
    source = await broker.tasks(POOL)
    await broker.publish_tasks(POOL, b"x", "1")
    (delivery,) = await source.fetch(1, 10)
    assert delivery.data == b"x"
    await delivery.ack()
    await broker.close()


async def test_a_consumer_that_waits_gets_what_lies_with_one_that_is_busy(kafka_url: str) -> None:
    name = namespace()
    broker, other = await connected(kafka_url, name), await connected(kafka_url, name)
    busy, free = await broker.tasks(POOL), await other.tasks(POOL)
    for number in range(40):
        await broker.publish_tasks(POOL, b"%d" % number, f"{number}")
    got: dict[bytes, int] = {}
    async with asyncio.timeout(30):
        while len(got) < 40:
            for delivery in await free.fetch(4, 1.0):
                assert delivery.data not in got
                got[delivery.data] = delivery.deliveries
                await delivery.ack()
    assert set(got.values()) == {1}
    await busy.close()
    await broker.close()
    await other.close()
