"""A feed's checkpoints hold what they say, and frames that do not follow are refused."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest
from tests.integration.projector.topics import records_of
from tests.simulation.virtual_loop import LoopTimeClock, run_virtual
from tests.unit.projector.recorded import PARTITION, flows_of, read_model, recorded

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.core.events import decode_turn
from stepmesh_orchestrator.core.flow.routing import default_router
from stepmesh_orchestrator.core.snapshot import encode_state
from stepmesh_orchestrator.core.state import State
from stepmesh_orchestrator.journal.log_records import encode
from stepmesh_orchestrator.ports import ItemRow, RunGone, RunRow, Snapshot, StoreError
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.projector import Projector
from stepmesh_orchestrator.runtime.recovery import ReplayFlows, replay
from stepmesh_orchestrator.store.memory import MemoryStore
from stepmesh_orchestrator.store.sqlite import StoreUnavailable
from stepmesh_projector.feed import Feed, Feeds, ProjectorError
from stepmesh_projector.ports import Checkpoint
from stepmesh_projector.records import RecordReader
from stepmesh_projector.windows import Place


class MemoryKeeper:
    """See `Keeper`."""

    def __init__(self) -> None:
        self.checkpoint: Checkpoint | None = None
        self.windows: dict[Place, bytes] = {}

    async def load(self, partition: Partition) -> Checkpoint | None:
        return self.checkpoint

    async def save(self, partition: Partition, checkpoint: Checkpoint, windows: Mapping[Place, bytes]) -> bool:
        if self.checkpoint is not None and self.checkpoint.sequence > checkpoint.sequence:
            return False
        self.checkpoint = checkpoint
        self.windows.update(windows)
        return True

    async def forget(self, before_ms: int) -> None:
        raise NotImplementedError


class MemoryHistory:
    """See `History`."""

    def __init__(self) -> None:
        self.last_trimmed = 0
        self.kept: list[Snapshot] = []

    async def trimmed(self, partition: Partition) -> int:
        return self.last_trimmed

    async def snapshots(self, partition: Partition) -> Sequence[Snapshot]:
        return self.kept


RECORDS = [encode(record) for record in records_of(recorded().frames, PARTITION)]


class Bench:
    """A feed over a store in memory, which may be begun again."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.keeper = MemoryKeeper()
        self.history = MemoryHistory()
        self.writing: asyncio.Task[None] | None = None

    async def begin(self) -> Feed:
        self.end()
        projector = Projector(self.store, PARTITION)
        feeds = Feeds(FlowRegistry(self.store, LoopTimeClock()), default_router(), RecordReader, self.keeper, self.history, 2_000)
        feed = await feeds.begin(PARTITION, projector, lambda place: None)
        self.writing = asyncio.ensure_future(projector.run())
        return feed

    def end(self) -> None:
        if self.writing is not None:
            self.writing.cancel()


async def test_a_feed_that_was_begun_again_after_every_record_makes_the_same_read_model() -> None:
    bench = Bench(await flows_of(recorded().store))
    sequences: list[int] = []
    for position, data in enumerate(RECORDS):
        feed = await bench.begin()
        for behind in range(feed.position + 1, position):
            await feed.take(behind, RECORDS[behind])
        await feed.take(position, data)
        cut = feed.cut()
        if cut is not None:
            assert await feed.keep(cut, bench.keeper)
            assert await bench.store.projected(PARTITION) >= cut.checkpoint.sequence
            sequences.append(cut.checkpoint.sequence)
    bench.end()
    assert sequences == list(range(1, len(recorded().frames) + 1))
    assert await read_model(bench.store) == await read_model(recorded().store)


async def test_a_record_that_comes_again_changes_nothing() -> None:
    bench = Bench(await flows_of(recorded().store))
    feed = await bench.begin()
    for position, data in enumerate(RECORDS[:20]):
        await feed.take(position, data)
        await feed.take(position, data)
        await feed.take(max(0, position - 3), RECORDS[max(0, position - 3)])
    bench.end()
    assert feed.position == 19
    assert feed.frames == feed.sequence > 5


async def test_there_is_no_checkpoint_within_a_frame() -> None:
    bench = Bench(await flows_of(recorded().store))
    feed = await bench.begin()
    within = next(index for index, data in enumerate(RECORDS) if RecordReader().take(0, data) is None and index > 0)
    for position, data in enumerate(RECORDS[: within + 1]):
        await feed.take(position, data)
    bench.end()
    assert feed.cut() is None


async def test_a_later_checkpoint_of_another_process_stays() -> None:
    bench = Bench(await flows_of(recorded().store))
    feed = await bench.begin()
    cut, position = None, 0
    while cut is None:
        await feed.take(position, RECORDS[position])
        cut, position = feed.cut(), position + 1
    bench.keeper.checkpoint = cut.checkpoint._replace(sequence=cut.checkpoint.sequence + 1)
    assert not await feed.keep(cut, bench.keeper)
    bench.end()


