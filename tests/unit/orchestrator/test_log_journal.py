"""A journal in a log that many owners fight for: one history, and every append that returned is in it."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from tests.unit.orchestrator.record_logs import ListLog, Shared, journal_over

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.journal import log_reading
from stepmesh_orchestrator.journal.inspect import verify
from stepmesh_orchestrator.journal.log_journal import LogJournal
from stepmesh_orchestrator.journal.record_log import AppendUncertain, Entry, Overtaken
from stepmesh_orchestrator.journal.repair import examine
from stepmesh_orchestrator.ports import JournalCorrupt, JournalError, Ownership, Snapshot, StaleOwner

P = Partition(0)
KINDS = pytest.mark.parametrize("refuses", [True, False], ids=["refusing", "keeping"])


class Fight:
    """Three owners, each a process of its own, over one log."""

    def __init__(self, seed: int, refuses: bool) -> None:
        self.dice = random.Random(seed)
        self.shared, self.shelf = Shared(), Shared()
        self.refuses = refuses
        self.returned: dict[int, bytes] = {}
        self.trimmed = 0
        self.uncertain = 0
        self.stale = 0

    def journal(self, chaos: float = 0.1) -> LogJournal:
        frames = ListLog(self.shared, self.refuses, self.dice, chaos)
        return journal_over(frames, ListLog(self.shelf, self.refuses, self.dice))

    async def own(self, name: int) -> None:
        """Take the partition and write until another one has it; again and again."""
        journal = self.journal()
        for _ in range(4):
            try:
                ownership = await journal.acquire(P, f"owner {name}")
                await self._write(journal, ownership, name)
            except StaleOwner:
                self.stale += 1
            except AppendUncertain:
                self.uncertain += 1
                self._some_arrive(ListLog(self.shared, self.refuses, self.dice))

    async def _write(self, journal: LogJournal, ownership: Ownership, name: int) -> None:
        for sequence in range(ownership.next_sequence, ownership.next_sequence + self.dice.randrange(1, 9)):
            payload = b"%d by %d of epoch %d " % (sequence, name, ownership.epoch) * self.dice.choice((1, 1, 1, 20))
            await journal.append(P, ownership.epoch, sequence, payload)
            assert sequence not in self.returned, "two owners were told that the same frame is theirs"
            self.returned[sequence] = payload
            if self.dice.random() < 0.15:
                await journal.save_snapshot(P, ownership.epoch, Snapshot(sequence, b"state %d" % sequence))
            if self.dice.random() < 0.1:
                await self._trim(journal)

    async def _trim(self, journal: LogJournal) -> None:
        kept = [snapshot.sequence for snapshot in await journal.snapshots(P)]
        if kept:
            with suppress(JournalError):  # others trim and save at the same time
                await journal.trim(P, kept[-1])

    def _some_arrive(self, log: ListLog) -> None:
        while self.shared.late and self.dice.random() < 0.7:
            with suppress(Overtaken):
                log.arrive(*self.shared.late.pop(self.dice.randrange(len(self.shared.late))))

    async def check(self) -> None:
        """The history from every place on, and the next owner."""
        journal = self.journal(chaos=0.0)
        self.trimmed = await journal.trimmed(P)
        frames = [frame async for frame in journal.read(P, self.trimmed)]
        assert [frame.sequence for frame in frames] == list(range(self.trimmed + 1, self.trimmed + 1 + len(frames)))
        found = {frame.sequence: frame.payload for frame in frames}
        assert {sequence: found.get(sequence) for sequence in self.returned if sequence > self.trimmed} == {
            sequence: payload for sequence, payload in self.returned.items() if sequence > self.trimmed
        }
        for after in range(self.trimmed, self.trimmed + len(frames) + 1):
            assert [frame.sequence async for frame in journal.read(P, after)] == list(range(after + 1, self.trimmed + len(frames) + 1))
        assert (await journal.acquire(P, "last")).next_sequence == self.trimmed + len(frames) + 1
        assert await journal.damaged_snapshots(P) == []


@KINDS
@pytest.mark.parametrize("look_back", [1, 2, 8])
async def test_owners_that_fight_leave_one_history(refuses: bool, look_back: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_reading, "LOOK_BACK", look_back)
    seen = {"stale": 0, "uncertain": 0, "returned": 0, "trimmed": 0}
    for seed in range(50):
        fight = Fight(seed, refuses)
        try:
            await asyncio.gather(*(fight.own(name) for name in range(3)))
            await fight.check()
        except BaseException as problem:
            problem.add_note(f"seed {seed}")
            raise
        for name in seen:
            value = getattr(fight, name)
            seen[name] += value if isinstance(value, int) else len(value)
    assert min(seen.values()) > 20, seen


@KINDS
async def test_a_partition_is_taken_from_an_owner_that_writes_all_the_time(refuses: bool) -> None:
    fight = Fight(1, refuses)
    old, new = fight.journal(chaos=0.0), fight.journal(chaos=0.0)
    ownership = await old.acquire(P, "old")

    async def write() -> int:
        sequence = ownership.next_sequence
        while True:
            await old.append(P, ownership.epoch, sequence, b"x")
            sequence += 1

    writing = asyncio.create_task(write())
    async with asyncio.timeout(20):
        while fight.shared.last(P) < 5:
            await asyncio.sleep(0)
        successor = await new.acquire(P, "new")
        with pytest.raises(StaleOwner):
            await writing
    await new.append(P, successor.epoch, successor.next_sequence, b"mine")
    assert [frame async for frame in new.read(P)][-1].payload == b"mine"


@KINDS
@pytest.mark.parametrize("after", [0, 1990, 2000])
async def test_no_search_reads_the_whole_log(refuses: bool, after: int) -> None:
    fight = Fight(2, refuses)
    journal = fight.journal(chaos=0.0)
    ownership = await journal.acquire(P, "first")
    for sequence in range(1, 2001):
        await journal.append(P, ownership.epoch, sequence, b"x")
    frames = ListLog(fight.shared, refuses, fight.dice)
    later = journal_over(frames, ListLog(fight.shelf, refuses, fight.dice))
    assert (await later.acquire(P, "second")).next_sequence == 2001
    assert len([frame async for frame in later.read(P, after)]) == 2000 - after
    assert frames.reads < 2000 - after + 600


@KINDS
@pytest.mark.parametrize("sequence", [1, 2, 3])
async def test_a_frame_without_its_last_part_is_cut_off(refuses: bool, sequence: int, caplog: pytest.LogCaptureFixture) -> None:
    fight = Fight(3, refuses)
    journal = fight.journal(chaos=0.0)
    ownership = await journal.acquire(P, "first")
    for number in range(1, sequence + 1):
        await journal.append(P, ownership.epoch, number, b"payload %d" % number * 30)
    fight.shared.entries[P].pop()
    successor = await fight.journal(chaos=0.0).acquire(P, "second")
    assert successor.next_sequence == sequence
    assert f"frame {sequence} was not written to its end" in caplog.text
    assert [frame.sequence async for frame in journal.read(P)] == list(range(1, sequence))


@KINDS
async def test_after_an_append_of_unknown_outcome_the_owner_goes_on_no_more(refuses: bool) -> None:
    fight = Fight(4, refuses)
    frames = ListLog(fight.shared, refuses, fight.dice)
    journal = journal_over(frames, ListLog(fight.shelf, refuses, fight.dice))
    ownership = await journal.acquire(P, "first")
    frames.chaos = 1.0
    with pytest.raises(AppendUncertain):
        await journal.append(P, ownership.epoch, 1, b"lost or not")
    frames.chaos = 0.0
    with pytest.raises(StaleOwner, match="goes on no more"):
        await journal.append(P, ownership.epoch, 1, b"again")
    frames.arrive(*fight.shared.late.pop())
    assert (await journal.acquire(P, "second")).next_sequence == 2


@KINDS
@pytest.mark.parametrize(("size", "records"), [(88, 1), (89, 2), (176, 2), (177, 3)])
async def test_a_frame_above_the_largest_record_goes_in_parts(refuses: bool, size: int, records: int) -> None:
    fight = Fight(5, refuses)
    journal = fight.journal(chaos=0.0)  # its largest entry has room for 88 bytes of payload
    ownership = await journal.acquire(P, "first")
    await journal.append(P, ownership.epoch, 1, bytes(size))
    assert fight.shared.last(P) == 1 + records
    assert [frame.payload async for frame in journal.read(P)] == [bytes(size)]


async def test_a_partition_that_others_write_to_all_the_time_is_not_trimmed_behind_their_back() -> None:
    fight = Fight(6, refuses=True)
    owner, other = fight.journal(chaos=0.0), fight.journal(chaos=0.0)
    ownership = await owner.acquire(P, "owner")
    await owner.append(P, ownership.epoch, 1, b"one")
    await owner.save_snapshot(P, ownership.epoch, Snapshot(1, b"state"))

    async def write() -> None:
        for sequence in itertools.count(2):
            await owner.append(P, ownership.epoch, sequence, b"x")

    writing = asyncio.create_task(write())
    with suppress(JournalError):  # SM-4021, or it came through
        await other.trim(P, 1)
    assert not writing.done()
    writing.cancel()
    await asyncio.wait([writing])
    assert [frame.sequence async for frame in other.read(P, 1)][:1] == [2]


@KINDS
@pytest.mark.parametrize("lost", [1, 2, 4])
async def test_a_log_that_lost_what_it_acknowledged_ends_its_owner(refuses: bool, lost: int) -> None:
    fight = Fight(7, refuses)
    journal = fight.journal(chaos=0.0)
    ownership = await journal.acquire(P, "first")
    for sequence in range(1, 4):
        await journal.append(P, ownership.epoch, sequence, b"x")
    del fight.shared.entries[P][-lost:]
    with pytest.raises(JournalError) as raised:
        await journal.append(P, ownership.epoch, 4, b"y")
    assert raised.value.code == "SM-4023"
    with pytest.raises(StaleOwner):
        await journal.append(P, ownership.epoch, 4, b"y")
    if refuses:
        assert (await journal.acquire(P, "second")).next_sequence == 4 - min(lost, 3)
    else:  # the log took what does not follow
        with pytest.raises(JournalCorrupt, match=f"frame {4 - min(lost, 3)}: the frame is missing"):
            [frame async for frame in journal.read(P)]


async def test_a_snapshots_chunk_that_was_sent_twice_counts_once() -> None:
    fight = Fight(8, refuses=True)
    journal = fight.journal(chaos=0.0)
    ownership = await journal.acquire(P, "first")
    await journal.append(P, ownership.epoch, 1, b"x")
    state = bytes(index % 251 for index in range(400))
    await journal.save_snapshot(P, ownership.epoch, Snapshot(1, state))
    chunks = [entry.data for entry in fight.shelf.entries.pop(P)]
    assert len(chunks) > 3
    for data in chunks:
        for _ in range(2):
            fight.shelf.put(P, data)
    assert list(await fight.journal(chaos=0.0).snapshots(P)) == [Snapshot(1, state)]


class Lagging(ListLog):
    """A log of which a look may end early, as when a new leader does not know yet what of its records is safe."""

    hidden = False

    async def scan(self, partition: Partition, first: int, last: int) -> AsyncIterator[Entry]:
        if not self.hidden:
            async for entry in super().scan(partition, first, last):
                yield entry


@KINDS
async def test_an_owner_that_cannot_see_what_came_in_between_believes_nothing(refuses: bool) -> None:
    """A newer owner may be there: who counted on its frame would have told a client that its run is kept."""
    shared, shelf, dice = Shared(), Shared(), random.Random(1)
    log = Lagging(shared, refuses, dice)
    first = journal_over(log, ListLog(shelf, refuses, dice))
    second = journal_over(ListLog(shared, refuses, dice), ListLog(shelf, refuses, dice))
    old = await first.acquire(P, "first")
    await first.append(P, old.epoch, 1, b"one")
    new = await second.acquire(P, "second")
    log.hidden = True
    with pytest.raises(AppendUncertain):
        await first.append(P, old.epoch, 2, b"stale")
    log.hidden = False
    with pytest.raises(StaleOwner):
        await first.append(P, old.epoch, 2, b"stale")
    await second.append(P, new.epoch, 2, b"two")
    assert [frame.payload async for frame in second.read(P)] == [b"one", b"two"]


@KINDS
async def test_an_owner_whose_successor_is_trimmed_away_is_refused(refuses: bool) -> None:
    """It stood still for long: of what another one did since, only the newest frame is left, and no owner record."""
    shared, shelf, dice = Shared(), Shared(), random.Random(1)
    first, second, third = (journal_over(ListLog(shared, refuses, dice), ListLog(shelf, refuses, dice)) for _ in range(3))
    old = await first.acquire(P, "first")
    await first.append(P, old.epoch, 1, b"one")
    new = await second.acquire(P, "second")
    for sequence in (2, 3, 4):
        await second.append(P, new.epoch, sequence, b"by the second")
    await second.save_snapshot(P, new.epoch, Snapshot(3, b"state"))
    await second.trim(P, 3)
    with pytest.raises(StaleOwner):
        await first.append(P, old.epoch, 2, b"stale")
    assert (await third.acquire(P, "third")).next_sequence == 5
    assert [frame.payload async for frame in third.read(P, 3)] == [b"by the second"]


@KINDS
async def test_a_frame_that_was_not_written_to_its_end_is_told_and_is_no_damage(refuses: bool) -> None:
    fight = Fight(3, refuses)
    journal = fight.journal(chaos=0.0)
    ownership = await journal.acquire(P, "first")
    await journal.append(P, ownership.epoch, 1, b"whole")
    await journal.append(P, ownership.epoch, 2, b"in parts " * 200)
    fight.shared.entries[P].pop()
    report = await verify(fight.journal(chaos=0.0), P)
    assert (report.good, report.torn, report.frames) == (True, True, 1)
    await fight.journal(chaos=0.0).acquire(P, "second")
    assert not (await verify(fight.journal(chaos=0.0), P)).torn


class Away(ListLog):
    """Does no more than so many changes, as when the tool is killed."""

    changes = 0

    async def append(self, partition: Partition, data: bytes, after: int | None) -> int:
        self._change()
        return await super().append(partition, data, after)

    async def cut(self, partition: Partition, first: int, last: int) -> None:
        for position in range(last, first - 1, -1):
            self._change()
            await super().cut(partition, position, position)

    async def drop_before(self, partition: Partition, position: int) -> None:
        self._change()
        await super().drop_before(partition, position)

    def _change(self) -> None:
        if not self.changes:
            raise ConnectionResetError
        self.changes -= 1


@pytest.mark.parametrize(("snapshot", "kept"), [(3, [1, 2, 3, 4, 5]), (8, [9, 10])])
@pytest.mark.parametrize("changes", range(9))
async def test_a_repair_that_is_broken_off_is_done_again(snapshot: int, kept: list[int], changes: int) -> None:
    """At each moment the journal is damaged or good, never something else; the second repair ends like the first would have."""
    fight = Fight(4, True)
    journal = fight.journal(chaos=0.0)
    epoch = (await journal.acquire(P, "first")).epoch
    for sequence in range(1, 11):
        await journal.append(P, epoch, sequence, b"payload %d" % sequence)
    await journal.save_snapshot(P, epoch, Snapshot(snapshot, b"state"))
    entries = fight.shared.entries[P]
    entries[6] = entries[6]._replace(data=entries[6].data.replace(b"payload 6", b"something"))

    away = Away(fight.shared, True, fight.dice)
    away.changes = changes
    broken = journal_over(away, ListLog(fight.shelf, True, fight.dice))
    found = await examine(broken, P)
    assert found is not None
    with suppress(ConnectionResetError):
        await broken.keep(P, found.seen, found.kept)

    again = fight.journal(chaos=0.0)
    report = await verify(again, P)
    second = await examine(again, P)
    assert (second is None) == report.good
    if second is not None:
        assert report.first_bad is None or report.first_bad == 6
        await again.keep(P, second.seen, second.kept)
    report = await verify(again, P)
    assert report.good
    assert [frame.sequence async for frame in again.read(P, report.trimmed)] == kept
    ownership = await again.acquire(P, "next")
    assert (ownership.next_sequence, ownership.epoch > epoch + 1) == (kept[-1] + 1, True)
