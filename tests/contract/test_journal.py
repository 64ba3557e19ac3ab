"""The Journal port's contract, sentence by sentence, over every backend."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.contract.journals.backend import Backend
from tests.contract.journals.registry import BACKENDS

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.journal import MemoryJournal, SqliteJournal
from stepmesh_orchestrator.ports import Frame, Journal, JournalCorrupt, JournalError, Snapshot, StaleOwner

P = Partition(3)
OTHER = Partition(4)


@pytest.fixture(params=sorted(BACKENDS))
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    made = BACKENDS[request.param](request)
    await made.journal.open()
    yield made
    await made.journal.close()


@pytest.fixture
def journal(backend: Backend) -> Journal:
    return backend.journal


async def fill(journal: Journal, frames: int, partition: Partition = P) -> int:
    """Append `frames` frames as a new owner; its epoch."""
    ownership = await journal.acquire(partition, "filler")
    for sequence in range(ownership.next_sequence, ownership.next_sequence + frames):
        await journal.append(partition, ownership.epoch, sequence, b"payload %d" % sequence)
    return ownership.epoch


async def payloads(journal: Journal, partition: Partition = P, after: int = 0) -> list[bytes]:
    return [frame.payload async for frame in journal.read(partition, after)]


async def read_until_corrupt(journal: Journal, after: int = 0) -> tuple[list[int], JournalCorrupt]:
    """The sequences read before the damage, and the error."""
    seen: list[int] = []
    try:
        async for frame in journal.read(P, after):
            seen.append(frame.sequence)  # noqa: PERF401 -- what came before the error counts
    except JournalCorrupt as error:
        return seen, error
    pytest.fail(f"nothing was refused, {seen} were read")


# --- opening ---------------------------------------------------------------------------------------------


def test_durability_is_declared(backend: Backend) -> None:
    assert backend.journal.durability == backend.durability
    assert backend.survives in backend.journal.survives


async def test_a_new_journal_is_empty(journal: Journal) -> None:
    assert await journal.partitions() == []
    assert await payloads(journal) == []
    assert await journal.snapshots(P) == []


async def test_close_is_idempotent(journal: Journal) -> None:
    await journal.close()
    await journal.close()


async def test_close_lets_pending_appends_finish(backend: Backend) -> None:
    ownership = await backend.journal.acquire(P, "a")
    appends = [asyncio.create_task(backend.journal.append(P, ownership.epoch, n, b"x")) for n in range(1, 20)]
    await asyncio.sleep(0)
    await backend.journal.close()
    await asyncio.gather(*appends)
    assert len(await payloads(await backend.reopened())) == 19


async def test_what_was_appended_is_there_after_a_reopening(backend: Backend) -> None:
    await fill(backend.journal, 3)
    again = await backend.reopened()
    assert await payloads(again) == [b"payload 1", b"payload 2", b"payload 3"]
    assert list(await again.partitions()) == [P]


async def test_the_journal_id_stays(backend: Backend) -> None:
    first = await backend.journal.acquire(P, "a")
    other = await backend.journal.acquire(OTHER, "a")
    second = await (await backend.reopened()).acquire(P, "a")
    assert first.journal_id == other.journal_id == second.journal_id != ""


# --- owning ----------------------------------------------------------------------------------------------


async def test_acquire_raises_the_epoch_by_one_each_time(backend: Backend) -> None:
    assert [(await backend.journal.acquire(P, owner)).epoch for owner in "aab"] == [1, 2, 3]
    assert (await (await backend.reopened()).acquire(P, "a")).epoch == 4


async def test_acquire_tells_the_next_sequence(journal: Journal) -> None:
    assert (await journal.acquire(P, "a")).next_sequence == 1
    await fill(journal, 5)
    assert (await journal.acquire(P, "a")).next_sequence == 6


async def test_partitions_are_owned_apart(journal: Journal) -> None:
    first, _ = await journal.acquire(P, "a"), await journal.acquire(OTHER, "b")
    await journal.append(P, first.epoch, 1, b"mine")
    assert list(await journal.partitions()) == [P, OTHER]
    assert await payloads(journal, OTHER) == []


async def test_every_earlier_owner_fails_from_the_moment_of_acquiring(journal: Journal) -> None:
    first = await journal.acquire(P, "a")
    await journal.append(P, first.epoch, 1, b"one")
    second = await journal.acquire(P, "b")
    with pytest.raises(StaleOwner) as raised:
        await journal.append(P, first.epoch, 2, b"stale")
    assert raised.value.code == "SM-4001"
    assert "epoch 2" in str(raised.value)
    await journal.append(P, second.epoch, 2, b"two")
    assert await payloads(journal) == [b"one", b"two"]


async def test_nobody_appends_without_acquiring(journal: Journal) -> None:
    for epoch in (0, 1):
        with pytest.raises(StaleOwner):
            await journal.append(P, epoch, 1, b"x")
    assert await payloads(journal) == []


async def test_an_epoch_of_the_future_is_refused(journal: Journal) -> None:
    ownership = await journal.acquire(P, "a")
    with pytest.raises(StaleOwner):
        await journal.append(P, ownership.epoch + 1, 1, b"x")


# --- appending -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("expected", [0, 1, 2, 4, 100])
async def test_only_the_next_sequence_is_appended(journal: Journal, expected: int) -> None:
    epoch = await fill(journal, 2)
    with pytest.raises(StaleOwner) as raised:
        await journal.append(P, epoch, expected, b"x")
    assert "is 3, not" in str(raised.value)
    assert len(await payloads(journal)) == 2
    await journal.append(P, epoch, 3, b"next")


@pytest.mark.parametrize("size", [0, 1, 4096, 5_000_000])
async def test_payloads_of_any_size_come_back_as_they_were(journal: Journal, size: int) -> None:
    ownership = await journal.acquire(P, "a")
    payload = bytes(index % 251 for index in range(min(size, 1000))) * max(1, size // 1000)
    await journal.append(P, ownership.epoch, 1, payload)
    assert await payloads(journal) == [payload]


async def test_an_append_that_fails_takes_no_other_with_it(journal: Journal) -> None:
    """Those that wait together are written together, and still each is fenced on its own."""
    owners = [await journal.acquire(Partition(number), "a") for number in range(6)]
    await journal.acquire(Partition(2), "thief")

    async def append(number: int) -> None:
        await journal.append(Partition(number), owners[number].epoch, 1, b"frame of %d" % number)

    results = await asyncio.gather(*(append(number) for number in range(6)), return_exceptions=True)
    assert [type(result) for result in results] == [type(None)] * 2 + [StaleOwner] + [type(None)] * 3
    assert [await payloads(journal, Partition(number)) for number in range(6)] == [
        [] if number == 2 else [b"frame of %d" % number] for number in range(6)
    ]


async def test_appends_handed_over_in_order_are_kept_in_order(journal: Journal) -> None:
    ownership = await journal.acquire(P, "a")
    await asyncio.gather(*(journal.append(P, ownership.epoch, n, b"%d" % n) for n in range(1, 201)))
    assert await payloads(journal) == [b"%d" % n for n in range(1, 201)]


async def test_a_cancelled_appender_leaves_the_journal_usable(journal: Journal) -> None:
    ownership = await journal.acquire(P, "a")
    append = asyncio.create_task(journal.append(P, ownership.epoch, 1, b"x"))
    await asyncio.sleep(0)
    append.cancel()
    await asyncio.gather(append, return_exceptions=True)
    successor = await journal.acquire(P, "b")
    assert successor.next_sequence == 1 + len(await payloads(journal))
    await journal.append(P, successor.epoch, successor.next_sequence, b"goes on")


# --- reading ---------------------------------------------------------------------------------------------


async def test_frames_carry_sequence_and_the_epoch_of_their_writer(journal: Journal) -> None:
    await fill(journal, 2)
    await fill(journal, 1)
    assert [frame async for frame in journal.read(P)] == [
        Frame(1, 1, b"payload 1"),
        Frame(2, 1, b"payload 2"),
        Frame(3, 2, b"payload 3"),
    ]


@pytest.mark.parametrize("after", [0, 1, 4, 5])
async def test_reading_starts_above_a_sequence(journal: Journal, after: int) -> None:
    await fill(journal, 5)
    assert await payloads(journal, after=after) == [b"payload %d" % n for n in range(after + 1, 6)]


async def test_reading_goes_over_many_batches(journal: Journal) -> None:
    await fill(journal, 1000)
    assert [frame.sequence async for frame in journal.read(P, 100)] == list(range(101, 1001))


async def test_reading_and_appending_go_on_side_by_side(journal: Journal) -> None:
    epoch = await fill(journal, 600)
    seen: list[int] = []
    async for frame in journal.read(P):
        if frame.sequence == 1:
            await journal.append(P, epoch, 601, b"late")
        seen.append(frame.sequence)
    assert seen == list(range(1, 602))


async def test_reading_above_the_last_frame_is_damage(journal: Journal) -> None:
    await fill(journal, 2)
    seen, error = await read_until_corrupt(journal, after=3)
    assert (seen, "frame 3" in str(error)) == ([], True)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"payload": b"payloaD 3"}, "checksum"),
        ({"payload": b""}, "checksum"),
        ({"payload": "text"}, "types"),
        ({"crc": 1}, "checksum"),
        ({"chain": bytes(16)}, "hash chain"),
        ({"epoch": 0}, "epoch"),
        ({"epoch": 2}, "checksum"),
    ],
)
async def test_an_altered_frame_is_refused_and_what_precedes_it_is_read(backend: Backend, fields: dict[str, object], reason: str) -> None:
    await fill(backend.journal, 5)
    await backend.put_frame(P, 3, **fields)
    seen, error = await read_until_corrupt(backend.journal)
    assert seen == [1, 2]
    assert error.code == "SM-4002"
    assert "partition 3, frame 3" in str(error)
    assert reason in str(error)
    assert ("or a backup" if "://" in str(error) else "stepmesh journal verify --data") in str(error)


@pytest.mark.parametrize("sequence", [1, 3, 5])
async def test_a_missing_frame_is_refused(backend: Backend, sequence: int) -> None:
    await fill(backend.journal, 5)
    await backend.drop_frame(P, sequence)
    if sequence == 5 and backend.lost_end:
        await goes_on_without_the_last_frame(backend.journal)
        return
    seen, error = await read_until_corrupt(backend.journal)
    assert seen == list(range(1, sequence))
    assert f"frame {sequence}: the frame is missing" in str(error)


async def goes_on_without_the_last_frame(journal: Journal) -> None:
    """Where the broker alone says where the log ends: what is there verifies, and the next owner follows it."""
    assert await payloads(journal) == [b"payload %d" % n for n in range(1, 5)]
    successor = await journal.acquire(P, "b")
    assert successor.next_sequence == 5
    await journal.append(P, successor.epoch, 5, b"another")
    assert (await payloads(journal))[3:] == [b"payload 4", b"another"]


async def test_two_frames_that_changed_places_are_refused(backend: Backend) -> None:
    await fill(backend.journal, 4)
    frames = [frame async for frame in backend.journal.read(P)]
    await backend.put_frame(P, 2, payload=frames[2].payload)
    await backend.put_frame(P, 3, payload=frames[1].payload)
    assert (await read_until_corrupt(backend.journal))[0] == [1]


@pytest.mark.parametrize("sequence", [4, 5])
async def test_acquire_refuses_a_damaged_last_frame(backend: Backend, sequence: int) -> None:
    """An altered frame before the last one shows in the last one's link or in the reading that follows."""
    await fill(backend.journal, 5)
    await backend.put_frame(P, 5, payload=b"altered")
    with pytest.raises(JournalCorrupt, match="frame 5"):
        await backend.journal.acquire(P, "b")
    await backend.drop_frame(P, sequence)
    if sequence == 5 and backend.lost_end:
        await goes_on_without_the_last_frame(backend.journal)
        return
    with pytest.raises(JournalCorrupt, match="frame 5"):
        await backend.journal.acquire(P, "b")


