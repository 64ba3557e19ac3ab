"""Whether a write-ahead log, left by a crash, is whole, torn or damaged: looked at before SQLite may touch it.

SQLite takes a log up to the first frame whose checksum fails and forgets the rest without a word. After a power cut the rest
is a torn transaction, which nobody was told was durable: right. But when several committed transactions follow the bad frame,
what they held was durable, and starting would lose it: that is refused. Format: https://www.sqlite.org/walformat.html
"""

from __future__ import annotations

import logging
import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger(__name__)

LOOKS = 3
_HEADER = struct.Struct(">8I")  # magic, version, page size, checkpoint number, salt (2), checksum (2)
_FRAME = struct.Struct(">6I")  # page, pages after commit (0 = not a commit), salt (2), checksum (2)
_DATABASE_HEADER_BYTES = 100
_RECOVERED = struct.Struct("=I")  # in the log's index: the number of its valid frames
_RECOVERED_AT = 16


class DamagedLog(sqlite3.DatabaseError):
    """Durable transactions lie behind damaged bytes, or the database that the log belongs to is gone."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


class Marks(NamedTuple):
    """What the log says of itself: whether its header is intact, how many frames are of its generation, which of them commit."""

    intact: bool
    frames: int
    commits: list[int]


def check_log(path: Path) -> None:
    """Look at the log of the database `path`, if there is one. Raises `DamagedLog`; a torn end is only logged. Another process may write to
    it meanwhile, and begin it anew between two reads: so only what is found again and again is damage."""
    for _ in range(LOOKS - 1):
        try:
            return _check_log(path)
        except DamagedLog:
            continue
    return _check_log(path)


def _check_log(path: Path) -> None:
    wal = path.with_name(path.name + "-wal")
    if not wal.exists() or wal.stat().st_size <= _HEADER.size:
        return
    if not path.exists() or path.stat().st_size < _DATABASE_HEADER_BYTES:
        raise DamagedLog(f"{wal.name} is there, but its database is gone")
    marks = read_marks(wal, _page_bytes(path))
    valid = _recovered(path)
    lost = [number for number in marks.commits if number > valid]
    if len(lost) > 1 or (lost and not marks.intact):
        raise DamagedLog(f"{wal.name} is damaged at frame {valid + 1}, {len(lost)} transactions follow")
    if marks.frames > valid:
        log.warning("%s ends in a torn transaction, %d frames are cut off", wal, marks.frames - valid)


def read_marks(wal: Path, page_bytes: int) -> Marks:
    """Walk the frame headers of one generation; frames of an older one, which it overwrites, have another salt."""
    with wal.open("rb") as file:
        header = file.read(_HEADER.size)
        intact = _intact(header)
        salt: tuple[int, ...] | None = _HEADER.unpack(header)[4:6] if intact else None
        frames, commits = 0, list[int]()
        while len(head := file.read(_FRAME.size)) == _FRAME.size:
            _, pages, *rest = _FRAME.unpack(head)
            if salt is None:
                salt = tuple(rest[:2])
            if tuple(rest[:2]) == salt:
                frames = (file.tell() - _HEADER.size - _FRAME.size) // (_FRAME.size + page_bytes) + 1
                if pages:
                    commits.append(frames)
            file.seek(page_bytes, 1)
    return Marks(intact, frames, commits)


def _intact(header: bytes) -> bool:
    words = _HEADER.unpack(header)
    order = ">" if words[0] & 1 else "<"
    first, second = 0, 0
    parts = struct.unpack(f"{order}6I", header[:24])
    for even, odd in zip(parts[::2], parts[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return (first, second) == words[6:]


def _page_bytes(path: Path) -> int:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(18)[16:], "big")
    return 65536 if size == 1 else max(size, 512)


def _recovered(path: Path) -> int:
    """How many frames SQLite itself takes as valid: a read-only connection recovers the log's index and changes nothing else."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        with path.with_name(path.name + "-shm").open("rb") as index:
            index.seek(_RECOVERED_AT)
            return int(_RECOVERED.unpack(index.read(_RECOVERED.size))[0])
