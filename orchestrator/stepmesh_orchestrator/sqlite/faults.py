"""What an error of SQLite means to its user: a few kinds, sorted by what can be done about them.

Result codes: https://www.sqlite.org/rescode.html (primary code = low byte). Must not know journal or store: they turn a
`Fault` into their own errors.
"""

from __future__ import annotations

import enum
import errno
import sqlite3


class Fault(enum.Enum):
    """Each member's value says what happened, as the middle of a sentence."""

    FULL = "no space is left for it"
    CORRUPT = "its contents are damaged"
    LOCKED = "another process holds its lock"
    DENIED = "it cannot be opened or written"
    IO = "the disk failed"
    CLOSED = "it is closed"
    OTHER = "SQLite refused"


_HINTS = {
    Fault.FULL: "free some space; no restart is needed",
    Fault.CORRUPT: "restore it from a backup, or repair it",
    Fault.LOCKED: "stop the other process, or give each its own data folder",
    Fault.DENIED: "check that the path is a file in a folder that this user may write",
    Fault.IO: "check the disk, then start again",
    Fault.CLOSED: "open it first",
    Fault.OTHER: "this is a defect or an unusual file system; report it with this message",
}

_KINDS = {
    sqlite3.SQLITE_FULL: Fault.FULL,
    sqlite3.SQLITE_CORRUPT: Fault.CORRUPT,
    sqlite3.SQLITE_NOTADB: Fault.CORRUPT,
    sqlite3.SQLITE_FORMAT: Fault.CORRUPT,
    sqlite3.SQLITE_BUSY: Fault.LOCKED,
    sqlite3.SQLITE_LOCKED: Fault.LOCKED,
    sqlite3.SQLITE_PROTOCOL: Fault.LOCKED,
    sqlite3.SQLITE_CANTOPEN: Fault.DENIED,
    sqlite3.SQLITE_PERM: Fault.DENIED,
    sqlite3.SQLITE_READONLY: Fault.DENIED,
    sqlite3.SQLITE_AUTH: Fault.DENIED,
    sqlite3.SQLITE_IOERR: Fault.IO,
    sqlite3.SQLITE_NOLFS: Fault.IO,
}


# What a call of the `sqlite3` module may raise. A damaged schema also comes as text that cannot be decoded.
ERRORS = (sqlite3.Error, UnicodeDecodeError, OSError)


def classify(error: Exception) -> Fault:
    """The kind of one of `ERRORS`."""
    if isinstance(error, OSError):
        return Fault.FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else Fault.DENIED
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # raised by the module itself, not by SQLite
        if isinstance(error, UnicodeDecodeError) or "decode" in str(error):
            return Fault.CORRUPT  # text that is no UTF-8: we only ever write str
        return Fault.CLOSED if "closed" in str(error) else Fault.OTHER
    if code == sqlite3.SQLITE_IOERR_SHMSIZE:
        return Fault.FULL  # the WAL index could not grow: SQLite reports no space there as an I/O error
    return _KINDS.get(code & 0xFF, Fault.OTHER)


def describe(error: Exception, what: str) -> tuple[str, str]:
    """Message and hint for a person; `what` names the database and its path."""
    fault = classify(error)
    return f"{what}: {fault.value} ({error})", _HINTS[fault]
