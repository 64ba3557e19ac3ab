"""What travels in the headers of a Kafka record, and positions as numbers: pure values, no client.

Invariant: every record that Stepmesh writes names the contract version, so that a reader can tell it from somebody else's.
It must not know what a record's value means.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from stepmesh_broker.protocol.ids import Position

CONTRACT = b"1"
"""Version of this layout; a reader ignores headers that it does not know."""
_TICKS = 1 << 20
Headers = Sequence[tuple[str, bytes]]


class Key(StrEnum):
    """Names of headers."""

    CONTRACT = "stepmesh-contract"
    MESSAGE_ID = "stepmesh-id"
    KIND = "stepmesh-kind"
    SENDER = "stepmesh-sender"
    SUBJECT = "stepmesh-subject"
    REQUEST = "stepmesh-request"
    REPLY = "stepmesh-reply"
    GROUP = "stepmesh-group"
    POOL = "stepmesh-pool"
    REASON = "stepmesh-reason"
    DELIVERIES = "stepmesh-deliveries"
    ORIGIN = "stepmesh-origin"
    HOPS = "stepmesh-hops"
    SOURCE = "stepmesh-source"


class Outgoing(NamedTuple):
    """A record to be written."""

    topic: str
    partition: int
    value: bytes | None
    headers: Headers = ()
    key: bytes | None = None


class Stored(NamedTuple):
    """Where a record came to lie. `position`: by the time of its append, and above all that this connection wrote before."""

    offset: int
    position: Position


def headers_of(**named: bytes | str | int) -> list[tuple[str, bytes]]:
    """By the names of `Key`, in lower case."""
    headers = [(str(Key.CONTRACT), CONTRACT)]
    for name, value in named.items():
        headers.append((str(Key[name.upper()]), value if isinstance(value, bytes) else str(value).encode()))
    return headers


def text(headers: dict[str, bytes], key: Key) -> str:
    """A header as text, empty when it is not there."""
    return headers.get(key, b"").decode(errors="replace")


def number(headers: dict[str, bytes], key: Key, otherwise: int = 0) -> int:
    """A header as a number."""
    value = headers.get(key, b"")
    return int(value) if value.isdigit() else otherwise


def position_at(timestamp_ms: int) -> Position:
    """The lowest position of a frame that was appended in this millisecond; all lower ones lie before it."""
    return Position(timestamp_ms * _TICKS)
