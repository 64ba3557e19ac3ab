"""Rows → store, behind the shard and never in its way: at least once, in order, many turns in one transaction.

Invariant: the stored position never passes a frame whose rows are not stored. A store that has no space, or is locked, is tried again
while rows wait; one that is broken ends the partition.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, field

from stepmesh_broker.protocol.ids import Partition
from stepmesh_broker.protocol.messages import Refused
from stepmesh_orchestrator.core.rows import ItemRow, Row, RunGone, RunRow
from stepmesh_orchestrator.ports import Store, StoreError

log = logging.getLogger("stepmesh.projector")
_MAX_ROWS = 2_000
_RETRY_S = 0.5
CAUGHT_UP_S = 3.0
"""How long a snapshot waits for the rows of the frames before it, in seconds; then there is none this time."""
STALE_AFTER_S = 1.0
"""How long a reader waits for a store that cannot be written; then it reads what is there, in seconds."""


@dataclass(slots=True)
class _Page:
    """Rows that the store writes at once: what is gone last."""

    runs: dict[str, RunRow] = field(default_factory=dict[str, RunRow])
    items: list[ItemRow] = field(default_factory=list[ItemRow])
    gone: dict[str, RunGone] = field(default_factory=dict[str, RunGone])

    @property
    def size(self) -> int:
        return len(self.runs) + len(self.items)

    def add(self, row: Row) -> None:
        if isinstance(row, RunRow):
            self.runs[row.run] = row
        elif isinstance(row, RunGone):
            self.gone[row.root] = row
        else:
            self.items.append(row)


class Projector:
    """One partition's writer of the read model."""

    def __init__(self, store: Store, partition: Partition) -> None:
        self._store = store
        self._partition = partition
        self._queue: deque[tuple[int, list[Row]]] = deque()
        self._wake = asyncio.Event()
        self._moved = asyncio.Event()
        self._closed = False
        self.sequence = 0  # up to which the read model holds
        self.waiting = 0  # rows
        self._behind = False  # the store could not be written

    async def position(self) -> int:
        """The stored position, read once at start."""
        self.sequence = await self._store.projected(self._partition)
        return self.sequence

    def put(self, sequence: int, rows: list[Row]) -> None:
        """The rows of the turn `sequence`; turns without rows need not be put."""
        if rows:
            self.pass_on(sequence, rows)

    def pass_on(self, sequence: int, rows: list[Row]) -> None:
        """`put` that moves the stored position also without rows: for who follows a journal from outside, and is asked how far it is."""
        self._queue.append((sequence, rows))
        self.waiting += len(rows)
        self._wake.set()

    async def reached(self, sequence: int) -> None:
        """Until the rows of every turn up to `sequence`, which were put before, are stored; or the store cannot be written, or nobody
        writes it any more."""
        try:
            async with asyncio.timeout(STALE_AFTER_S if self._behind else None) as limit:
                while self._queue and self._queue[0][0] <= sequence and not self._closed:
                    self._moved.clear()
                    await self._moved.wait()
                    if self._behind and limit.when() is None:
                        limit.reschedule(asyncio.get_running_loop().time() + STALE_AFTER_S)
        except TimeoutError:
            log.info("a reader gets the read model as of frame %d instead of %d", self.sequence, sequence)

    async def caught_up(self, sequence: int) -> bool:
        """Whether the rows of every turn up to `sequence` are stored, in time. A recovery from a snapshot projects only what follows it."""
        try:
            await asyncio.wait_for(self.reached(sequence), CAUGHT_UP_S)
        except TimeoutError:
            pass
        if self._queue and self._queue[0][0] <= sequence:
            log.warning("no snapshot after frame %d: %d rows of the read model are not stored yet", sequence, self.waiting)
            return False
        return True

    def close(self) -> None:
        """The partition ends, and `run` with it: nobody is to wait for rows."""
        self._closed = True
        self._moved.set()

    async def released(self, sequence: int) -> int:
        """Up to which frame, `sequence` at most, nobody needs the journal for the read model any more. It is called when `caught_up`."""
        return sequence

    def refusal(self, sequence: int) -> Refused | None:
        """The answer to new runs while the read model is too far behind the frame `sequence`; None when it is not."""
        return None

    async def run(self) -> None:
        """Write for ever. Raises `StoreError` when that cannot help."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                await self._write()

    async def _write(self) -> None:
        turns, found = 0, [_Page()]
        for _, rows in self._queue:
            turns += 1
            for row in rows:
                if isinstance(row, RunRow) and row.run in found[-1].gone:
                    found.append(_Page())  # another run has the id now
                found[-1].add(row)
            if found[-1].size >= _MAX_ROWS:
                break
        sequence = self._queue[turns - 1][0]
        try:
            for page in found:
                await self._store.project(
                    self._partition,
                    sequence if page is found[-1] else self.sequence,
                    [*page.runs.values()],
                    page.items,
                    [*page.gone.values()],
                )
        except StoreError as problem:
            if not problem.retryable:
                raise
            log.error("the read model cannot be written, trying again: %s", problem)
            self._tell(behind=True)
            await asyncio.sleep(_RETRY_S)
            return
        for _ in range(turns):
            self.waiting -= len(self._queue.popleft()[1])
        self.sequence = sequence
        self._tell(behind=False)

    def _tell(self, *, behind: bool) -> None:
        self._behind = behind
        self._moved.set()
