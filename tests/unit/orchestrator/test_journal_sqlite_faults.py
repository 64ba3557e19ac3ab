"""The SQLite journal under faults: torn and flipped bytes, a full disk, kill -9, and files that cannot be opened.

Images of a crash are made by copying the files of an open journal: what SQLite has synced is in the log, nothing is checkpointed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO

import pytest

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.journal import JournalFormatError, JournalUnavailable, SqliteJournal
from stepmesh_orchestrator.ports import JournalCorrupt, JournalError, JournalFull, Snapshot
from stepmesh_orchestrator.sqlite.wal import read_marks

P = Partition(0)
FRAMES = 25


def payload(sequence: int) -> bytes:
    return random.Random(sequence).randbytes(500)


class Image:
    """The bytes of a journal's database and log; `write` makes files of them in a new place, changed or not."""

    def __init__(self, path: Path, folder: Path) -> None:
        wal = path.with_name("journal.db-wal")
        self.database = path.read_bytes()
        self.log = wal.read_bytes() if wal.exists() else b""
        self._folder = folder
        self._made = 0

    def write(self, database: bytes | None = None, log: bytes | None = None) -> Path:
        shutil.rmtree(self._folder / f"image-{self._made}", ignore_errors=True)
        self._made += 1
        place = self._folder / f"image-{self._made}"
        place.mkdir()
        (place / "journal.db").write_bytes(self.database if database is None else database)
        (place / "journal.db-wal").write_bytes(self.log if log is None else log)
        return place / "journal.db"


async def make_image(folder: Path, crashed: bool) -> Image:
    journal = SqliteJournal(folder / "origin" / "journal.db")
    await journal.open()
    epoch = (await journal.acquire(P, "a")).epoch
    for sequence in range(1, FRAMES + 1):
        await journal.append(P, epoch, sequence, payload(sequence))
    if crashed:
        image = Image(folder / "origin" / "journal.db", folder)
    await journal.close()
    return image if crashed else Image(folder / "origin" / "journal.db", folder)


async def recovered(path: Path) -> tuple[int, JournalError | None]:
    """How many frames a new owner finds, each checked against what was written, and the error that stopped it, if any."""
    journal, count = SqliteJournal(path, busy_seconds=0.1), 0
    try:
        await journal.open()
        ownership = await journal.acquire(P, "new")
        async for frame in journal.read(P):
            count += 1
            assert (frame.sequence, frame.payload) == (count, payload(count)), "a wrong frame was let through"
        await journal.append(P, ownership.epoch, count + 1, b"goes on")
    except JournalError as error:
        return count, error
    finally:
        await journal.close()
    return count, None


# --- torn and flipped bytes ------------------------------------------------------------------------------


async def test_an_image_of_a_crash_holds_every_frame(tmp_path: Path) -> None:
    image = await make_image(tmp_path, crashed=True)
    assert image.log
    assert await recovered(image.write()) == (FRAMES, None)