async def test_a_missing_frame_and_what_is_no_record_are_refused() -> None:
    bench = Bench(await flows_of(recorded().store))
    feed = await bench.begin()
    whole = [data for data in RECORDS if RecordReader().take(0, data) is not None]
    with pytest.raises(ProjectorError, match="goes on with frame") as missing:
        await feed.take(0, whole[5])
    assert missing.value.code == "SM-4210"
    with pytest.raises(ProjectorError, match="offset 7 of partition 0") as unreadable:
        await (await bench.begin()).take(7, b"something else")
    assert unreadable.value.code == "SM-4211"
    bench.end()


async def test_a_checkpoint_that_cannot_be_read_is_told() -> None:
    bench = Bench(await flows_of(recorded().store))
    for useless in (Checkpoint(3, 3, RECORDS[0], b"\xc1"), Checkpoint(3, 3, b"\xc1", b"")):
        bench.keeper.checkpoint = useless
        with pytest.raises(ProjectorError) as told:
            await bench.begin()
        assert told.value.code == "SM-4212"


async def snapshots_of(sequences: Sequence[int]) -> list[Snapshot]:
    """Newest first, as the owner of the partition would have kept them."""
    state, found = State(PARTITION), list[Snapshot]()
    flows = ReplayFlows(FlowRegistry(recorded().store, LoopTimeClock()))
    for frame in recorded().frames:
        await replay(state, frame.sequence, decode_turn(frame.payload), flows, [])
        if frame.sequence in sequences:
            found.insert(0, Snapshot(frame.sequence, encode_state(state)))
    state.release()
    return found


async def trimmed_bench(snapshots: Sequence[int], stored: int, trimmed: int) -> tuple[Bench, list[tuple[int, bytes]]]:
    """A journal without its first frames, its last records, and the read model up to frame `stored`."""
    bench = Bench(await flows_of(recorded().store))
    feed = await bench.begin()
    reader, first = RecordReader(), 0
    for position, data in enumerate(RECORDS):
        frame = reader.take(position, data)
        first = position + 1 if frame is not None and frame.sequence == trimmed else first
        if feed.sequence < stored:
            await feed.take(position, data)
    await feed.projector.reached(stored)
    bench.history.last_trimmed, bench.history.kept = trimmed, await snapshots_of(snapshots)
    return bench, list(enumerate(RECORDS))[first:]


@pytest.mark.parametrize("snapshots", [(14, 20, 30), (20,), (12, 25)])
async def test_where_the_first_frames_are_gone_it_begins_after_a_snapshot_whose_rows_are_stored(snapshots: tuple[int, ...]) -> None:
    bench, records = await trimmed_bench(snapshots, stored=20, trimmed=12)
    feed = await bench.begin()
    assert feed.sequence == min(snapshots)
    for position, data in records:
        await feed.take(position, data)
    await feed.projector.reached(len(recorded().frames))
    bench.end()
    assert feed.frames == len(recorded().frames) - min(snapshots)
    assert await read_model(bench.store) == await read_model(recorded().store)


async def test_a_checkpoint_that_is_older_than_what_is_left_is_of_no_use() -> None:
    bench, _ = await trimmed_bench((14,), stored=20, trimmed=12)
    bench.keeper.checkpoint = Checkpoint(11, 11, RECORDS[0], b"\xc1")
    assert (await bench.begin()).sequence == 14
    bench.keeper.checkpoint = Checkpoint(12, 12, RECORDS[0], b"\xc1")
    with pytest.raises(ProjectorError) as read:
        await bench.begin()
    assert read.value.code == "SM-4212"
    bench.end()


async def test_it_does_not_begin_after_a_snapshot_whose_rows_may_be_missing() -> None:
    bench, _ = await trimmed_bench((21, 30), stored=20, trimmed=12)
    with pytest.raises(ProjectorError, match="stored up to frame 20") as told:
        await bench.begin()
    assert told.value.code == "SM-4210"
    bench.end()


async def test_a_snapshot_that_cannot_be_read_is_passed_over() -> None:
    bench, _ = await trimmed_bench((16,), stored=20, trimmed=12)
    bench.history.kept.append(Snapshot(14, b"\xc1"))
    assert (await bench.begin()).sequence == 16
    bench.end()


class AwayStore(MemoryStore):
    """Not to be written while `is_away`."""

    is_away = False

    async def project(
        self, partition: Partition, sequence: int, runs: Sequence[RunRow], items: Sequence[ItemRow], gone: Sequence[RunGone] = ()
    ) -> None:
        if self.is_away:
            raise StoreUnavailable("it is away")
        await super().project(partition, sequence, runs, items, gone)


def test_a_checkpoint_does_not_wait_for_a_store_that_is_away_and_is_kept_when_it_is_back() -> None:
    async def work() -> None:
        store = AwayStore()
        store._flows = dict(recorded().store._flows)
        bench = Bench(store)
        feed = await bench.begin()
        store.is_away = True
        cut, position = None, 0
        while cut is None:
            await feed.take(position, RECORDS[position])
            cut, position = feed.cut(), position + 1
        with pytest.raises(StoreError, match="are stored up to frame 0") as told:
            await feed.keep(cut, bench.keeper)
        assert told.value.retryable
        assert bench.keeper.checkpoint is None
        store.is_away = False
        await asyncio.sleep(1)
        assert await feed.keep(cut, bench.keeper)
        bench.end()

    run_virtual(work())
