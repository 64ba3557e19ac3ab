"""Batches of a stream, of which a cluster may lose messages between two servers."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from stepmesh_broker.nats.records import StreamRecords

LAST = b"NATS/1.0 204 EOB\r\n\r\n"


def stored(sequence: int, before: int) -> bytes:
    """The headers of a message as the server sends it: which one it sent before."""
    lines = (f"Nats-Sequence: {sequence}", "Nats-Time-Stamp: 2026-11-22T06:59:36Z", "Nats-Num-Pending: 1", f"Nats-Last-Sequence: {before}")
    return "\r\n".join(("NATS/1.0", *lines, "", "")).encode()


class Wire:
    """Answers a question with these headers."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = answers
        self._hear: Any = None

    def new_inbox(self) -> str:
        return "_INBOX.1"

    def hear(self, _subject: str, on_message: Any) -> int:
        self._hear = on_message
        return 1

    def unhear(self, _sid: int) -> None:
        """Nobody sends any more."""

    def put(self, _command: bytes) -> None:
        for headers in self._answers:
            asyncio.get_running_loop().call_soon(self._hear, b"s", b"", b"data", headers)


@pytest.mark.parametrize(
    ("answers", "sequences"),
    [
        ((stored(2, 0), stored(4, 2), stored(6, 4), LAST), [2, 4, 6]),
        ((stored(2, 0), stored(6, 4), stored(8, 6), LAST), [2]),
        ((stored(4, 2), stored(6, 4), LAST), []),
        ((LAST,), []),
    ],
)
async def test_a_batch_ends_where_a_message_is_missing(answers: tuple[bytes, ...], sequences: list[int]) -> None:
    """What follows a gap would look like a damaged journal; it is asked for again."""
    records = StreamRecords(SimpleNamespace(wire=Wire(*answers)), 8.0)  # type: ignore[arg-type]
    assert [message.sequence for message in await records.batch("stream", "subject", 1, (10, 1000))] == sequences