async def test_a_torn_log_keeps_every_whole_transaction(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = await make_image(tmp_path, crashed=True)
    marks = read_marks(image.write().with_name("journal.db-wal"), 4096)
    ends = [32 + number * (24 + 4096) for number in marks.commits]
    assert len(ends) == FRAMES + 2  # the tables, the owner, the frames
    edges = {end + step for end in ends[-4:] for step in (-1, 0, 1)}
    for length in sorted({*range(ends[-4], ends[-1], 211), *edges}):
        caplog.clear()
        whole = sum(end <= length for end in ends) - 2
        with caplog.at_level(logging.WARNING):
            assert await recovered(image.write(log=image.log[:length])) == (whole, None), f"log cut at {length}"
        torn_frames = length > ends[whole + 1] + 24
        assert ("torn transaction" in caplog.text) is torn_frames, f"log cut at {length}"


async def test_a_flipped_bit_in_the_log_is_refused_unless_it_is_in_the_last_transaction(tmp_path: Path) -> None:
    image = await make_image(tmp_path, crashed=True)
    marks = read_marks(image.write().with_name("journal.db-wal"), 4096)
    last_two = 32 + marks.commits[-3] * (24 + 4096)
    for offset in range(0, len(image.log), 64 * 7):
        count, error = await recovered(image.write(log=flip(image.log, offset)))
        if offset < last_two:
            assert isinstance(error, JournalCorrupt), f"flip at {offset} of {len(image.log)}: {count} frames, {error}"
        else:
            assert error is None or isinstance(error, JournalCorrupt)
            assert count >= FRAMES - 2 or error


@pytest.mark.parametrize("offset", range(0, 32, 4))
async def test_a_damaged_log_header_is_refused(tmp_path: Path, offset: int) -> None:
    image = await make_image(tmp_path, crashed=True)
    path = image.write(log=flip(image.log, offset))
    for _ in range(2):  # refusing changes nothing
        count, error = await recovered(path)
        assert (count, type(error)) == (0, JournalCorrupt)
        assert path.with_name("journal.db-wal").stat().st_size == len(image.log)


async def test_a_flipped_bit_in_the_database_is_never_silent(tmp_path: Path) -> None:
    image = await make_image(tmp_path, crashed=False)
    refused = 0
    for offset in range(0, len(image.database), 64):
        count, error = await recovered(image.write(flip(image.database, offset)))
        assert count == FRAMES or error is not None, f"flip at {offset}: only {count} frames, and no error"
        refused += error is not None
    assert refused > FRAMES * 500 // 64  # at the least those in payloads


async def test_a_flipped_payload_names_partition_frame_and_command(tmp_path: Path) -> None:
    image = await make_image(tmp_path, crashed=False)
    for sequence in range(1, FRAMES + 1):
        whole = payload(sequence)
        for offset in range(0, 500, 64):
            # all of them: a page that was split still has old copies in its free space
            path = image.write(image.database.replace(whole, flip(whole, offset)))
            count, error = await recovered(path)
            assert isinstance(error, JournalCorrupt)
            assert count in (0, sequence - 1)  # 0: the new owner already refused the last frame
            assert f"partition 0, frame {sequence}:" in str(error)
            assert f"run: stepmesh journal verify --data {path.parent}" in str(error)


async def test_a_shortened_database_is_refused(tmp_path: Path) -> None:
    image = await make_image(tmp_path, crashed=False)
    for length in [2, 50, 99, 100, 1000, *range(4095, len(image.database), 1500)]:
        count, error = await recovered(image.write(image.database[:length]))
        assert error is not None, f"cut at {length} of {len(image.database)}: {count} frames"


async def test_an_empty_file_is_a_new_journal(tmp_path: Path) -> None:
    """As the kill of the very first start may leave it."""
    image = await make_image(tmp_path, crashed=False)
    path = image.write(b"")
    assert await recovered(path) == (0, None)


async def test_a_log_without_its_database_is_refused(tmp_path: Path) -> None:
    image = await make_image(tmp_path, crashed=True)
    path = image.write(database=b"")
    _, error = await recovered(path)
    assert isinstance(error, JournalCorrupt)
    assert "its database is gone" in str(error)
    assert path.with_name("journal.db-wal").read_bytes() == image.log


@pytest.mark.parametrize("statement", ["UPDATE owners SET head=24", "UPDATE owners SET head=26", "UPDATE owners SET epoch=0"])
async def test_an_owner_record_that_disagrees_with_the_frames_is_refused(tmp_path: Path, statement: str) -> None:
    path = (await make_image(tmp_path, crashed=False)).write()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)
    _, error = await recovered(path)
    assert isinstance(error, JournalCorrupt)


def flip(data: bytes, offset: int) -> bytes:
    changed = bytearray(data)
    changed[offset] ^= 1 << offset // 64 % 8
    return bytes(changed)


# --- full disk -------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A file system of 2 MB; None where nobody may mount one: SQLite's own limit of pages then stands for it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "stepmesh-test", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        yield None
        return
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


async def append_until_full(journal: SqliteJournal, epoch: int, sequence: int, size: int) -> int:
    """The sequence of the frame that found no room."""
    with pytest.raises(JournalFull) as raised:  # noqa: PT012 -- any of them may be the one
        while True:
            await journal.append(P, epoch, sequence, bytes(size))
            sequence += 1
    assert raised.value.code == "SM-4003"
    assert "no space is left" in str(raised.value)
    return sequence


async def test_a_full_disk_is_an_error_that_ends_when_space_is_freed(small_disk: Path | None, tmp_path: Path) -> None:
    folder = small_disk or tmp_path
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(1_000_000))
    journal = SqliteJournal(folder / "data" / "journal.db")
    await journal.open()
    epoch = (await journal.acquire(P, "a")).epoch
    if small_disk is None:
        await set_page_limit(journal, 250)
    refused = await append_until_full(journal, epoch, 1, 20_000)
    for _ in range(3):
        assert await append_until_full(journal, epoch, refused, 20_000) == refused
    with pytest.raises(JournalFull):
        await journal.save_snapshot(P, epoch, Snapshot(refused - 1, bytes(500_000)))
    assert [frame.sequence async for frame in journal.read(P)] == list(range(1, refused))  # reading goes on
    ballast.unlink()
    if small_disk is None:
        await set_page_limit(journal, 10_000)
    for sequence in range(refused, refused + 5):
        await journal.append(P, epoch, sequence, bytes(20_000))
    assert [frame.sequence async for frame in journal.read(P)] == list(range(1, refused + 5))
    await journal.close()


