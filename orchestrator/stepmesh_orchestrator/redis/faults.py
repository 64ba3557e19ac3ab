"""What an error of Redis means to its user: a few kinds, sorted by what can be done about them.

Must not know journal or membership: they turn a `Fault` into their own errors.
"""

from __future__ import annotations

import enum

from redis import exceptions


class Fault(enum.Enum):
    """Each member's value says what happened, as the middle of a sentence."""

    FULL = "the server has no memory or disk left for it"
    AWAY = "the server cannot be reached, or takes no work now"
    DENIED = "the server refuses this user"
    OTHER = "Redis refused"


_HINTS = {
    Fault.FULL: "raise maxmemory or free some space on the server; no restart is needed",
    Fault.AWAY: "check that the server runs, can be reached and is no replica; no restart is needed",
    Fault.DENIED: "check user and password of the address, and that the user may run scripts on keys stepmesh:*",
    Fault.OTHER: "Redis 6.2 or newer is needed; if this is a defect, report it with this message",
}
_DENIED = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)
_AWAY = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.ReadOnlyError, exceptions.ClusterError, OSError, TimeoutError)
_SAID = {"OOM": Fault.FULL, "MISCONF": Fault.FULL, "NOREPLICAS": Fault.AWAY, "READONLY": Fault.AWAY, "LOADING": Fault.AWAY,
         "MASTERDOWN": Fault.AWAY, "CLUSTERDOWN": Fault.AWAY, "TRYAGAIN": Fault.AWAY, "BUSY": Fault.AWAY,
         "NOPERM": Fault.DENIED, "NOAUTH": Fault.DENIED, "WRONGPASS": Fault.DENIED}  # fmt: skip

ERRORS = (exceptions.RedisError, OSError, TimeoutError)
"""What a call of redis-py may raise here."""


def classify(error: Exception) -> Fault:
    """The kind of one of `ERRORS`."""
    if isinstance(error, exceptions.OutOfMemoryError):
        return Fault.FULL
    if isinstance(error, _DENIED):  # some of them are connection errors, too
        return Fault.DENIED
    words = str(error).replace(":", " ").split()
    said = next((_SAID[word] for word in words if word in _SAID), None)  # older servers wrap what a script met
    if said is not None:
        return said
    return Fault.AWAY if isinstance(error, _AWAY) else Fault.OTHER


def describe(error: Exception, what: str) -> tuple[str, str]:
    """Message and hint for a person; `what` names what is kept there, and its address."""
    fault = classify(error)
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{what}: {fault.value} ({reason})", _HINTS[fault]
