"""What a broker has twice because a client sent it again is heard once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, NamedTuple

from stepmesh_broker.kafka.copies import Copies
from stepmesh_broker.kafka.records import headers_of
from stepmesh_broker.kafka.talk import Kind, Talk
from stepmesh_broker.protocol.subjects import Subject

ECHO = Subject("echo")


def test_an_id_is_known_for_the_window_by_the_times_of_the_broker() -> None:
    copies = Copies(1_000)
    assert [copies.is_copy("a", 0), copies.is_copy("b", 500), copies.is_copy("a", 999)] == [False, False, True]
    assert not copies.is_copy("a", 1_000)
    assert copies.is_copy("b", 1_499)


def test_what_has_no_id_is_never_a_copy() -> None:
    copies = Copies(1_000)
    assert not copies.is_copy("", 0)
    assert not copies.is_copy("", 0)


class Record(NamedTuple):
    value: bytes
    headers: list[tuple[str, bytes]]
    partition: int = 0
    timestamp: int = 0


class Conversation:
    """Topics, publisher and reader of a talk that hears all at once; `written` is what it said."""

    talk = "talk"

    def __init__(self) -> None:
        self.sink: Any = None
        self.written: list[Record] = []

    async def ensure(self, _topic: str) -> int:
        return 1

    async def publish(self, record: Any) -> Any:
        self.written.append(Record(record.value, record.headers))
        return SimpleNamespace(offset=len(self.written) - 1)

    def read(self, _place: Any, offset: int, sink: Any) -> None:
        self.sink = sink
        sink(self.written[offset:])


async def test_a_request_and_a_message_that_lie_there_twice_are_heard_once() -> None:
    """The client that writes talk sends again what it got no answer to."""
    topic: Any = Conversation()
    talk = Talk(topic, topic, topic, 1_000)
    asked: list[bytes] = []
    heard: list[bytes] = []

    async def answer(data: bytes) -> bytes:
        asked.append(data)
        return data

    async def hear(data: bytes) -> None:
        heard.append(data)

    await talk.serve(ECHO, answer, "")
    await talk.listen(ECHO, hear)
    request = Record(b"question", headers_of(kind=Kind.ASK, subject=ECHO, request="r1", sender="s", reply=0))
    await talk.send(ECHO, b"message")
    topic.sink([request, request, topic.written[-1], topic.written[-1]])
    await talk.send(ECHO, b"message")
    topic.sink([topic.written[-1]])
    async with asyncio.timeout(5):
        while len(heard) < 2 or not asked:
            await asyncio.sleep(0)
    assert (asked, heard) == ([b"question"], [b"message", b"message"])
    await talk.close()
