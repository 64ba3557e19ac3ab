"""The journal in memory, for its contract."""

from __future__ import annotations

from typing import Any

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.journal import MemoryJournal
from stepmesh_orchestrator.ports import Journal


class MemoryBackend:
    durability = "process"
    survives = "every run is lost when the process"
    lost_end = ""

    def __init__(self) -> None:
        self.memory = MemoryJournal()
        self.journal: Journal = self.memory

    async def reopened(self) -> Journal:
        await self.journal.close()
        await self.journal.open()
        return self.journal

    async def put_frame(self, partition: Partition, sequence: int, **fields: Any) -> None:
        frames = self.memory.logs[partition].frames
        index = [frame.sequence for frame in frames].index(sequence)
        frames[index] = frames[index]._replace(**fields)

    async def drop_frame(self, partition: Partition, sequence: int) -> None:
        frames = self.memory.logs[partition].frames
        del frames[[frame.sequence for frame in frames].index(sequence)]

    async def put_snapshot(self, partition: Partition, sequence: int, **fields: Any) -> None:
        snapshots = self.memory.logs[partition].snapshots
        snapshots[sequence] = snapshots[sequence]._replace(**fields)
