"""The journal in JetStream, for its contract."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import nats
from nats.js.errors import ServiceUnavailableError
from tests.contract.journals.logs import LOST_END, altered, with_frame, with_snapshot

from stepmesh_broker.protocol.ids import Namespace, Partition
from stepmesh_orchestrator.journal.jetstream import JetStreamJournal
from stepmesh_orchestrator.ports import Journal


class JetStreamBackend:
    lost_end = LOST_END

    def __init__(self, url: str, namespace: str, replicas: int) -> None:
        self.durability = "replicated" if replicas == 3 else "process"
        self.survives = "the loss of a machine" if replicas == 3 else "power loss takes what the server had not flushed (its sync_interval"
        self._url = url
        self._namespace = Namespace(namespace)
        self._replicas = replicas
        self.journal: Journal = self._new()

    def _new(self) -> Journal:
        return JetStreamJournal(self._url, self._namespace, self._replicas)

    async def reopened(self) -> Journal:
        await self.journal.close()
        self.journal = self._new()
        await self.journal.open()
        return self.journal

    async def put_frame(self, partition: Partition, sequence: int, **fields: Any) -> None:
        await self._rewrite("journal", partition, lambda entries: with_frame(entries, sequence, altered(fields)))

    async def drop_frame(self, partition: Partition, sequence: int) -> None:
        await self._rewrite("journal", partition, lambda entries: with_frame(entries, sequence, lambda record: []))

    async def put_snapshot(self, partition: Partition, sequence: int, **fields: Any) -> None:
        await self._rewrite("snapshots", partition, lambda entries: with_snapshot(entries, sequence, fields))

    async def _rewrite(self, kind: str, partition: Partition, change: Callable[[list[bytes]], list[bytes]]) -> None:
        stream, subject = f"stepmesh_{self._namespace}_{kind}", f"stepmesh.{self._namespace}.{kind}.{partition}"
        client = await nats.connect(self._url.split(","))
        try:
            js = client.jetstream()
            count = ((await js.stream_info(stream, subjects_filter=subject)).state.subjects or {})[subject]
            subscription = await js.pull_subscribe(subject, stream=stream)
            found: list[bytes] = []
            while len(found) < count:
                with suppress(ServiceUnavailableError):  # the consumer's leader is being elected
                    found += [message.data for message in await subscription.fetch(count - len(found))]
            await js.purge_stream(stream, subject=subject)
            for data in change(found):
                await js.publish(subject, data)
        finally:
            await client.close()
