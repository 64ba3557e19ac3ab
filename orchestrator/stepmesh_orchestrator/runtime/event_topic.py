"""Records of the events topic become events from outside: each is sent to the home of its address, as a client would send it.

Invariant: a record is dealt with when its event is journaled, or was before (by its id), or it lies among the dead letters with the
reason. Events of one address are sent in the order of their records. It must not know who waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence

from stepmesh_broker.errors import MessageTooLarge
from stepmesh_broker.ports import Broker
from stepmesh_broker.protocol import codec, subjects
from stepmesh_broker.protocol.event_records import BadEvent, read_event
from stepmesh_broker.protocol.ids import Namespace, home_of
from stepmesh_broker.protocol.messages import Refused, SendEvent
from stepmesh_broker.protocol.records import PlainRecord, Topic
from stepmesh_orchestrator.ports import Clock, JournalFull
from stepmesh_orchestrator.runtime.intake import Patience
from stepmesh_orchestrator.runtime.owners import PartitionMoving

log = logging.getLogger("stepmesh.intake")
ANSWER_S = 10.0
"""How long a home may take to journal an event; then it is asked again."""
_LATER = frozenset({PartitionMoving.default_code, JournalFull.default_code})
"""Refusals that pass."""


class EventTopic:
    """`Taker` of events. `own`: the namespace of a record that names none."""

    topic = Topic.EVENTS

    def __init__(self, broker: Broker, clock: Clock, own: Namespace, partitions: int) -> None:
        self._broker = broker
        self._own = own
        self._partitions = partitions
        self._patience = Patience(broker, clock, self.topic)

    async def take(self, records: Sequence[PlainRecord]) -> None:
        """Addresses at the same time, each in order."""
        lines: defaultdict[tuple[str, str], list[tuple[SendEvent, PlainRecord]]] = defaultdict(list)
        for record in records:
            event = self._read(record)
            if isinstance(event, Refused):
                await self._patience.park(record, event)
            else:
                lines[event.name, event.key].append((event, record))
        await asyncio.gather(*map(self._send, lines.values()))

    def _read(self, record: PlainRecord) -> SendEvent | Refused:
        """A record that shows a defect of ours is refused like any other: it must not hold up those behind it."""
        try:
            return read_event(record, self._own)
        except BadEvent as problem:
            return Refused(problem.code, problem.message, problem.hint)
        except Exception:
            log.exception("SM-5023 a record of the events topic cannot be worked with")
            return Refused("SM-5023", "the orchestrator failed on this record; its log has the details", "report it with that log")

    async def _send(self, line: Sequence[tuple[SendEvent, PlainRecord]]) -> None:
        for event, record in line:
            refused = await self._kept(event)
            if refused is not None:
                await self._patience.park(record, refused)

    async def _kept(self, event: SendEvent) -> Refused | None:
        """Once its home has journaled it; why that will never be."""
        subject = subjects.control(self._own, home_of(event.name, event.key, self._partitions))
        data = codec.encode(event)
        while True:
            try:
                told = codec.decode_answer(await self._patience.insist(lambda: self._broker.request(subject, data, ANSWER_S)))
            except MessageTooLarge as problem:
                return Refused(problem.code, problem.message, problem.hint)
            if not isinstance(told, Refused):
                return None
            if told.code not in _LATER:
                return told
            await self._patience.wait(told.message)
