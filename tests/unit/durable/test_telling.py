"""Turns on their way: repeated until they are answered, unless no broker will ever take them."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from tests.unit.durable.bodies import RUN

from stepmesh.durable.telling import Turns
from stepmesh_broker.errors import BrokerUnavailable, MessageTooLarge
from stepmesh_broker.ports import Broker
from stepmesh_broker.protocol import codec
from stepmesh_broker.protocol.functions import FunctionsTurned, FunctionTurn, FunctionTurned
from stepmesh_broker.protocol.ids import Namespace, Partition, RunId, WorkerId
from stepmesh_broker.protocol.messages import TaskRef

TURN = FunctionTurn(TaskRef(RunId(RUN), 0, 0, 1), 1, 1, 0)


class Wire:
    """Fails as told, then answers."""

    max_message_bytes = 1 << 20

    def __init__(self, *problems: Exception) -> None:
        self.problems = list(problems)

    async def request(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        if self.problems:
            raise self.problems.pop(0)
        return codec.encode(FunctionsTurned([FunctionTurned(at_ms=7)]))


def turns(wire: Wire) -> Turns:
    return Turns(cast(Broker, wire), Namespace("default"), WorkerId("w"))


async def test_a_turn_is_told_again_when_the_broker_was_away() -> None:
    told = turns(Wire(BrokerUnavailable("away")))
    assert (await asyncio.wait_for(told.take(Partition(0), TURN), 20)).at_ms == 7


async def test_a_turn_that_no_broker_takes_is_an_error_not_a_wait() -> None:
    told = turns(Wire(*[MessageTooLarge.of(9, 8)] * 50))
    with pytest.raises(MessageTooLarge):
        await asyncio.wait_for(told.take(Partition(0), TURN), 20)
