"""A shard's hold on its journal: frames one after the other, snapshots beside them, and patience with a full disk.

Invariant: `append` returns only when the frame is durable. No space is the one failure that is waited out, because a full disk is known to
have kept nothing of the frame; after any other failure this owner must end. It must not know what frames hold.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from stepmesh_broker.protocol.ids import Partition
from stepmesh_broker.protocol.messages import Refused
from stepmesh_orchestrator.ports import Clock, Journal, JournalFull, Ownership, Snapshot

log = logging.getLogger("stepmesh.journal")
KEPT_SNAPSHOTS = 3
"""As the Journal port promises; older frames than the oldest of them are for reading only."""
RETRY_S = (0.1, 1.0)
"""Pause before an append that found no space is tried again: first, and largest (seconds); it doubles between."""


class FrameWriter:
    """`sequence`: of the last durable frame; `asked`: when the journal was given it (monotonic, seconds). `full`: why nothing can be
    appended now, None when it can."""

    def __init__(self, journal: Journal, clock: Clock, partition: Partition, ownership: Ownership, on_full: Callable[[], None]) -> None:
        self._journal = journal
        self._clock = clock
        self._partition = partition
        self._epoch = ownership.epoch
        self._on_full = on_full
        self._given_up = False
        self._needed: deque[tuple[int, int]] = deque(maxlen=KEPT_SNAPSHOTS)  # of snapshots: the last frame, and up to which none is needed
        self._marks: deque[tuple[int, int]] = deque()  # when (ms) which frame was the last
        self.sequence = ownership.next_sequence - 1
        self.asked = clock.monotonic()
        self.full: JournalFull | None = None

    def give_up(self) -> None:
        """Wait for space no more: an append that finds none raises."""
        self._given_up = True

    async def append(self, payload: bytes) -> float:
        """Make the next frame durable, however long the disk is full; returns the seconds that it took. Raises `JournalError`."""
        self.asked = self._clock.monotonic()
        delay, largest = RETRY_S
        while not await self._tried(payload):
            await self._clock.sleep(delay)
            delay = min(2 * delay, largest)
        self.sequence += 1
        if self.full is not None:
            log.warning("partition %d: there is space again, the journal goes on", self._partition)
            self.full = None
        return self._clock.monotonic() - self.asked

    async def snapshot(
        self, payload: bytes, confirmed: int, retain_ms: int, first_image: int | None = None, released: int | None = None
    ) -> int:
        """Keep the state after the last frame; forget frames that are older than `retain_ms` and that no kept snapshot needs (a recovery
        from it reads the frames after the `confirmed` one) and no dormant run: the oldest frame of those is `first_image`. None goes above
        `released`, if that is given. Returns up to which frame all could go but for the dormant runs.

        Without space there is no snapshot, and a recovery reads more frames. Raises `JournalError`.
        """
        try:
            await self._journal.save_snapshot(self._partition, self._epoch, Snapshot(self.sequence, payload))
            through = self._forgettable(self._clock.now_ms(), confirmed, retain_ms)
            through = through if released is None else min(through, released)
            kept_from = through + 1 if first_image is None else min(first_image, through + 1)
            if kept_from > 1:
                await self._journal.trim(self._partition, kept_from - 1)
        except JournalFull as problem:
            log.warning("partition %d: no snapshot after frame %d: %s", self._partition, self.sequence, problem)
            return 0
        return through

    def _forgettable(self, now_ms: int, confirmed: int, retain_ms: int) -> int:
        """Only what this owner saw age is forgotten, so a restart keeps more rather than less."""
        if self._needed and self._needed[-1][0] == self.sequence:
            self._needed.pop()  # saved again, it is one snapshot still
        self._needed.append((self.sequence, min(self.sequence, confirmed)))
        self._marks.append((now_ms, self.sequence))
        through = 0
        while len(self._needed) == KEPT_SNAPSHOTS and self._marks and self._marks[0][0] <= now_ms - retain_ms:
            through = min(self._marks.popleft()[1], self._needed[0][1])
        return through

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
