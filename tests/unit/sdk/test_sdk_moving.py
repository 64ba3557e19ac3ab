"""A partition that changes its owner, a journal or store whose server is away: clients ask on, within their patience."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.orchestrator.runtime.lab import run_id, virtual

from stepmesh.hedging import AGAIN_S
from stepmesh.requests import TOLD_AGAIN_S, Requests
from stepmesh_broker.errors import BrokerUnavailable, MalformedMessage
from stepmesh_broker.protocol.codec import encode
from stepmesh_broker.protocol.ids import Namespace, Partition
from stepmesh_broker.protocol.messages import Accepted, Cancel, Refused


class Moving:
    """Refuses until a moment, then accepts."""

    max_message_bytes = 1_000_000

    def __init__(self, until_s: float, code: str) -> None:
        self.code = code
        self.until_s = until_s
        self.asked = 0

    async def request(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        self.asked += 1
        if asyncio.get_running_loop().time() < self.until_s:
            return encode(Refused(self.code, "partition 0 changes its owner", "ask again"))
        return encode(Accepted(run_id()))


async def told(until_s: float, patience_s: float, code: str = "SM-5110") -> Any:
    broker: Any = Moving(until_s, code)
    return await Requests(broker, Namespace("default"), patience_s).tell(Partition(0), Cancel(run_id(), ""))


@pytest.mark.parametrize("code", ["SM-5110", "SM-4005", "SM-4103"])
@virtual
async def test_the_next_owner_is_waited_for(code: str) -> None:
    assert await told(5.0, 10.0, code) == Accepted(run_id())


@virtual
async def test_after_that_it_is_as_if_nobody_were_there() -> None:
    with pytest.raises(BrokerUnavailable, match="partition 0 changes its owner") as raised:
        await told(100.0, 10.0)
    assert raised.value.code == "SM-5110"
    assert 8.0 < asyncio.get_running_loop().time() <= 10.0


class Losing:
    """The first request gets no answer."""

    max_message_bytes = 1_000_000

    def __init__(self) -> None:
        self.asked = 0

    async def request(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        self.asked += 1
        if self.asked == 1:
            await asyncio.sleep(timeout_s)
            raise BrokerUnavailable("no answer, by the test")
        return encode(Accepted(run_id(), existing=True))


@virtual
async def test_what_was_lost_on_its_way_to_a_shard_is_told_again() -> None:
    broker: Any = Losing()
    await Requests(broker, Namespace("default")).tell(Partition(0), Cancel(run_id(), ""))
    assert asyncio.get_running_loop().time() == TOLD_AGAIN_S[0]


@virtual
async def test_a_wait_is_asked_for_again_by_who_does_not_know_how_many_answer() -> None:
    broker: Any = Losing()
    with pytest.raises(MalformedMessage):  # it is no answer to this, but it came
        await Requests(broker, Namespace("default")).get_run(run_id(), wait_s=20.0)
    assert asyncio.get_running_loop().time() == AGAIN_S[0]
