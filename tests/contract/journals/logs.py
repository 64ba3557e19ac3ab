"""Damaging a journal in a broker's log, which cannot be altered in place: what lies there is written anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from stepmesh_orchestrator.journal.log_records import Kind, Record, decode, encode
from stepmesh_orchestrator.journal.log_snapshots import Chunk

LOST_END = "the broker alone says where its log ends, and nothing else names the last frame"


def with_frame(entries: list[bytes], sequence: int, alter: Callable[[Record], list[bytes]]) -> list[bytes]:
    """The entries, with others for those of one frame."""
    return [new for data in entries for new in _instead(data, sequence, alter)]


def altered(fields: dict[str, Any]) -> Callable[[Record], list[bytes]]:
    """A record with other values, of any type."""
    return lambda record: [encode(msgspec.structs.replace(record, **fields))]


def with_snapshot(entries: list[bytes], sequence: int, fields: dict[str, Any]) -> list[bytes]:
    """The entries, with other values in the chunks of a snapshot."""
    return [encode(_altered(msgspec.msgpack.decode(data, type=Chunk), sequence, fields)) for data in entries]


def _instead(data: bytes, sequence: int, alter: Callable[[Record], list[bytes]]) -> list[bytes]:
    record = decode(0, data).record
    return alter(record) if record and record.kind is Kind.FRAME and record.sequence == sequence else [data]


def _altered(chunk: Chunk, sequence: int, fields: dict[str, Any]) -> Chunk:
    mine = {name: value for name, value in fields.items() if (name == "payload") is not chunk.last}
    return msgspec.structs.replace(chunk, **mine) if chunk.sequence == sequence else chunk