async def test_what_still_fits_is_kept_when_a_neighbour_s_frame_does_not(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    await journal.open()
    small, large = (await journal.acquire(P, "a")).epoch, (await journal.acquire(Partition(1), "a")).epoch
    await set_page_limit(journal, 30)
    appends = [journal.append(Partition(1), large, 1, bytes(1_000_000)), journal.append(P, small, 1, b"small")]
    results = await asyncio.gather(*appends, return_exceptions=True)
    assert [type(result) for result in results] == [JournalFull, type(None)]
    assert [frame.payload async for frame in journal.read(P)] == [b"small"]
    assert [frame async for frame in journal.read(Partition(1))] == []
    await journal.close()


async def set_page_limit(journal: SqliteJournal, pages: int) -> None:
    await journal._writer.call(lambda connection: connection.execute(f"PRAGMA max_page_count={pages}").fetchone())


# --- kill -9 ---------------------------------------------------------------------------------------------

# Forks an appender for every line on its input: three partitions at once, one line per acknowledged frame.
APPENDER = """
import asyncio, os, random, sys
from pathlib import Path
from stepmesh_orchestrator.journal import SqliteJournal

async def append(journal, partition):
    ownership = await journal.acquire(partition, "appender")
    sequence = ownership.next_sequence
    while True:
        await journal.append(partition, ownership.epoch, sequence, random.Random(sequence).randbytes(500))
        os.write(1, b"%d %d\\n" % (partition, sequence))
        sequence += 1

async def main():
    journal = SqliteJournal(Path(sys.argv[1]))
    await journal.open()
    await asyncio.gather(*(append(journal, partition) for partition in range(3)))

for line in sys.stdin:
    child = os.fork()
    if not child:
        asyncio.run(main())
    os.write(1, b"pid %d\\n" % child)
    os.waitpid(child, 0)
    os.write(1, b"dead\\n")
"""


def test_every_acknowledged_frame_survives_kill_9(tmp_path: Path) -> None:
    path, choose, acknowledged = tmp_path / "journal.db", random.Random(20250607), dict.fromkeys(range(3), 0)
    command = [sys.executable, "-c", APPENDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as parent:
        assert parent.stdin
        assert parent.stdout
        for _ in range(50):
            parent.stdin.write(b"go\n")
            for partition, sequence in acknowledged_until_killed(parent.stdout, choose):
                acknowledged[partition] = sequence
            asyncio.run(check_all_there(path, acknowledged))
        parent.stdin.close()
    assert min(acknowledged.values()) > 50


def acknowledged_until_killed(output: IO[bytes], choose: random.Random) -> Iterator[tuple[int, int]]:
    """What an appender says, which is killed at a random moment: so many frames later, somewhere within an append."""
    child, left = 0, choose.randrange(25)
    for line in iter(output.readline, b"dead\n"):
        first, second = line.split()
        if first == b"pid":
            child = int(second)
        else:
            left -= 1
            yield int(first), int(second)
        if child and left <= 0:
            time.sleep(choose.random() / 1000)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


async def check_all_there(path: Path, acknowledged: dict[int, int]) -> None:
    journal = SqliteJournal(path)
    await journal.open()
    for number, last in acknowledged.items():
        found = [frame async for frame in journal.read(Partition(number))]
        assert last <= len(found) <= last + 1, "at most the one in flight is not acknowledged"
        assert all(frame.payload == payload(frame.sequence) for frame in found)
        acknowledged[number] = len(found)
    await journal.close()


# --- files that cannot be opened -------------------------------------------------------------------------


async def refusal(path: Path) -> JournalError:
    journal = SqliteJournal(path, busy_seconds=0.05)
    with pytest.raises(JournalError) as raised:
        await journal.open()
    assert raised.value.hint
    assert str(path.parent) in str(raised.value)
    with pytest.raises(JournalUnavailable, match="closed"):
        await journal.partitions()
    return raised.value


async def test_a_folder_in_the_file_s_place(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.mkdir()
    assert (await refusal(path)).code == "SM-4005"


async def test_a_file_in_the_folder_s_place(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    assert (await refusal(tmp_path / "data" / "journal.db")).code == "SM-4005"


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_text("no database at all, for more than a hundred bytes " * 10)
    error = await refusal(path)
    assert isinstance(error, JournalCorrupt)
    assert path.read_text().startswith("no database")


async def test_another_program_s_database(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs(x)")
    error = await refusal(path)
    assert isinstance(error, JournalFormatError)
    assert "no journal" in str(error)


async def test_another_format_version(tmp_path: Path) -> None:
    path = (await make_image(tmp_path, crashed=False)).write()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE meta SET value='2' WHERE key='format'")
    error = await refusal(path)
    assert error.code == "SM-4006"
    assert "has format 2; this release reads format 1" in str(error)


async def test_a_file_that_another_process_locks(tmp_path: Path) -> None:
    path = (await make_image(tmp_path, crashed=False)).write()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        error = await refusal(path)
        assert error.code == "SM-4005"
        assert "another process" in str(error)
    assert await recovered(path) == (FRAMES, None)


async def test_a_lock_that_is_taken_later_fails_the_append_only(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db", busy_seconds=0.05)
    await journal.open()
    epoch = (await journal.acquire(P, "a")).epoch
    with closing(sqlite3.connect(tmp_path / "journal.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalUnavailable, match="another process"):
            await journal.append(P, epoch, 1, b"one")
        other.execute("ROLLBACK")
    await journal.append(P, epoch, 1, b"one")
    assert [frame.payload async for frame in journal.read(P)] == [b"one"]
    await journal.close()
