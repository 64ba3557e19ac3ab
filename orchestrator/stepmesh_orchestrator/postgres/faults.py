"""What an error of PostgreSQL means to its user: a few kinds, sorted by what can be done about them.

Codes: https://www.postgresql.org/docs/current/errcodes-appendix.html. Must not know journal or store: they turn a `Fault` into their
own errors.
"""

from __future__ import annotations

import enum

import psycopg


class Fault(enum.Enum):
    """Each member's value says what happened, as the middle of a sentence."""

    FULL = "no space is left for it"
    CORRUPT = "its contents are damaged"
    AWAY = "the server cannot be reached, or takes no work now"
    DENIED = "the server refuses this user or database"
    IO = "the server's disk failed"
    OTHER = "PostgreSQL refused"


_HINTS = {
    Fault.FULL: "free some space on the server; no restart is needed",
    Fault.CORRUPT: "restore the database from a backup",
    Fault.AWAY: "check that the server runs, can be reached and is no standby; no restart is needed",
    Fault.DENIED: "check user, password and database of the address, and that the user may create a schema there",
    Fault.IO: "check the server's disk and its log",
    Fault.OTHER: "see the server's log; if this is a defect, report it with this message",
}

_KINDS = {
    "53100": Fault.FULL,
    "XX001": Fault.CORRUPT,
    "XX002": Fault.CORRUPT,
    "58030": Fault.IO,
    "3D000": Fault.DENIED,  # no such database
    "42501": Fault.DENIED,
    "25006": Fault.AWAY,  # read only: a standby, or one that was
    "57014": Fault.AWAY,  # cancelled: took longer than is waited for
    "55P03": Fault.AWAY,
}
_CLASSES = {
    "08": Fault.AWAY,  # connection
    "57": Fault.AWAY,  # shut down, starting, cancelled
    "53": Fault.AWAY,  # too many connections, out of memory
    "40": Fault.AWAY,  # rolled back: deadlock, serialization
    "28": Fault.DENIED,
}

ERRORS = (psycopg.Error, OSError, TimeoutError)
"""What a call of psycopg may raise here."""


def classify(error: Exception) -> Fault:
    """The kind of one of `ERRORS`."""
    state = error.sqlstate if isinstance(error, psycopg.Error) else None
    if state is not None:
        return _KINDS.get(state) or _CLASSES.get(state[:2], Fault.OTHER)
    if isinstance(error, psycopg.OperationalError) and "authentication failed" in str(error):
        return Fault.DENIED  # while connecting, the client library tells no code
    if isinstance(error, psycopg.OperationalError) and "does not exist" in str(error):
        return Fault.DENIED
    return Fault.AWAY if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | OSError | TimeoutError) else Fault.OTHER


def is_lost(error: Exception) -> bool:
    """Whether the connection ended, or could not be made, at once: another one may do better."""
    if not isinstance(error, psycopg.OperationalError) or isinstance(error, psycopg.errors.ConnectionTimeout):
        return isinstance(error, psycopg.InterfaceError)
    return error.sqlstate is None or (error.sqlstate[:2] in {"08", "57"} and error.sqlstate != "57014")


def describe(error: Exception, what: str) -> tuple[str, str]:
    """Message and hint for a person; `what` names what is kept there, and its address."""
    fault = classify(error)
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{what}: {fault.value} ({reason})", _HINTS[fault]
