"""What a cluster loses between two nodes, made on one server: a delivery, the last delivery, a standing request."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest

from stepmesh_broker.nats import NatsBroker, NatsSettings
from stepmesh_broker.nats.inbox import NatsInbox
from stepmesh_broker.nats.pull import HEARTBEAT_S, SILENCE_S
from stepmesh_broker.protocol.ids import Namespace, Partition, Pool, Position

P = Partition(0)
POOL = Pool("cpu")


@pytest.fixture
async def broker(nats_url: str) -> AsyncIterator[NatsBroker]:
    made = NatsBroker(NatsSettings.parse(nats_url, Namespace(f"t{uuid.uuid4().hex[:12]}"), ack_wait_s=60))
    await made.connect()
    yield made
    await made.close()


def lose(inbox: NatsInbox, lost: bytes) -> list[bytes]:
    """One message of the present consumer does not arrive; returns the list of those that were lost."""
    gone: list[bytes] = []
    pull = inbox._pull
    assert pull is not None
    arrived = pull._on_frame

    def pass_on(reply: bytes, data: bytes, headers: bytes | None) -> None:
        if data == lost:
            gone.append(data)
        else:
            arrived(reply, data, headers)

    pull._on_frame = pass_on
    return gone


@pytest.mark.parametrize("lost", [b"0", b"2", b"4"])
async def test_a_delivery_that_was_lost_comes_again_in_its_place(broker: NatsBroker, lost: bytes) -> None:
    inbox = await broker.inbox(P, Position(0))
    gone = lose(inbox, lost)
    for number in range(5):
        await broker.post(P, b"%d" % number)
    read: dict[Position, bytes] = {}
    order: list[bytes] = []
    async with asyncio.timeout(30):
        while len(read) < 5:
            for entry in await inbox.fetch(10, 30):
                read[entry.position] = entry.data
                order.append(entry.data)
                await inbox.ack(entry.position)
    assert gone == [lost]
    assert order == [b"0", b"1", b"2", b"3", b"4"]  # all before it were acknowledged, all after it waited


async def test_a_request_that_the_server_forgot_is_made_again(broker: NatsBroker) -> None:
    source = await broker.tasks(POOL)
    waiting = asyncio.ensure_future(source.fetch(4, 60))
    async with asyncio.timeout(30):
        while not source._pull.outstanding:
            await asyncio.sleep(0)
        broker._wire.put(b"UNSUB %d\r\n" % source._pull._sid)  # its reply subject is not heard any more, and nothing says so
        await broker._connection.settle()
        await broker.publish_tasks(POOL, b"x", "1")
        (delivery,) = await waiting
    assert delivery.data == b"x"


async def test_a_request_that_the_server_has_is_not_made_again(broker: NatsBroker) -> None:
    source = await broker.tasks(POOL)
    assert list(await source.fetch(4, SILENCE_S + 2 * HEARTBEAT_S)) == []
    assert source._pull._round == 1
