"""A partition's inbox over a topic whose records and answers are scripted."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from stepmesh_broker.kafka import inbox as inbox_module
from stepmesh_broker.kafka.inbox import KafkaInbox
from stepmesh_broker.kafka.life import Life
from stepmesh_broker.kafka.records import Outgoing, Stored
from stepmesh_broker.protocol.ids import Partition, Position

P = Partition(0)
OLD, NEW = Life("old", 1_000), Life("new", 5_000_000)


class Record(NamedTuple):
    offset: int
    value: bytes
    timestamp: int = 0
    headers: tuple[tuple[str, bytes], ...] = ()


class Log:
    """Publisher and reader: marks are written while `answers` is set. `read_from`: where reading began; `is_paused`: if it rests."""

    def __init__(self) -> None:
        self.answers = asyncio.Event()
        self.answers.set()
        self.end = 0
        self.read_from: list[int] = []
        self.left = 0
        self.is_paused = False

    async def publish(self, _record: Outgoing) -> Stored:
        await self.answers.wait()
        self.end += 1
        return Stored(self.end - 1, Position(0))

    def read(self, _place: Any, offset: int, _sink: Any) -> None:
        self.read_from.append(offset)

    def leave(self, _place: Any, _sink: Any) -> None:
        self.left += 1

    def offset(self, _place: Any) -> int:
        return 0

    def pause(self, _place: Any) -> None:
        self.is_paused = True

    def resume(self, _place: Any) -> None:
        self.is_paused = False


def reading(log: Any, after: int = 0) -> KafkaInbox:
    return KafkaInbox(SimpleNamespace(inbox="inbox"), log, log, P, Position(after), 120.0)  # type: ignore[arg-type]


async def test_what_is_left_of_a_lost_life_gets_no_position_of_the_next_one() -> None:
    """Else the journal would note a position far ahead, and take all that follows for known."""
    log = Log()
    inbox = reading(log)
    await inbox.open(OLD)
    log.answers.clear()
    opening = asyncio.create_task(inbox.open(NEW))
    await asyncio.sleep(0)
    inbox._arrived([Record(4_000, b"of the old life")])
    (entry,) = await inbox.fetch(10, 1)
    assert entry.position == OLD.born + 4_001
    inbox._arrived([Record(4_001, b"unread")])
    log.answers.set()
    await opening
    inbox._arrived([Record(0, b"of the new life")])
    assert await inbox.fetch(10, 1) == [(NEW.born + 1, b"of the new life")]


async def test_an_inbox_closes_soon_while_the_cluster_is_away(monkeypatch: Any) -> None:
    """An orchestrator that hands over or stops has many, and a publish alone waits for ten seconds."""
    monkeypatch.setattr(inbox_module, "CLOSE_S", 0.05)
    log = Log()
    inbox = reading(log)
    await inbox.open(OLD)
    await inbox.ack(Position(OLD.born + 1))
    log.answers.clear()
    async with asyncio.timeout(5):
        await inbox.close()
    assert log.left == 1


async def test_an_inbox_whose_closing_is_cancelled_reads_no_more() -> None:
    log = Log()
    inbox = reading(log)
    await inbox.open(OLD)
    await inbox.ack(Position(OLD.born + 1))
    log.answers.clear()
    closing = asyncio.create_task(inbox.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    assert log.left == 1


def arrived(inbox: KafkaInbox, count: int, size: int) -> None:
    inbox._arrived([Record(offset, bytes(size)) for offset in range(count)])


@pytest.mark.parametrize(
    ("count", "size", "paused"),
    [
        (inbox_module.READ_AHEAD, 1, False),
        (inbox_module.READ_AHEAD + 1, 1, True),
        (32, inbox_module.READ_AHEAD_BYTES // 32, False),
        (32, inbox_module.READ_AHEAD_BYTES // 32 + 1, True),
    ],
)
async def test_a_reader_that_is_slow_takes_no_more_than_it_has_room_for(count: int, size: int, paused: bool) -> None:
    """In messages, and in bytes: a few thousand large results would be gigabytes."""
    log = Log()
    inbox = reading(log)
    await inbox.open(OLD)
    arrived(inbox, count, size)
    assert log.is_paused is paused
    while inbox._unread:
        await inbox.fetch(10, 1)
    assert not log.is_paused
