"""Verifying, dumping and repairing journals: every damage is named, and nothing that existed is gone after a repair."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.journal import JournalFormatError, JournalUnavailable, MemoryJournal, SqliteJournal
from stepmesh_orchestrator.journal.inspect import DumpedFrame, Inspectable, dump, verify
from stepmesh_orchestrator.journal.salvage import Cut
from stepmesh_orchestrator.journal.sqlite_repair import repair
from stepmesh_orchestrator.ports import JournalCorrupt, JournalError, Snapshot

P, OTHER = Partition(1), Partition(2)


async def filled(journal: Inspectable, frames: int, *snapshots: int, partition: Partition = P) -> int:
    epoch = (await journal.acquire(partition, "a")).epoch
    for sequence in range(1, frames + 1):
        await journal.append(partition, epoch, sequence, b"payload %d" % sequence)
    for sequence in snapshots:
        await journal.save_snapshot(partition, epoch, Snapshot(sequence, b"state %d" % sequence))
    return epoch


async def make(path: Path, frames: int = 10, *snapshots: int) -> None:
    """A closed journal with `P` as told and three frames in `OTHER`."""
    journal = SqliteJournal(path)
    await journal.open()
    await filled(journal, frames, *snapshots)
    await filled(journal, 3, partition=OTHER)
    await journal.close()


def change(path: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert connection.execute(statement, values).rowcount >= 1


async def contents(path: Path, partition: Partition = P) -> tuple[list[int], list[int]]:
    """Sequences of frames and snapshots, all verified."""
    journal = SqliteJournal(path)
    await journal.open()
    report = await verify(journal, partition)
    assert report.good
    frames = [frame.sequence async for frame in journal.read(partition, report.trimmed)]
    await journal.close()
    return frames, list(report.snapshots)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


# --- verify and dump -------------------------------------------------------------------------------------


async def test_a_good_journal_verifies() -> None:
    journal = MemoryJournal()
    await filled(journal, 10, 4, 8)
    await journal.trim(P, 4)
    report = await verify(journal, P)
    assert report.good
    assert (report.trimmed, report.frames, report.first_bad, list(report.snapshots)) == (4, 6, None, [8, 4])


async def test_a_partition_without_frames_verifies() -> None:
    report = await verify(MemoryJournal(), P)
    assert (report.good, report.frames) == (True, 0)


async def test_the_first_bad_frame_is_named() -> None:
    journal = MemoryJournal()
    await filled(journal, 10, 4)
    await journal.trim(P, 4)
    for index in (2, 4):
        journal.logs[P].frames[index] = journal.logs[P].frames[index]._replace(payload=b"altered")
    report = await verify(journal, P)
    assert not report.good
    assert (report.frames, report.first_bad, "checksum" in report.reason) == (2, 7, True)


async def test_damaged_snapshots_are_named() -> None:
    journal = MemoryJournal()
    await filled(journal, 5, 2, 4)
    journal.logs[P].snapshots[4] = journal.logs[P].snapshots[4]._replace(payload=b"altered")
    report = await verify(journal, P)
    assert not report.good
    assert (report.first_bad, list(report.snapshots), list(report.damaged_snapshots)) == (None, [2], [(4, "its checksum does not match")])


async def test_verify_finds_the_same_in_a_file(path: Path) -> None:
    await make(path, 10, 4, 8)
    change(path, "UPDATE frames SET payload=x'00' WHERE partition=1 AND sequence=7")
    change(path, "UPDATE snapshots SET crc=crc+1 WHERE sequence=8")
    journal = SqliteJournal(path)
    await journal.open()
    report = await verify(journal, P)
    assert (report.frames, report.first_bad, list(report.snapshots)) == (6, 7, [4])
    assert [sequence for sequence, _ in report.damaged_snapshots] == [8]
    assert (await verify(journal, OTHER)).good
    await journal.close()


async def test_a_dump_decodes_what_it_is_told_to() -> None:
    journal = MemoryJournal()
    await filled(journal, 4, 2)
    assert [frame async for frame in dump(journal, P, bytes.decode, after=3)] == [DumpedFrame(4, 1, 9, "payload 4")]
    await journal.trim(P, 2)
    assert [frame.sequence async for frame in dump(journal, P, len)] == [3, 4]
    with pytest.raises(JournalError, match="trimmed"):
        assert not [frame async for frame in dump(journal, P, len, after=1)]


# --- repair ----------------------------------------------------------------------------------------------


async def test_a_good_journal_is_left_alone(path: Path) -> None:
    await make(path, 10, 4)
    before = path.read_bytes()
    outcome = repair(path)
    assert (outcome.copy, outcome.cuts, outcome.trouble) == (None, [], [])
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["journal.db"]


async def test_the_longest_good_prefix_stays_and_the_damaged_file_is_kept(path: Path) -> None:
    await make(path)
    change(path, "UPDATE frames SET payload=x'00' WHERE partition=1 AND sequence=7")
    before = path.read_bytes()
    outcome = repair(path)
    assert outcome.copy is not None
    assert outcome.copy.read_bytes() == before
    [cut] = outcome.cuts
    assert cut == Cut(P, 10, 1, 6, [], cut.reason)
    assert "frame 7: its checksum" in cut.reason
    assert await contents(path) == ([1, 2, 3, 4, 5, 6], [])
    assert await contents(path, OTHER) == ([1, 2, 3], [])
    assert (repair(path).cuts, len(list(path.parent.glob("*.damaged-*")))) == ([], 1)


async def test_a_repaired_journal_goes_on_with_a_new_owner_and_its_old_id(path: Path) -> None:
    await make(path)
    journal = SqliteJournal(path)
    await journal.open()
    before = await journal.acquire(P, "b")
    await journal.close()
    change(path, "DELETE FROM frames WHERE partition=1 AND sequence=10")
    repair(path)
    await journal.open()
    after = await journal.acquire(P, "c")
    assert after == before._replace(epoch=before.epoch + 1, next_sequence=10)
    await journal.append(P, after.epoch, 10, b"again")
    assert (await verify(journal, P)).frames == 10
    await journal.close()


async def test_a_good_snapshot_behind_the_damage_saves_what_follows_it(path: Path) -> None:
    await make(path, 10, 3, 6, 9)
    change(path, "UPDATE frames SET payload=x'00' WHERE partition=1 AND sequence=5")
    [cut] = repair(path).cuts
    assert (cut.first, cut.last, cut.snapshots) == (7, 10, [9, 6])
    assert await contents(path) == ([7, 8, 9, 10], [9, 6])


async def test_a_damaged_snapshot_saves_nothing(path: Path) -> None:
    await make(path, 10, 3, 6)
    change(path, "UPDATE frames SET payload=x'00' WHERE partition=1 AND sequence=5")
    change(path, "UPDATE snapshots SET payload=x'00' WHERE sequence=6")
    [cut] = repair(path).cuts
    assert (cut.first, cut.last, cut.snapshots) == (1, 4, [3])
    assert "snapshot 6: its checksum" in cut.reason
    assert await contents(path) == ([1, 2, 3, 4], [3])


async def test_only_a_damaged_snapshot_goes_when_the_frames_are_good(path: Path) -> None:
    await make(path, 5, 2, 4)
    change(path, "UPDATE snapshots SET payload=x'00' WHERE sequence=4")
    [cut] = repair(path).cuts
    assert (cut.first, cut.last, cut.snapshots) == (1, 5, [2])
    assert await contents(path) == ([1, 2, 3, 4, 5], [2])


async def test_a_snapshot_outlives_the_last_frame(path: Path) -> None:
    await make(path, 5, 5)
    change(path, "UPDATE frames SET crc=1 WHERE partition=1 AND sequence=5")
    [cut] = repair(path).cuts
    assert (cut.first, cut.last, cut.snapshots) == (6, 5, [5])
    assert await contents(path) == ([], [5])


async def test_a_lost_owner_record_is_made_again(path: Path) -> None:
    await make(path, 5)
    change(path, "DELETE FROM owners WHERE partition=1")
    journal = SqliteJournal(path)
    await journal.open()
    with pytest.raises(JournalCorrupt, match="owner record is missing"):
        await journal.acquire(P, "b")
    await journal.close()
    [cut] = repair(path).cuts
    assert (cut.first, cut.last) == (1, 5)
    assert await contents(path) == ([1, 2, 3, 4, 5], [])


async def test_damaged_pages_are_cut_around(path: Path) -> None:
    """Zero each page of the file in turn: what can be read stays, and the journal opens again, unless its identity is lost."""
    journal = SqliteJournal(path)
    await journal.open()
    for partition in (P, OTHER):
        epoch = (await journal.acquire(partition, "a")).epoch
        for sequence in range(1, 41):
            await journal.append(partition, epoch, sequence, b"%4d" % sequence * 200)
    await journal.close()
    whole, repaired = path.read_bytes(), 0
    for offset in range(0, len(whole), 4096):
        path.write_bytes(whole[:offset] + bytes(4096) + whole[offset + 4096 :])
        try:
            outcome = repair(path)
        except (JournalCorrupt, JournalFormatError):
            assert path.read_bytes() == whole[:offset] + bytes(4096) + whole[offset + 4096 :]
            continue
        assert outcome.copy is not None, f"page at {offset} is of no use?"
        assert outcome.copy.read_bytes()[offset : offset + 4096] == bytes(4096)
        for partition in (P, OTHER):
            frames, _ = await contents(path, partition)
            assert frames == list(range(1, len(frames) + 1))
        repaired += 1
    assert repaired > 10


async def test_a_journal_in_use_is_not_repaired(path: Path) -> None:
    await make(path)
    journal = SqliteJournal(path)
    await journal.open()
    epoch = (await journal.acquire(P, "a")).epoch
    with pytest.raises(JournalUnavailable, match="another process"):
        repair(path)
    await journal.append(P, epoch, 11, b"goes on")
    await journal.close()
    assert [file.name for file in path.parent.iterdir()] == ["journal.db"]


async def test_without_a_journal_there_is_nothing_to_repair(path: Path) -> None:
    with pytest.raises(JournalUnavailable, match=r"no journal at .*journal\.db"):
        repair(path)
    with pytest.raises(JournalUnavailable, match="no journal"):
        repair(path.parent)
