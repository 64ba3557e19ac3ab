"""Questions to whoever owns a partition now: this process, or another one over the broker.

Invariant: every question may be asked twice without harm, so one that finds nobody, because a partition is between two owners, is
asked again for a while. What comes of it is an answer, `PartitionMoving` otherwise. It must not know what is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from stepmesh_broker.errors import BrokerUnavailable, StepmeshError
from stepmesh_broker.ports import Broker
from stepmesh_broker.protocol import subjects
from stepmesh_broker.protocol.api import ApiAnswer, ApiRequest
from stepmesh_broker.protocol.codec import decode_api_answer, decode_peer_answer, encode
from stepmesh_broker.protocol.ids import Namespace, Partition
from stepmesh_broker.protocol.messages import Refused
from stepmesh_broker.protocol.peers import CountTasks, FindFlow, PeerAnswer, Refresh, Settle, TellSchedules

_A = TypeVar("_A", bound=PeerAnswer)
_T = TypeVar("_T")
Question = Settle | Refresh | CountTasks | FindFlow | TellSchedules
PATIENCE_S = 6.0
"""How long a partition may be without an owner before a question is given up; below what clients wait for an answer."""
ANSWER_S = 8.0
"""How long an owner may think, beside the wait that it is asked for."""
RETRY_S = 0.05


class PartitionMoving(StepmeshError):
    """Retryable: the partition is being handed over, or its owner died and the next one is not there yet."""

    default_code = "SM-5110"

    @classmethod
    def of(cls, partition: Partition) -> PartitionMoving:
        """Names the partition."""
        return cls(f"partition {partition} changes its owner", hint="ask again; if it stays so, look at the orchestrators' logs")


def moving(partition: Partition) -> Refused:
    """SM-5110 as an answer."""
    problem = PartitionMoving.of(partition)
    return Refused(problem.code, problem.message, problem.hint)


class Owners:
    """`here`: what this process owns, with what answers for it; nothing else is asked over the broker."""

    def __init__(
        self,
        broker: Broker,
        namespace: Namespace,
        partitions: int,
        here: Mapping[Partition, Callable[[bytes], Awaitable[bytes]]],
    ) -> None:
        self.partitions = partitions
        self._broker = broker
        self._namespace = namespace
        self._here = here

    async def pass_on(self, partition: Partition, request: ApiRequest, wait_s: float = 0.0) -> ApiAnswer:
        """A client's request, answered by the owner. `wait_s`: how long it may wait by itself. Raises `PartitionMoving`."""
        return await self._ask(partition, encode(request), ANSWER_S + wait_s, decode_api_answer)

    async def ask(self, partition: Partition, question: Question, kind: type[_A]) -> _A:
        """Raises `PartitionMoving`."""
        answer = await self._ask(partition, encode(question), ANSWER_S, decode_peer_answer)
        if isinstance(answer, kind):
            return answer
        raise PartitionMoving.of(partition)

    async def ask_all(self, question: Question, kind: type[_A]) -> list[_A]:
        """The owners of all partitions, at the same time. Raises `PartitionMoving` unless all answer."""
        return await asyncio.gather(*(self.ask(Partition(number), question, kind) for number in range(self.partitions)))

    async def _ask(self, partition: Partition, data: bytes, timeout_s: float, decode: Callable[[bytes], _T]) -> _T:
        clock = asyncio.get_running_loop().time
        until = clock() + PATIENCE_S
        while True:
            try:
                answer = decode(await self._asked(partition, data, timeout_s))
                if not (isinstance(answer, Refused) and answer.code == PartitionMoving.default_code):
                    return answer
            except BrokerUnavailable:
                pass
            if clock() + RETRY_S >= until:
                raise PartitionMoving.of(partition)
            await asyncio.sleep(RETRY_S)

    async def _asked(self, partition: Partition, data: bytes, timeout_s: float) -> bytes:
        here = self._here.get(partition)
        if here is not None:
            return await here(data)
        return await self._broker.request(subjects.owner(self._namespace, partition), data, timeout_s)
