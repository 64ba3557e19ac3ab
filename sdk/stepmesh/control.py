"""Claims and heartbeats: what the shard of a partition says of tasks that somebody holds, or wants to.

Invariant: silence is no verdict. A shard that is away, moves or answers nonsense gives None, and nothing follows from that.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from stepmesh_broker.errors import BrokerUnavailable, MalformedMessage
from stepmesh_broker.ports import Requester
from stepmesh_broker.protocol import codec, subjects
from stepmesh_broker.protocol.ids import Namespace, Partition, WorkerId
from stepmesh_broker.protocol.messages import Claim, Claimed, Heartbeat, Progress, Refused, TaskRef

log = logging.getLogger("stepmesh.worker")


class Control:
    """Asks shards over one connection. `timeout_s`: how long an answer is waited for."""

    def __init__(self, broker: Requester, namespace: Namespace, timeout_s: float) -> None:
        self._broker = broker
        self._namespace = namespace
        self._timeout_s = timeout_s

    async def claim(self, partition: Partition, worker: WorkerId, tasks: Sequence[TaskRef], *, running: bool = False) -> Claimed | None:
        """May `worker` run these, or (`running`) go on with them? A verdict per task; None without an answer."""
        return await self._ask(partition, Claim(worker, [*tasks], running), len(tasks))

    async def beat(self, partition: Partition, worker: WorkerId, tasks: Sequence[Progress]) -> Claimed | None:
        """`worker` runs these. A verdict per task; None without an answer."""
        return await self._ask(partition, Heartbeat(worker, [*tasks]), len(tasks))

    async def _ask(self, partition: Partition, message: Claim | Heartbeat, count: int) -> Claimed | None:
        try:
            data = await self._broker.request(subjects.control(self._namespace, partition), codec.encode(message), self._timeout_s)
            answer = codec.decode_answer(data)
        except BrokerUnavailable:
            return None
        except MalformedMessage as problem:
            log.error("partition %d answered a claim with nonsense: %s", partition, problem)
            return None
        if isinstance(answer, Claimed) and len(answer.verdicts) == count:
            return answer
        level = logging.INFO if isinstance(answer, Refused) else logging.ERROR  # it is being handed over
        log.log(level, "partition %d answered a %s with %s", partition, type(message).__name__, answer)
        return None
