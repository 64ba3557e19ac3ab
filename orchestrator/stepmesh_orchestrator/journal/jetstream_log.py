"""A JetStream stream as a journal's log: one subject per partition, each append names the sequence that it follows.

The stream's leader compares that with the subject's last sequence, so what a stale owner sends is refused, and what was sent twice over a
lost connection is stored once. Must not know what records hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from stepmesh_broker.nats.records import Message, NotNext, Refused, StreamRecords
from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.journal.record_log import AppendUncertain, Entry, Overtaken, Tail
from stepmesh_orchestrator.journal.rules import JournalUnavailable
from stepmesh_orchestrator.ports import JournalError, JournalFull

HEADER_ROOM = 1024
"""Bytes of the server's `max_payload` kept free for headers, which it counts in."""
_BATCH = (512, 4 << 20)
_LAGS_S = 10.0
"""How long a replica that is behind is waited for."""
_PAUSE_S = 0.02
_NO_SPACE = frozenset({10023, 10028, 10047, 10077})  # resources, memory, storage, or the stream's own limit


class JetStreamLog:
    """The stream `stream`, whose subjects are `subjects` and a partition."""

    refuses = True
    cuts = True

    def __init__(self, records: StreamRecords, stream: str, subjects: str, where: str) -> None:
        self._records = records
        self._stream = stream
        self._subjects = subjects
        self._where = where

    @property
    def max_entry_bytes(self) -> int:
        """See the protocol."""
        return self._records.max_message_bytes - HEADER_ROOM

    async def tail(self, partition: Partition, count: int) -> Tail:
        """See the protocol."""
        try:
            newest = await self._records.last(self._stream, self._subject(partition))
        except (TimeoutError, Refused) as problem:
            raise self._unavailable(problem) from problem
        if newest is None:
            return Tail([], whole=True)
        first = max(1, newest.sequence - count + 1)  # of the whole stream: the other partitions' lie between
        entries = [entry async for entry in self.scan(partition, first, newest.sequence - 1)] if count > 1 else []
        return Tail([*entries, Entry(newest.sequence, newest.data)], whole=first == 1)

    async def at(self, partition: Partition, position: int) -> Entry | None:
        """See the protocol."""
        try:
            found = await self._records.at(self._stream, self._subject(partition), position)
        except (TimeoutError, Refused) as problem:
            raise self._unavailable(problem) from problem
        return Entry(found.sequence, found.data) if found else None

    async def scan(self, partition: Partition, first: int, last: int) -> AsyncIterator[Entry]:
        """See the protocol."""
        while first <= last:
            batch = await self._batch(partition, first, last)
            for message in batch:
                if message.sequence > last:
                    return
                yield Entry(message.sequence, message.data)
            if not batch:
                return
            first = batch[-1].sequence + 1

    async def append(self, partition: Partition, data: bytes, after: int | None) -> int:
        """See the protocol."""
        try:
            return await self._records.publish(self._subject(partition), data, after)
        except NotNext:
            raise Overtaken(None) from None
        except TimeoutError as problem:
            raise AppendUncertain(
                f"the journal in {self._where} did not answer: partition {partition}", hint="is nats-server up, and most of its cluster?"
            ) from problem
        except Refused as refused:
            kind = JournalFull if refused.err_code in _NO_SPACE else JournalError
            raise kind(f"the journal in {self._where} took no record of partition {partition}: {refused}") from refused

    async def drop_before(self, partition: Partition, position: int) -> None:
        """See the protocol."""
        try:
            await self._records.purge(self._stream, self._subject(partition), position)
        except (TimeoutError, Refused) as problem:
            raise self._unavailable(problem) from problem

    async def cut(self, partition: Partition, first: int, last: int) -> None:
        """See the protocol."""
        positions = [entry.position async for entry in self.scan(partition, first, last)]
        try:
            for position in reversed(positions):
                await self._records.delete(self._stream, position)
        except (TimeoutError, Refused) as problem:
            raise self._unavailable(problem) from problem

    async def partitions(self) -> Sequence[Partition]:
        """See the protocol."""
        try:
            subjects = await self._records.subjects(self._stream, f"{self._subjects}.*")
        except (TimeoutError, Refused) as problem:
            raise self._unavailable(problem) from problem
        return sorted(Partition(int(subject.rpartition(".")[2])) for subject in subjects)

    async def _batch(self, partition: Partition, first: int, last: int) -> list[Message]:
        """Empty only when the leader, too, has nothing there."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _LAGS_S
        while True:
            try:
                batch = await self._records.batch(self._stream, self._subject(partition), first, _BATCH)
            except TimeoutError as problem:
                if loop.time() > deadline:
                    raise self._unavailable(problem) from problem
                continue
            if batch:
                return batch
            there = await self.at(partition, first)
            if there is None or there.position > last or loop.time() > deadline:
                return []
            await asyncio.sleep(_PAUSE_S)

    def _subject(self, partition: Partition) -> str:
        return f"{self._subjects}.{partition}"

    def _unavailable(self, problem: Exception) -> JournalUnavailable:
        return JournalUnavailable(f"the journal in {self._where} does not answer: {problem}", hint="is nats-server up?")
