"""The catalogue of errors that any Stepmesh part may raise, sorted by what the reader must do.

Every error carries a stable code `SM-…`, says what happened and where, and names the fix. Parts add
subclasses in their own folder; this file must not know any of them. Codes: SM-0xxx set-up and command
line, SM-10xx durable functions, SM-2xxx flows, SM-3xxx broker, SM-4xxx journal and store, SM-5xxx runs,
SM-6xxx workers, SM-7xxx gateway.
"""

from __future__ import annotations

from typing import Any


class StepmeshError(Exception):
    """An error that a person reads: a code, what happened, and what to do about it.

    `code` is `SM-` and four digits; `message` says what happened and where; `hint` says what to do.
    """

    default_code = "SM-0000"

    def __init__(self, message: str, *, code: str | None = None, hint: str = "") -> None:
        self.code = code or self.default_code
        self.message = message
        self.hint = hint
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        """By its state: what a subclass is made from need not be its message, and a pool of processes breaks over what it cannot read."""
        return _as_it_was, (type(self), self.args, self.__dict__)

    def __str__(self) -> str:
        """One line: code, message, then the hint."""
        return f"{self.code} {self.message}" + (f" ({self.hint})" if self.hint else "")


def _as_it_was(kind: type[StepmeshError], args: tuple[Any, ...], state: dict[str, Any]) -> StepmeshError:
    problem = kind.__new__(kind, *args)
    problem.__dict__.update(state)
    return problem


class BrokerError(StepmeshError):
    """The broker refused or did not answer."""

    default_code = "SM-3000"


class BrokerUnavailable(BrokerError):
    """Retryable: the connection is down or the answer did not come in time."""

    default_code = "SM-3001"


class MessageTooLarge(BrokerError):
    """Not retryable: the message is above the broker's limit. Names size and limit, both in bytes."""

    default_code = "SM-3002"

    @classmethod
    def of(cls, size: int, limit: int) -> MessageTooLarge:
        """The error for `size` bytes where `limit` are allowed."""
        return cls(
            f"message of {size} bytes is above the broker's limit of {limit} bytes",
            hint="store large payloads as blobs, or raise the limit",
        )


class InboxTaken(BrokerError):
    """Not retryable: another reader opened this partition's inbox; this one must stop."""

    default_code = "SM-3005"

    @classmethod
    def of(cls, partition: int) -> InboxTaken:
        """The error for the reader that lost `partition`."""
        return cls(f"another reader took over the inbox of partition {partition}", hint="stop this shard; the new owner goes on")

    @classmethod
    def of_topic(cls, topic: str) -> InboxTaken:
        """The error for who read a topic of plain records until now."""
        return cls(f"another reader took over the {topic} topic", hint="nothing is lost: the new reader goes on")


class MalformedMessage(BrokerError):
    """Not retryable: bytes that are not a message of the documented contract."""

    default_code = "SM-3003"
