"""A journal's log over Kafka answers that are scripted: what a leader that was just elected does not show yet."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stepmesh_broker.kafka.topic_log import LogRecord
from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.journal import kafka_log
from stepmesh_orchestrator.journal.kafka_log import KafkaLog
from stepmesh_orchestrator.journal.rules import JournalUnavailable

P = Partition(0)


class Logs:
    """Three records, of which `hidden` answers show the first only; `begin_at` is the first offset."""

    def __init__(self, hidden: int, begin_at: int = 0) -> None:
        self._hidden = hidden
        self._begin_at = begin_at

    async def fetch(self, _topic: str, _partition: int, offset: int, _size: int) -> list[LogRecord]:
        await asyncio.sleep(0)
        end = 3
        if offset > 0 and self._hidden:
            self._hidden -= 1
            end = 1
        return [LogRecord(at, b"%d" % at, 0) for at in range(max(offset, self._begin_at), end)]

    async def begin(self, _topic: str, _partition: int) -> int:
        return self._begin_at


async def scanned(logs: Any) -> list[bytes]:
    log = KafkaLog(logs, "topic", "kafka://somewhere")
    log.count = 1
    return [entry.data async for entry in log.scan(P, 2, 3)]


async def test_records_that_a_new_leader_does_not_show_yet_are_waited_for() -> None:
    """Else a reader would take an intact journal for damaged, or for shorter than it is."""
    assert await scanned(Logs(hidden=3)) == [b"1", b"2"]


async def test_records_that_stay_away_are_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_log, "LAGS_S", 0.01)
    with pytest.raises(JournalUnavailable, match="record 3"):
        await scanned(Logs(hidden=1_000_000))


async def test_records_that_were_trimmed_meanwhile_are_not_waited_for() -> None:
    assert await scanned(Logs(hidden=0, begin_at=3)) == []
