"""Batches of plain records that the client cannot decode: an unknown compression, a checksum that is wrong. They are read again a few
times, and then gone past, because they would hold up all that comes after them in their partition.

Invariant: nothing is gone past that can be decoded. The client does not say where such a batch ends, and its header may be what is
damaged; so each next offset is tried, until one can be read or nothing is there. It must not know what records say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import CorruptRecordException, UnsupportedCodecError

from stepmesh_broker.errors import BrokerError
from stepmesh_broker.protocol.records import PlainRecord

UNDECODABLE = (CorruptRecordException, UnsupportedCodecError)
"""What the client raises for a batch."""
TRIES = 5
"""Of a batch, before it is gone past."""
AGAIN_S = 1.0
"""Between two of them, in seconds: what was damaged on its way is whole then."""
_PROBE_MS = 1_000
_STEPS = 200
"""Offsets that are tried at once, so that the other partitions have their turn."""
_log = logging.getLogger(__name__)


class UndecodableRecords(BrokerError):
    """Not retryable: a batch of a topic of plain records that the client cannot decode, whoever reads it. Its data is not known."""

    default_code = "SM-5142"


@dataclass(slots=True)
class _Stuck:
    """`first`: where the batch begins, or goes on; `next`: what is tried next."""

    first: int
    next: int
    due_s: float
    problem: Exception
    tries: int = 1


class BadBatches:
    """Of one reader. Partitions that stand before such a batch are `stuck`, and read here alone; `suspects` are those that may."""

    def __init__(self) -> None:
        self.stuck: dict[TopicPartition, _Stuck] = {}
        self._suspects: list[TopicPartition] = []

    def suspect(self, places: Iterable[TopicPartition]) -> None:
        """The client does not say which of them it is."""
        self._suspects = [place for place in places if place not in self.stuck]

    async def read(self, consumer: Any, places: Iterable[TopicPartition]) -> tuple[TopicPartition, list[Any]] | None:
        """What the next one that may be stuck, of these, has to say: records of the client, and `PlainRecord` with a problem for what was
        gone past. None when none says anything now. Raises what the client raises."""
        mine = set(places)
        while self._suspects:
            place = self._suspects.pop()
            if place in mine and (found := await self._look(consumer, place)):
                return place, found
        now = asyncio.get_running_loop().time()
        for place, stuck in list(self.stuck.items()):
            if place not in mine:
                del self.stuck[place]
            elif stuck.due_s <= now and (found := await self._again(consumer, place, stuck)):
                return place, found
        return None

    async def _look(self, consumer: Any, place: TopicPartition) -> list[Any]:
        found = await _probe(consumer, place)
        if not isinstance(found, Exception):
            return found
        first, now = await consumer.position(place), asyncio.get_running_loop().time()
        self.stuck[place] = _Stuck(first, first, now + AGAIN_S, found)
        _log.warning("%s", _told(place, first, first, found))
        return []

    async def _again(self, consumer: Any, place: TopicPartition, stuck: _Stuck) -> list[Any]:
        """One more try, or, after the last one, past it as far as it goes."""
        for _ in range(_STEPS):
            if stuck.tries >= TRIES:
                stuck.next += 1
            consumer.seek(place, stuck.next)
            found = await _probe(consumer, place)
            if not isinstance(found, Exception):
                del self.stuck[place]
                return [*_gone_past(place, stuck), *found]
            if stuck.tries < TRIES:
                stuck.tries += 1
                stuck.due_s = asyncio.get_running_loop().time() + AGAIN_S
                break
        return []


async def _probe(consumer: Any, place: TopicPartition) -> list[Any] | Exception:
    """One record, so that nothing is lost of what stands before a batch; the problem of the batch that is next."""
    try:
        pages = await consumer.getmany(place, timeout_ms=_PROBE_MS, max_records=1)
    except UNDECODABLE as problem:
        said: Exception = problem
        return said
    return [record for page in pages.values() for record in page]


def _gone_past(place: TopicPartition, stuck: _Stuck) -> list[PlainRecord]:
    if stuck.next == stuck.first:  # it could be read in the end
        return []
    last = stuck.next - 1
    return [PlainRecord(place.partition, last, 0, b"", problem=_told(place, stuck.first, last, stuck.problem))]


def _told(place: TopicPartition, first: int, last: int, problem: Exception) -> UndecodableRecords:
    return UndecodableRecords(
        f"{place.topic}, partition {place.partition}, offset {first}{f' to {last}' if last > first else ''}: "
        f"the batch cannot be decoded: {problem}",
        hint="its producer compresses in a way that is not known here, or the batch is damaged; what it says is in the topic alone",
    )
