"""Turns on their way: repeated until they are answered, unless no broker will ever take them."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from msgspec import structs
from tests.unit.durable.bodies import RUN

from stepmesh.durable.telling import OVERHEAD_BYTES, Turns
from stepmesh_broker.errors import BrokerUnavailable, MessageTooLarge
from stepmesh_broker.gateway import GatewayRefused
from stepmesh_broker.ports import Broker
from stepmesh_broker.protocol import codec
from stepmesh_broker.protocol.functions import FunctionsTurned, FunctionTurn, FunctionTurned, FunctionTurns
from stepmesh_broker.protocol.histories import Settled
from stepmesh_broker.protocol.ids import Namespace, Partition, RunId, WorkerId
from stepmesh_broker.protocol.messages import TaskRef

TURN = FunctionTurn(TaskRef(RunId(RUN), 0, 0, 1), 1, 1, 0)


class Wire:
    """Fails as told, then answers."""

    max_message_bytes = 1 << 20

    def __init__(self, *problems: Exception) -> None:
        self.problems = list(problems)
        self.sent: list[bytes] = []

    async def request(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        self.sent.append(data)
        if self.problems:
            raise self.problems.pop(0)
        return codec.encode(FunctionsTurned([FunctionTurned(at_ms=7)]))


def turns(wire: Wire) -> Turns:
    return Turns(cast(Broker, wire), Namespace("default"), WorkerId("w"))


async def test_a_turn_is_told_again_when_the_broker_was_away() -> None:
    told = turns(Wire(BrokerUnavailable("away")))
    assert (await asyncio.wait_for(told.take(Partition(0), TURN), 20)).at_ms == 7


async def test_a_turn_that_a_gateway_refuses_is_told_to_the_next_one(caplog: pytest.LogCaptureFixture) -> None:
    told = turns(Wire(GatewayRefused("a FunctionTurns is not passed on to a partition", code="SM-7301")))
    assert (await asyncio.wait_for(told.take(Partition(0), TURN), 20)).at_ms == 7
    assert "SM-7301" in caplog.text


async def test_what_the_way_carries_is_told_and_bounds_a_value() -> None:
    wire = Wire()
    told = turns(wire)
    assert told.payload_bytes == wire.max_message_bytes - OVERHEAD_BYTES
    for carried, room in ((wire.max_message_bytes - 1, wire.max_message_bytes - 1), (wire.max_message_bytes + 1, wire.max_message_bytes)):
        told.limit(carried)
        await told.take(Partition(0), TURN)
        assert told.payload_bytes == room - OVERHEAD_BYTES
        sent = codec.decode_control(wire.sent[-1])
        assert isinstance(sent, FunctionTurns)
        assert sent.answer_bytes == room


async def test_a_turn_that_no_broker_takes_is_an_error_not_a_wait() -> None:
    told = turns(Wire(*[MessageTooLarge.of(9, 8)] * 50))
    with pytest.raises(MessageTooLarge):
        await asyncio.wait_for(told.take(Partition(0), TURN), 20)


class Takes(Wire):
    """Takes messages up to its limit, as a broker does, and answers each turn."""

    def __init__(self, max_message_bytes: int = 1 << 20) -> None:
        super().__init__()
        self.max_message_bytes = max_message_bytes

    async def request(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        if len(data) > self.max_message_bytes:
            raise MessageTooLarge.of(len(data), self.max_message_bytes)
        message = codec.decode_control(data)
        assert isinstance(message, FunctionTurns)
        return codec.encode(FunctionsTurned([FunctionTurned(at_ms=7)] * len(message.turns)))


LARGE = [
    [structs.replace(TURN, continued=b"9" * 500_000)] * 4,
    [structs.replace(TURN, abandoned=[f"r/approved-by-somebody#{n}" for n in range(1_000)])] * 250,
    [structs.replace(TURN, records=[Settled("r/a", 0, b"9" * 120_000)])] * 4,
]


@pytest.mark.parametrize(("many", "room"), [(LARGE[0], 1 << 20), (LARGE[1], 1 << 20), (LARGE[2], 256 * 1024)])
async def test_turns_that_come_together_go_in_messages_that_the_broker_takes(many: list[FunctionTurn], room: int) -> None:
    told = turns(Takes(room))
    answers = await asyncio.wait_for(asyncio.gather(*(told.take(Partition(0), turn) for turn in many)), 20)
    assert [answer.at_ms for answer in answers] == [7] * len(many)


class Silent(Wire):
    """Answers nothing; counts what it is asked."""

    asked = 0

    async def request(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        self.asked += 1
        await asyncio.Event().wait()
        return b""


async def test_what_waits_is_not_told_any_more_once_it_is_closed() -> None:
    wire = Silent()
    told = turns(wire)
    takers: list[asyncio.Task[FunctionTurned]] = []
    for _ in range(3):
        takers.append(asyncio.ensure_future(told.take(Partition(0), TURN)))
        await passes()
    assert wire.asked == 2, "two messages are under way, and one turn waits"
    told.close()
    await passes()
    assert wire.asked == 2
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "stepmesh turns"]
    for taker in takers:
        taker.cancel()
    await asyncio.gather(*takers, return_exceptions=True)


async def passes() -> None:
    """Some of the loop."""
    for _ in range(20):
        await asyncio.sleep(0)
