"""The Membership port over NATS JetStream: one subject of one stream, whose leader's clock stamps every record.

The stream has as many replicas as the journal's, so that both go on when a server dies. Must not know what records hold.
"""

from __future__ import annotations

import asyncio
from datetime import datetime

from nats.js.api import RetentionPolicy, StorageType, StreamConfig

from stepmesh_broker.errors import BrokerError
from stepmesh_broker.nats.connection import Connection
from stepmesh_broker.nats.records import Refused, StreamRecords
from stepmesh_broker.nats.settings import NatsSettings
from stepmesh_broker.protocol.ids import Namespace
from stepmesh_broker.protocol.subjects import checked_name
from stepmesh_orchestrator.membership.lease_log import Told
from stepmesh_orchestrator.membership.log_membership import LogMembership
from stepmesh_orchestrator.ports import MembershipError

_PATIENCE_S = 5.0
_PAUSE_S = 0.01
_BATCH = (1024, 1 << 20)


class JetStreamMembership(LogMembership):
    """That of `namespace` at `url` (several, with commas between). `replicas`: None is as many as the journal has."""

    def __init__(self, url: str, namespace: Namespace, replicas: int | None = None) -> None:
        checked_name("namespace", namespace)
        settings = NatsSettings.parse(url, namespace)
        super().__init__(_StreamLog(settings, replicas or settings.replicas))


class _StreamLog:
    def __init__(self, settings: NatsSettings, replicas: int | None) -> None:
        self._settings = settings
        self._replicas = replicas
        self._stream = f"stepmesh_{settings.namespace}_members"
        self._subject = f"stepmesh.{settings.namespace}.members"
        self._connection: Connection | None = None
        self._records: StreamRecords | None = None

    async def open(self) -> None:
        """See the protocol."""
        connection = Connection(self._settings)
        try:
            await connection.connect()
            self._connection, self._records = connection, StreamRecords(connection, _PATIENCE_S)
            await self._ensure(self._records)
        except (BrokerError, TimeoutError, Refused) as problem:
            await self.close()
            raise _failed(problem) from problem

    async def close(self) -> None:
        """See the protocol."""
        connection, self._connection, self._records = self._connection, None, None
        if connection is not None:
            await connection.close()

    async def append(self, data: bytes) -> int:
        """See the protocol."""
        try:
            return await self._opened().publish(self._subject, data, None)
        except (TimeoutError, Refused) as problem:
            raise _failed(problem) from problem

    async def read(self, first: int, last: int) -> list[Told]:
        """See the protocol."""
        records = self._opened()
        told: list[Told] = []
        deadline = asyncio.get_running_loop().time() + _PATIENCE_S
        while first <= last:
            try:
                batch = await records.batch(self._stream, self._subject, first, _BATCH)
            except TimeoutError as problem:
                raise _failed(problem) from problem
            told += [Told(found.sequence, _seconds(found.time), found.data) for found in batch if found.sequence <= last]
            first = batch[-1].sequence + 1 if batch else first
            if not batch:  # this replica is behind
                if asyncio.get_running_loop().time() > deadline:
                    raise _failed(TimeoutError("a replica stays behind"))
                await asyncio.sleep(_PAUSE_S)
        return told

    async def drop_before(self, position: int) -> None:
        """See the protocol."""
        try:
            await self._opened().purge(self._stream, self._subject, position)
        except (TimeoutError, Refused) as problem:
            raise _failed(problem) from problem

    async def _ensure(self, records: StreamRecords) -> None:
        journal = await records.find(f"stepmesh_{self._settings.namespace}_journal")
        replicas = self._replicas or ((journal.config.num_replicas or 1) if journal else 1)
        config = StreamConfig(
            name=self._stream,
            subjects=[self._subject],
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            num_replicas=replicas,
            allow_direct=True,
        )
        await records.ensure(config)

    def _opened(self) -> StreamRecords:
        if self._records is None:
            raise MembershipError("the membership is not open", hint="open it first")
        return self._records


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


def _failed(problem: Exception) -> MembershipError:
    return MembershipError(f"NATS does not say who is there: {problem}", hint="is nats-server up, with JetStream?")
