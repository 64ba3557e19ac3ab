"""What clients ask of the dead letters of a namespace: messages that nobody could take, with the reason. Answered by any orchestrator."""

from __future__ import annotations

from base64 import b64encode

import msgspec

from stepmesh_broker.protocol.ids import Pool, Position
from stepmesh_broker.protocol.records import AGAIN, PlainRecord

SHOWN_BYTES = 4_096
"""Of a letter, as a list shows it."""
MOST = 500
"""Letters of one answer, so that it fits a message."""
MAX_SOURCE = 3_000
"""Bytes that a letter may say of where it comes from, beside its data."""


class Source(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Of a record that lies there: what it takes to write it again beside its data. `is_whole`: whether all of it could be kept."""

    origin: tuple[int, int, int]
    lane: int
    key: bytes = b""
    headers: dict[str, bytes] = {}
    is_whole: bool = True

    @staticmethod
    def of(record: PlainRecord, kept: int) -> Source:
        """`kept`: bytes of its value."""
        full = Source(record.origin, record.lane, record.key, dict(record.headers), _is_whole(record, kept))
        return full if len(_encode(full)) <= MAX_SOURCE else Source(record.origin, record.lane, is_whole=False)

    def encoded(self) -> bytes:
        """As a letter has it, `MAX_SOURCE` bytes at most."""
        return _encode(self)

    def record(self, data: bytes) -> PlainRecord:
        """To be written again; it says where it lay first."""
        headers = {**self.headers, AGAIN: "{}/{}/{}".format(*self.origin).encode()}
        return PlainRecord(self.lane, 0, 0, data, self.key, headers)


def _is_whole(record: PlainRecord, kept: int) -> bool:
    return record.problem is None and kept == len(record.value)


_encode = msgspec.msgpack.Encoder().encode
read_source = msgspec.msgpack.Decoder(Source).decode
"""Raises `msgspec.MsgspecError`."""


class ListDeadLetters(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="list_dead_letters"):
    """Oldest first, `limit` of them at most; `pool` "" is all of them. Answer: `DeadLetters`."""

    limit: int = 100
    pool: str = ""


class DeadLetter(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`data`: its first bytes; `size`: how many it has. `position` names it."""

    position: Position
    pool: Pool
    size: int
    data: bytes
    reason: str

    @property
    def shown(self) -> tuple[str, str]:
        """What its first bytes are in JSON, and as what: `data` is text, `data_base64` anything else."""
        try:
            return "data", self.data.decode()
        except UnicodeDecodeError:
            return "data_base64", b64encode(self.data).decode()


class DeadLetters(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="dead_letters"):
    """What lies there."""

    letters: list[DeadLetter]


class ResendDeadLetter(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="resend_dead_letter"):
    """Write a record to its topic again, and remove it here. Answer: `Resent`, or `Refused`: SM-5024 when it is not there, SM-5140 and
    SM-5141 when it cannot be sent again."""

    position: Position


class Resent(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="resent"):
    """It lies in its topic again."""

    topic: str


class DropDeadLetter(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="drop_dead_letter"):
    """Remove one. Answer: `Deleted`, or `Refused` SM-5024 when it is not there."""

    position: Position