# --- snapshots -------------------------------------------------------------------------------------------


async def test_snapshots_come_newest_first_and_survive_a_reopening(backend: Backend) -> None:
    epoch = await fill(backend.journal, 4)
    for sequence in (0, 4, 2):
        await backend.journal.save_snapshot(P, epoch, Snapshot(sequence, b"state %d" % sequence))
    expected = [Snapshot(4, b"state 4"), Snapshot(2, b"state 2"), Snapshot(0, b"state 0")]
    assert list(await backend.journal.snapshots(P)) == expected
    assert list(await (await backend.reopened()).snapshots(P)) == expected


async def test_the_newest_three_snapshots_stay(journal: Journal) -> None:
    epoch = await fill(journal, 5)
    for sequence in range(1, 6):
        await journal.save_snapshot(P, epoch, Snapshot(sequence, b"state"))
    assert [snapshot.sequence for snapshot in await journal.snapshots(P)] == [5, 4, 3]


async def test_a_snapshot_saved_again_replaces_itself(journal: Journal) -> None:
    epoch = await fill(journal, 1)
    await journal.save_snapshot(P, epoch, Snapshot(1, b"old"))
    await journal.save_snapshot(P, epoch, Snapshot(1, b"new"))
    assert list(await journal.snapshots(P)) == [Snapshot(1, b"new")]


