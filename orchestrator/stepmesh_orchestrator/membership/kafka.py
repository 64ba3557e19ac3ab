"""The Membership port over Apache Kafka: a topic of one partition, in which the broker's clock stamps every record.

Position = offset + 1. A record that was given up may still arrive: a beat too many, or a lease that runs out again. Must not know what
records hold.
"""

from __future__ import annotations

from stepmesh_broker.errors import BrokerError
from stepmesh_broker.kafka.settings import KafkaSettings
from stepmesh_broker.kafka.topic_log import NoAnswer, TopicLogs
from stepmesh_broker.protocol.ids import Namespace
from stepmesh_broker.protocol.subjects import checked_name
from stepmesh_orchestrator.membership.lease_log import Told
from stepmesh_orchestrator.membership.log_membership import LogMembership
from stepmesh_orchestrator.ports import MembershipError

_PATIENCE_S = 5.0
_BATCH_BYTES = 1 << 20
_CONFIGS = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "message.timestamp.type": "LogAppendTime",
}


class KafkaMembership(LogMembership):
    """That of `namespace` in the cluster at `url`."""

    def __init__(self, url: str, namespace: Namespace) -> None:
        checked_name("namespace", namespace)
        super().__init__(_TopicLog(KafkaSettings.parse(url, namespace)))


class _TopicLog:
    def __init__(self, settings: KafkaSettings) -> None:
        self._logs = TopicLogs(settings, _PATIENCE_S)
        self._topic = f"stepmesh.{settings.namespace}.members"
        self._open = False

    async def open(self) -> None:
        """See the protocol."""
        try:
            await self._logs.open()
            self._open = True
            await self._logs.ensure(self._topic, 1, _CONFIGS)
        except (BrokerError, NoAnswer) as problem:
            await self.close()
            raise _failed(problem) from problem

    async def close(self) -> None:
        """See the protocol."""
        self._open = False
        await self._logs.close()

    async def append(self, data: bytes) -> int:
        """See the protocol."""
        if not self._open:
            raise MembershipError("the membership is not open", hint="open it first")
        try:
            return await self._logs.append(self._topic, 0, data) + 1
        except NoAnswer as problem:
            raise _failed(problem) from problem

    async def read(self, first: int, last: int) -> list[Told]:
        """See the protocol."""
        told: list[Told] = []
        try:
            while first <= last:
                batch = await self._logs.fetch(self._topic, 0, first - 1, _BATCH_BYTES)
                told += [Told(found.offset + 1, found.time_ms / 1000, found.value) for found in batch if found.offset < last]
                if not batch:
                    raise NoAnswer(f"record {last} is not there")
                first = batch[-1].offset + 2
        except NoAnswer as problem:
            raise _failed(problem) from problem
        return told

    async def drop_before(self, position: int) -> None:
        """See the protocol."""
        try:
            await self._logs.delete_before(self._topic, 0, position - 1)
        except NoAnswer as problem:
            raise _failed(problem) from problem


def _failed(problem: Exception) -> MembershipError:
    return MembershipError(f"Kafka does not say who is there: {problem}", hint="is Kafka up?")
