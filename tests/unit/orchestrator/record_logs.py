"""A broker's log in memory, of both kinds: calls take a random while, and what a writer gave up may still arrive."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.journal.log_journal import LogJournal
from stepmesh_orchestrator.journal.record_log import AppendUncertain, Entry, Overtaken, Tail


class Shared:
    """What lies in the log. `late`: what was given up and has not arrived yet."""

    def __init__(self) -> None:
        self.entries: dict[Partition, list[Entry]] = {}
        self.late: list[tuple[Partition, bytes, int | None]] = []

    def put(self, partition: Partition, data: bytes) -> int:
        entries = self.entries.setdefault(partition, [])
        position = entries[-1].position + 1 if entries else 1
        entries.append(Entry(position, data))
        return position

    def last(self, partition: Partition) -> int:
        entries = self.entries.get(partition, [])
        return entries[-1].position if entries else 0


class ListLog:
    """`chaos`: how likely an append is given up."""

    def __init__(self, shared: Shared, refuses: bool, dice: random.Random, chaos: float = 0.0, max_entry_bytes: int = 600) -> None:
        self.refuses = refuses
        self.cuts = refuses
        self.max_entry_bytes = max_entry_bytes
        self.chaos = chaos
        self.reads = 0
        self._shared = shared
        self._dice = dice

    async def tail(self, partition: Partition, count: int) -> Tail:
        await self._while()
        entries = self._shared.entries.get(partition, [])
        newest = entries[-count:]
        self.reads += len(newest)
        return Tail(newest, whole=len(newest) == len(entries))

    async def at(self, partition: Partition, position: int) -> Entry | None:
        await self._while()
        self.reads += 1
        return next((entry for entry in self._shared.entries.get(partition, []) if entry.position >= position), None)

    async def scan(self, partition: Partition, first: int, last: int) -> AsyncIterator[Entry]:
        await self._while()
        for entry in list(self._shared.entries.get(partition, [])):
            if first <= entry.position <= last:
                self.reads += 1
                yield entry

    async def append(self, partition: Partition, data: bytes, after: int | None) -> int:
        await self._while()
        if self._dice.random() < self.chaos:
            self._shared.late.append((partition, data, after))
            raise AppendUncertain("no answer")
        position = self.arrive(partition, data, after)
        await self._while()
        return position

    def arrive(self, partition: Partition, data: bytes, after: int | None) -> int:
        """What the broker does with an append when it comes."""
        follows = after is None or after == self._shared.last(partition)
        if self.refuses and not follows:
            raise Overtaken(None)
        position = self._shared.put(partition, data)
        if not follows:
            raise Overtaken(position)
        return position

    async def drop_before(self, partition: Partition, position: int) -> None:
        await self._while()
        entries = self._shared.entries.get(partition, [])
        entries[:] = [entry for entry in entries if entry.position >= position]

    async def cut(self, partition: Partition, first: int, last: int) -> None:
        await self._while()
        entries = self._shared.entries.get(partition, [])
        entries[:] = [entry for entry in entries if not first <= entry.position <= last]

    async def partitions(self) -> Sequence[Partition]:
        return sorted(self._shared.entries)

    async def _while(self) -> None:
        for _ in range(self._dice.randrange(4)):
            await asyncio.sleep(0)


def journal_over(frames: ListLog, snapshots: ListLog) -> LogJournal:
    """A journal of its own process, open."""
    journal = LogJournal(frames, snapshots, "memory")
    journal.identify("one journal")
    return journal