async def test_a_stale_owner_saves_no_snapshot(journal: Journal) -> None:
    epoch = await fill(journal, 1)
    await journal.acquire(P, "b")
    with pytest.raises(StaleOwner):
        await journal.save_snapshot(P, epoch, Snapshot(1, b"state"))
    assert await journal.snapshots(P) == []


async def test_a_snapshot_ahead_of_the_frames_is_refused(journal: Journal) -> None:
    epoch = await fill(journal, 2)
    with pytest.raises(JournalError, match="no snapshot after frame 3"):
        await journal.save_snapshot(P, epoch, Snapshot(3, b"state"))


@pytest.mark.parametrize("fields", [{"payload": b"statE"}, {"crc": 7}, {"chain": bytes(16)}, {"payload": "text"}])
async def test_a_damaged_snapshot_is_left_out_and_logged(
    backend: Backend, caplog: pytest.LogCaptureFixture, fields: dict[str, object]
) -> None:
    epoch = await fill(backend.journal, 2)
    await backend.journal.save_snapshot(P, epoch, Snapshot(1, b"older"))
    await backend.journal.save_snapshot(P, epoch, Snapshot(2, b"newer"))
    await backend.put_snapshot(P, 2, **fields)
    with caplog.at_level(logging.ERROR):
        assert list(await backend.journal.snapshots(P)) == [Snapshot(1, b"older")]
    assert "snapshot after frame 2" in caplog.text


