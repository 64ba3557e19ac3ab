"""Row D5 on real brokers: a publish that is tried again within the dedupe window adds nothing, and swallows no new dispatch of the task.

A message id names journal, partition, epoch and the frame's number, so what is sent again on purpose has an id of its own.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest
from tests.simulation.faults import HEALED, FaultyBroker, Rates

from stepmesh import endpoint
from stepmesh_broker.ports import Broker
from stepmesh_broker.protocol.codec import decode_task_frame
from stepmesh_broker.protocol.ids import Namespace, Partition, Pool, RunId
from stepmesh_broker.protocol.messages import Task, TaskFrame
from stepmesh_orchestrator.clock import SystemClock
from stepmesh_orchestrator.ports import Ownership
from stepmesh_orchestrator.runtime.dispatch import Dispatcher
from stepmesh_orchestrator.runtime.presence import Presence

POOL = Pool("cpu")
P = Partition(0)
NOBODY_S = 2.0
TASK = Task(RunId("r"), 0, 0, 1, 1, "a", "/cpu/echo", b"1")


@pytest.fixture(params=["nats", "kafka"])
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[Broker]:
    made = endpoint.broker(request.getfixturevalue(f"{request.param}_url"), f"t{uuid.uuid4().hex[:12]}")
    await made.connect()
    yield made
    await made.close()


async def sent(dispatcher: Dispatcher) -> None:
    """All that it has."""
    running = asyncio.create_task(dispatcher.outbox.run())
    await dispatcher.outbox.drained()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def received(broker: Broker) -> list[TaskFrame]:
    """All that lies in the pool, each frame as often as it is handed out."""
    source = await broker.tasks(POOL)
    frames: list[TaskFrame] = []
    while deliveries := await source.fetch(16, 10.0 if not frames else NOBODY_S):
        for delivery in deliveries:
            frames.append(decode_task_frame(delivery.data))
            await delivery.ack()
    await source.close()
    return frames


async def test_a_publish_that_is_repeated_swallows_no_new_dispatch(broker: Broker) -> None:
    unconfirmed: list[str] = []

    def rates() -> Rates:  # the confirmation of each owner's first publish is lost
        return HEALED if len(unconfirmed) == epoch else Rates(mute=1.0)

    faulty: Any = FaultyBroker(broker, rates, Random(1), lambda fault, kind: unconfirmed.append(kind))
    none: Any = None
    for epoch in (1, 2):
        ownership = Ownership(epoch, 1, "journal")
        dispatcher = Dispatcher(faulty, none, none, Presence(SystemClock()), Namespace("default"), P, ownership, 0)
        dispatcher.dispatch(1, SystemClock().monotonic(), {POOL: [TASK]})
        await sent(dispatcher)
        dispatcher.again(POOL, [TASK], 1)
        await sent(dispatcher)
    assert unconfirmed == ["tasks", "tasks"]
    assert sorted(frame.epoch for frame in await received(broker)) == [1, 1, 2, 2]
