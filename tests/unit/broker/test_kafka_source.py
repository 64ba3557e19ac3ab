"""A consumer of a pool whose place in the group and whose publisher are scripted."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.kafka import source as source_module
from stepmesh_broker.kafka.ledger import Ledger
from stepmesh_broker.kafka.records import Key, Outgoing, text
from stepmesh_broker.kafka.settings import KafkaSettings
from stepmesh_broker.kafka.source import KafkaTaskSource


class Publisher:
    """Gives up the first record of each kind; it may be written nevertheless."""

    def __init__(self) -> None:
        self.records: list[tuple[Outgoing, str]] = []

    async def publish(self, record: Outgoing, message_id: str = "") -> None:
        await asyncio.sleep(0)
        self.records.append((record, message_id))
        if len(self.records) % 2:
            raise BrokerUnavailable("no answer")


async def announce(_data: bytes) -> None:
    """Nobody listens."""


async def test_a_frame_that_is_passed_on_twice_bears_one_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that is away for longer than a publish waits for it has both one day; whoever reads them must see that they are one."""
    monkeypatch.setattr(source_module, "_RETRY_S", 0.0)
    publisher: Any = Publisher()
    seat: Any = SimpleNamespace(flow=lambda _wanted: None)
    source = KafkaTaskSource(KafkaSettings(), SimpleNamespace(), publisher, "topic", lambda *_: seat, announce)  # type: ignore[arg-type]
    ledger = Ledger("me", 0, None, 0.0, 30.0, 1_000.0)
    for offset in (0, 1):
        frame = ledger.arrived(offset, 1, "", 0, 0, b"frame")
        assert frame is not None
        source._write_anew(frame, 0)
        await asyncio.wait(source._beside)
    ids = [text(dict(record.headers), Key.MESSAGE_ID) for record, _ in publisher.records]
    assert ids == [message_id for _, message_id in publisher.records]
    assert ids[0] == ids[1] != ids[2] == ids[3]
    assert all(ids)
