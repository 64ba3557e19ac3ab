"""What a shard's journal keeps: history for as long as it was asked to, and always what a recovery needs."""

from __future__ import annotations

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.clock import VirtualClock
from stepmesh_orchestrator.journal.memory import MemoryJournal
from stepmesh_orchestrator.runtime.frames import KEPT_SNAPSHOTS, FrameWriter

P = Partition(0)
HOUR_MS = 3_600_000


class Writer:
    """A frame and a snapshot every hour."""

    def __init__(self) -> None:
        self.journal = MemoryJournal()
        self.clock = VirtualClock()
        self.frames: FrameWriter

    async def hours(self, count: int, retain_ms: int, unsent: int = 0, released: int | None = None) -> None:
        if not hasattr(self, "frames"):
            ownership = await self.journal.acquire(P, "me")
            self.frames = FrameWriter(self.journal, self.clock, P, ownership, lambda: None)
        for _ in range(count):
            await self.frames.append(b"frame")
            await self.frames.snapshot(b"state", self.frames.sequence - unsent, retain_ms, released=released)
            await self.clock.advance(3_600)

    async def first_kept(self) -> int:
        return self.journal.logs[P].head.trimmed + 1


async def test_frames_go_when_they_are_older_than_asked() -> None:
    writer = Writer()
    await writer.hours(8, retain_ms=5 * HOUR_MS)
    assert await writer.first_kept() == 4, "frames of the hours 0 to 2 are five hours old at the snapshot of hour 7"


async def test_one_hour_less_keeps_one_frame_more() -> None:
    writer = Writer()
    await writer.hours(7, retain_ms=5 * HOUR_MS)
    assert await writer.first_kept() == 3


async def test_what_a_kept_snapshot_needs_never_goes() -> None:
    writer = Writer()
    await writer.hours(8, retain_ms=0)
    assert await writer.first_kept() == 8 - KEPT_SNAPSHOTS + 2
    oldest = (await writer.journal.snapshots(P))[-1].sequence
    assert [frame.sequence async for frame in writer.journal.read(P, after=oldest)] == [7, 8]


async def test_nothing_goes_before_three_snapshots_are_there() -> None:
    writer = Writer()
    await writer.hours(KEPT_SNAPSHOTS - 1, retain_ms=0)
    assert await writer.first_kept() == 1


async def test_the_next_owner_forgets_only_what_it_saw_age() -> None:
    writer = Writer()
    await writer.hours(4, retain_ms=100 * HOUR_MS)
    del writer.frames
    await writer.hours(4, retain_ms=2 * HOUR_MS)
    assert await writer.first_kept() == 7, "its own frames 5 and 6 are two hours old; with them goes what was before"


async def test_frames_whose_effects_may_be_unsent_stay() -> None:
    writer = Writer()
    await writer.hours(8, retain_ms=0, unsent=2)
    assert await writer.first_kept() == 8 - KEPT_SNAPSHOTS + 2 - 2


async def test_frames_that_somebody_still_reads_stay_until_they_are_released() -> None:
    writer = Writer()
    await writer.hours(8, retain_ms=0, released=0)
    assert await writer.first_kept() == 1
    await writer.hours(1, retain_ms=0, released=3)
    assert await writer.first_kept() == 4
    await writer.hours(1, retain_ms=0, released=100)
    assert await writer.first_kept() == 9, "then what a snapshot needs is what stays"


async def test_a_snapshot_that_is_saved_again_is_one_snapshot() -> None:
    writer = Writer()
    await writer.hours(KEPT_SNAPSHOTS, retain_ms=0)
    assert await writer.first_kept() == 2
    await writer.frames.snapshot(b"state", writer.frames.sequence, 0)
    assert await writer.first_kept() == 2
