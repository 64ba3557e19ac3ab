"""Opening a SQLite file the way the journal and the store need it: WAL, an fsync at every commit, autocommit off our hands.

Must not know what the file holds.
"""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

from stepmesh_orchestrator.sqlite.faults import Fault, classify
from stepmesh_orchestrator.sqlite.wal import check_log

PAGE_BYTES = 4096
SWITCH_AGAIN_S = 0.005
"""Pause before a refused switch to the log is tried again, in seconds."""


def connect(path: Path, busy_seconds: float) -> sqlite3.Connection:
    """A connection in autocommit mode to the file, made if absent, that waits up to `busy_seconds` for locks. Raises `sqlite3.Error`."""
    connection = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None)
    try:
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")  # heeded in a new file only
        mode = _switch_to_log(connection, busy_seconds)
        if mode != "wal":
            raise sqlite3.OperationalError(f"this file system offers journal mode {mode}, write-ahead logging is needed")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA secure_delete=OFF")  # some builds overwrite what is deleted: needless writes
        connection.execute("PRAGMA wal_autocheckpoint=4000")
        connection.execute("PRAGMA journal_size_limit=67108864")
    except BaseException:
        connection.close()
        raise
    return connection


def _switch_to_log(connection: sqlite3.Connection, busy_seconds: float) -> str:
    """The journal mode that the file has then. While another process switches a new file, SQLite refuses at once instead of waiting."""
    until = time.monotonic() + busy_seconds
    while True:
        try:
            mode: str = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        except sqlite3.OperationalError as error:
            if classify(error) is not Fault.LOCKED or time.monotonic() >= until:
                raise
        else:
            return mode
        time.sleep(SWITCH_AGAIN_S)


def connect_first(path: Path, busy_seconds: float) -> sqlite3.Connection:
    """What a writer begins with: makes the folder, checks the log that a crash may have left, then `connect`."""
    make_folder(path.parent)
    check_log(path)
    return connect(path, busy_seconds)


def make_folder(folder: Path) -> None:
    """Make it and its parents, durably: the entry of each new folder is synced in its parent."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        handle = os.open(made.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