async def test_a_snapshot_of_lost_frames_is_left_out(backend: Backend) -> None:
    """Two partitions' snapshots differ in their links, so one taken from elsewhere does not fit."""
    journal = backend.journal
    for partition in (P, OTHER):
        epoch = await fill(journal, 1, partition)
        await journal.save_snapshot(partition, epoch, Snapshot(1, b"state of %d" % partition))
    await backend.put_snapshot(P, 1, payload=b"state of 4")
    assert await journal.snapshots(P) == []
    assert list(await journal.snapshots(OTHER)) == [Snapshot(1, b"state of 4")]


# --- trimming --------------------------------------------------------------------------------------------


async def with_snapshots(journal: Journal, frames: int, *sequences: int) -> int:
    epoch = await fill(journal, frames)
    for sequence in sequences:
        await journal.save_snapshot(P, epoch, Snapshot(sequence, b"state %d" % sequence))
    return epoch


async def test_trimmed_frames_are_gone_and_the_rest_still_verifies(backend: Backend) -> None:
    epoch = await with_snapshots(backend.journal, 6, 3, 5)
    await backend.journal.trim(P, 3)
    for reopen in (False, True):
        journal = await backend.reopened() if reopen else backend.journal
        assert await payloads(journal, after=3) == [b"payload 4", b"payload 5", b"payload 6"]
        assert await payloads(journal, after=5) == [b"payload 6"]
        assert [snapshot.sequence for snapshot in await journal.snapshots(P)] == [5, 3]
    await backend.journal.append(P, epoch, 7, b"goes on")
    await backend.put_frame(P, 4, payload=b"altered")
    assert (await read_until_corrupt(backend.journal, after=3))[0] == []


