"""Appends to a journal on a server: one at a time per partition, in the order of the calls; partitions do not wait for each other.

Keeps in memory where each partition stands, so that a frame is sealed and sent in one round trip; the server checks that what was
remembered still holds, and when it does not, it is asked. The invariant: what is remembered is never trusted, only tried. Must not know
any storage.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.journal.framing import StoredFrame, seal
from stepmesh_orchestrator.journal.rules import Head, check_append


class _Lane:
    def __init__(self) -> None:
        self.lock = asyncio.Lock()  # first come, first served
        self.head: Head | None = None


class Lanes:
    """`insert` adds a frame if partition, epoch, sequence and the link before (its last argument) are what the server has, and says whether
    it did; `head` asks the server where a partition stands."""

    def __init__(
        self,
        insert: Callable[[Partition, StoredFrame, bytes], Awaitable[bool]],
        head: Callable[[Partition], Awaitable[Head | None]],
    ) -> None:
        self._insert = insert
        self._head = head
        self._lanes: defaultdict[Partition, _Lane] = defaultdict(_Lane)
        self._under_way = 0
        self._drained = asyncio.Event()

    def remember(self, partition: Partition, head: Head) -> None:
        """Where the partition stands, as the server said."""
        self._lanes[partition].head = head

    def forget(self) -> None:
        """Ask the server again."""
        for lane in self._lanes.values():
            lane.head = None

    async def append(self, partition: Partition, epoch: int, expected: int, payload: bytes) -> None:
        """See the Journal port."""
        lane = self._lanes[partition]
        self._under_way += 1
        try:
            async with lane.lock:
                await self._append(lane, partition, epoch, expected, payload)
        finally:
            self._under_way -= 1
            self._drained.set()

    async def drain(self) -> None:
        """Until no append is under way."""
        while self._under_way:
            self._drained.clear()
            await self._drained.wait()

    async def _append(self, lane: _Lane, partition: Partition, epoch: int, expected: int, payload: bytes) -> None:
        head, lane.head = lane.head, None
        if head is None or (head.epoch, head.sequence + 1) != (epoch, expected):
            head = check_append(partition, await self._head(partition), epoch, expected)
        while True:
            frame = seal(partition, expected, epoch, payload, head.chain)
            if await self._insert(partition, frame, head.chain):
                break
            head = check_append(partition, await self._head(partition), epoch, expected)
        lane.head = head._replace(sequence=expected, chain=frame.chain)
