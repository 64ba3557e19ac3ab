"""Repairing a damaged SQLite journal: a new file with everything that verifies; the damaged one is copied aside first.

What is kept of a partition, `salvage` says; pages of the file that cannot be read are gone around. The invariant: whatever existed before
exists after, in the repaired file or in the copy. No process may have the journal open.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.journal.framing import ChainWalk, StoredFrame, StoredSnapshot, genesis
from stepmesh_orchestrator.journal.rules import Head, JournalUnavailable
from stepmesh_orchestrator.journal.salvage import Cut, Kept, Stretch, kept, sound
from stepmesh_orchestrator.journal.sqlite_tables import SELECT_FRAMES, SELECT_HEAD, SELECT_SNAPSHOTS, create, identify
from stepmesh_orchestrator.ports import JournalCorrupt
from stepmesh_orchestrator.sqlite import ERRORS, Fault, check_log, classify, connect, describe


class Repair(NamedTuple):
    """`copy` is the damaged file as it was, None when nothing was wrong and nothing was changed; `trouble` concerns the whole file."""

    copy: Path | None
    cuts: list[Cut]
    trouble: list[str]


def repair(path: Path) -> Repair:
    """Repair the journal in the file `path`. Raises `JournalUnavailable` (SM-4005) when there is none or another process has it open,
    `JournalCorrupt` when not even its identity can be read; `path` is as it was then.
    """
    if not path.is_file():
        raise JournalUnavailable(f"there is no journal at {path}", hint="name the data folder of the journal")
    trouble: list[str] = []
    try:
        check_log(path)
    except ERRORS as error:
        trouble.append(str(error))
    copy = _copy_aside(path)
    new = path.with_name(path.name + ".repairing")
    try:
        cuts = _rebuild(path, new, trouble)
    except BaseException:
        _remove(new)
        _remove(copy)
        raise
    if not cuts and not trouble:
        _remove(copy)
        return Repair(None, [], [])
    _remove(path, suffixes=("-wal", "-shm"))  # first: the old log must never meet the new file
    new.replace(path)
    _sync_folder(path.parent)
    return Repair(copy, cuts, trouble)


def _rebuild(path: Path, new: Path, trouble: list[str]) -> list[Cut]:
    """Write the good parts to `new` if anything is wrong; what was cut."""
    try:
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as source:
            source.execute("PRAGMA locking_mode=EXCLUSIVE")
            journal_id = identify(source, str(path.parent))
            plans = {partition: _plan(source, journal_id, partition) for partition in _partitions(source, trouble)}
            cuts = [plan.cut for plan in plans.values() if plan.cut]
            if cuts or trouble:
                _remove(new)
                with closing(connect(new, 0)) as target:
                    _write(source, target, journal_id, plans)
            return cuts
    except ERRORS as error:
        message, hint = describe(error, f"the journal {path} cannot be repaired")
        kind = JournalCorrupt if classify(error) is Fault.CORRUPT else JournalUnavailable
        raise kind(message, hint=hint) from error


def _plan(source: sqlite3.Connection, journal_id: str, partition: Partition) -> Kept:
    head, unreadable = _head(source, journal_id, partition), list[str]()
    stored = [StoredSnapshot(*row) for row in _rows(source, SELECT_SNAPSHOTS, partition, unreadable)]
    snapshots, reasons = sound(partition, stored)
    return kept(partition, head, snapshots, _best_stretch(source, partition, head, snapshots), [*unreadable, *reasons])


def _best_stretch(source: sqlite3.Connection, partition: Partition, head: Head, snapshots: list[StoredSnapshot]) -> Stretch:
    """The one that reaches furthest; of those that reach as far, the one that begins first."""
    starts = [(head.trimmed, head.trimmed_chain), *sorted((snapshot.sequence, snapshot.chain) for snapshot in snapshots)]
    stretches: list[Stretch] = []
    for start, chain in starts:
        if not stretches or start > max(stretch.walk.sequence for stretch in stretches):
            stretches.append(_walk(source, partition, start, chain))
    return max(stretches, key=lambda stretch: stretch.walk.sequence)


def _walk(source: sqlite3.Connection, partition: Partition, start: int, chain: bytes) -> Stretch:
    walk, reasons = ChainWalk(partition, start, chain), list[str]()
    for row in _rows(source, SELECT_FRAMES + ">? ORDER BY sequence", partition, reasons, start):
        defect = walk.defect(StoredFrame(*row))
        if defect:
            reasons.append(defect)
            break
    return Stretch(start, chain, walk, "; ".join(reasons))


def _write(source: sqlite3.Connection, target: sqlite3.Connection, journal_id: str, plans: dict[Partition, Kept]) -> None:
    target.execute("BEGIN IMMEDIATE")
    create(target, journal_id)
    for partition, plan in plans.items():
        head = plan.head
        owner = (partition, head.epoch, "repair", head.sequence, head.chain, head.trimmed, head.trimmed_chain)
        target.execute("INSERT INTO owners VALUES(?,?,?,?,?,?,?)", owner)
        for snapshot in plan.snapshots:
            target.execute("INSERT INTO snapshots VALUES(?,?,?,?,?)", (partition, *snapshot))
        frames = source.execute(SELECT_FRAMES + " BETWEEN ? AND ? ORDER BY sequence", (partition, head.trimmed + 1, head.sequence))
        target.executemany(f"INSERT INTO frames VALUES({partition},?,?,?,?,?)", frames)
    target.execute("COMMIT")


def _head(source: sqlite3.Connection, journal_id: str, partition: Partition) -> Head:
    """What the owner's record says; an untrimmed, empty partition when it is lost."""
    rows = list(_rows(source, SELECT_HEAD, partition, []))
    first = genesis(journal_id, partition)
    if rows and [type(field) for field in rows[0]] == [int, int, bytes, int, bytes]:
        return Head(*rows[0])
    return Head(0, 0, first, 0, first)


def _partitions(source: sqlite3.Connection, trouble: list[str]) -> list[Partition]:
    found: set[Partition] = set()
    for table in ("owners", "frames", "snapshots"):
        try:
            numbers = [row[0] for row in source.execute(f"SELECT DISTINCT partition FROM {table}")]
        except ERRORS as error:
            if classify(error) is not Fault.CORRUPT:
                raise
            trouble.append(f"table {table}: {error}")
            continue
        found.update(Partition(number) for number in numbers if type(number) is int and 0 <= number < 1 << 32)
    return sorted(found)


def _rows(source: sqlite3.Connection, select: str, partition: Partition, reasons: list[str], *more: int) -> Iterator[tuple[Any, ...]]:
    """Rows up to the first that the damaged file does not give; why it does not goes to `reasons`."""
    try:
        yield from source.execute(select, (partition, *more))
    except ERRORS as error:
        if classify(error) is not Fault.CORRUPT:
            raise
        reasons.append(str(error))


def _copy_aside(path: Path) -> Path:
    number = 1
    while (copy := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    for suffix in ("", "-wal"):
        if (part := path.with_name(path.name + suffix)).exists():
            shutil.copy2(part, copy.with_name(copy.name + suffix))
    return copy


def _remove(path: Path, suffixes: tuple[str, ...] = ("", "-wal", "-shm")) -> None:
    for suffix in suffixes:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
