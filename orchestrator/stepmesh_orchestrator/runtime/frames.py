"""A shard's hold on its journal: frames one after the other, snapshots beside them, and patience with a full disk.

Invariant: `append` returns only when the frame is durable. No space is the one failure that is waited out, because a full disk is known to
have kept nothing of the frame; after any other failure this owner must end. It must not know what frames hold.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from stepmesh_broker.protocol.ids import Partition
from stepmesh_broker.protocol.messages import Refused
from stepmesh_orchestrator.ports import Clock, Journal, JournalFull, Ownership, Snapshot

log = logging.getLogger("stepmesh.journal")
RETRY_S = (0.1, 1.0)
"""Pause before an append that found no space is tried again: first, and largest (seconds); it doubles between."""


class FrameWriter:
    """`sequence`: of the last durable frame. `full`: why nothing can be appended now, None when it can."""

    def __init__(self, journal: Journal, clock: Clock, partition: Partition, ownership: Ownership, on_full: Callable[[], None]) -> None:
        self._journal = journal
        self._clock = clock
        self._partition = partition
        self._epoch = ownership.epoch
        self._on_full = on_full
        self._given_up = False
        self.sequence = ownership.next_sequence - 1
        self.full: JournalFull | None = None

    def give_up(self) -> None:
        """Wait for space no more: an append that finds none raises."""
        self._given_up = True

    async def append(self, payload: bytes) -> float:
        """Make the next frame durable, however long the disk is full; returns the seconds that it took. Raises `JournalError`."""
        started = self._clock.monotonic()
        delay, largest = RETRY_S
        while not await self._tried(payload):
            await self._clock.sleep(delay)
            delay = min(2 * delay, largest)
        self.sequence += 1
        if self.full is not None:
            log.warning("partition %d: there is space again, the journal goes on", self._partition)
            self.full = None
        return self._clock.monotonic() - started

    async def snapshot(self, payload: bytes) -> None:
        """Keep the state after the last frame. Without space there is none, and a recovery reads more frames. Raises `JournalError`."""
        try:
            await self._journal.save_snapshot(self._partition, self._epoch, Snapshot(self.sequence, payload))
        except JournalFull as problem:
            log.warning("partition %d: no snapshot after frame %d: %s", self._partition, self.sequence, problem)

    def refusal(self) -> Refused | None:
        """The answer to what cannot be journaled now; None when it can."""
        full = self.full
        return None if full is None else Refused(full.code, f"nothing can be accepted now: {full.message}", full.hint)

    async def _tried(self, payload: bytes) -> bool:
        try:
            await self._journal.append(self._partition, self._epoch, self.sequence + 1, payload)
        except JournalFull as problem:
            if self._given_up:
                raise
            if self.full is None:
                log.error("partition %d waits for space and accepts nothing: %s", self._partition, problem)
                self.full = problem
            self._on_full()
            return False
        return True