@pytest.mark.parametrize("after", [0, 2])
async def test_reading_below_what_was_trimmed_says_so(journal: Journal, after: int) -> None:
    await with_snapshots(journal, 6, 3)
    await journal.trim(P, 3)
    with pytest.raises(JournalError, match="trimmed through frame 3") as raised:
        await payloads(journal, after=after)
    assert raised.value.code == "SM-4004"


async def test_trimming_stops_at_the_oldest_kept_snapshot(journal: Journal) -> None:
    await with_snapshots(journal, 6, 3, 5)
    with pytest.raises(JournalError, match="oldest snapshot after frame 3"):
        await journal.trim(P, 4)
    assert len(await payloads(journal)) == 6
    await journal.trim(P, 3)


async def test_without_a_snapshot_nothing_is_trimmed(journal: Journal) -> None:
    await fill(journal, 2)
    with pytest.raises(JournalError, match="no snapshot"):
        await journal.trim(P, 1)
    await journal.trim(P, 0)
    assert len(await payloads(journal)) == 2


async def test_trimming_again_changes_nothing(journal: Journal) -> None:
    await with_snapshots(journal, 4, 3)
    await journal.trim(P, 3)
    await journal.trim(P, 3)
    await journal.trim(P, 1)
    assert await payloads(journal, after=3) == [b"payload 4"]


async def test_a_journal_trimmed_to_its_end_goes_on_where_it_stood(backend: Backend) -> None:
    await with_snapshots(backend.journal, 4, 4)
    await backend.journal.trim(P, 4)
    journal = await backend.reopened()
    assert await payloads(journal, after=4) == []
    successor = await journal.acquire(P, "b")
    assert successor.next_sequence == 5
    await journal.append(P, successor.epoch, 5, b"five")
    assert [frame.sequence async for frame in journal.read(P, 4)] == [5]


async def test_no_snapshot_below_what_was_trimmed(journal: Journal) -> None:
    epoch = await with_snapshots(journal, 4, 3)
    await journal.trim(P, 3)
    with pytest.raises(JournalError, match="no snapshot after frame 2"):
        await journal.save_snapshot(P, epoch, Snapshot(2, b"state"))


# --- two that share one journal --------------------------------------------------------------------------


async def test_two_openings_of_one_file_fence_each_other(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    first, second = SqliteJournal(path), SqliteJournal(path)
    await first.open()
    await second.open()
    old = await first.acquire(P, "first")
    await first.append(P, old.epoch, 1, b"one")
    new = await second.acquire(P, "second")
    assert new == old._replace(epoch=2, next_sequence=2)
    with pytest.raises(StaleOwner):
        await first.append(P, old.epoch, 2, b"stale")
    await second.append(P, new.epoch, 2, b"two")
    assert await payloads(first) == [b"one", b"two"]
    await first.close()
    await second.close()


async def test_hooks_see_each_append_and_may_crash_it() -> None:
    seen: list[tuple[str, int]] = []

    def crash(moment: str, at: int) -> Callable[[Partition, int], None]:
        def hook(partition: Partition, sequence: int) -> None:
            seen.append((moment, sequence))
            if sequence == at:
                raise RuntimeError(moment)

        return hook

    journal = MemoryJournal(before_append=crash("before", 2), after_append=crash("after", 3))
    epoch = (await journal.acquire(P, "a")).epoch
    await journal.append(P, epoch, 1, b"one")
    with pytest.raises(RuntimeError, match="before"):
        await journal.append(P, epoch, 2, b"lost")
    assert await payloads(journal) == [b"one"]
    with pytest.raises(RuntimeError, match="before"):
        await journal.append(P, epoch, 2, b"lost again")
    assert seen == [("before", 1), ("after", 1), ("before", 2), ("before", 2)]


async def test_a_frame_survives_a_crash_after_it_was_appended() -> None:
    def crash(partition: Partition, sequence: int) -> None:
        raise RuntimeError("crash")

    journal = MemoryJournal(after_append=crash)
    epoch = (await journal.acquire(P, "a")).epoch
    with pytest.raises(RuntimeError, match="crash"):
        await journal.append(P, epoch, 1, b"kept")
    assert await payloads(journal) == [b"kept"]
    assert (await journal.acquire(P, "b")).next_sequence == 2
