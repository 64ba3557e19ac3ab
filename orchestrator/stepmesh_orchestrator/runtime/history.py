"""A run's past, read from the journal: what happened to it and its sub-runs, in order, and how its steps stood at any event.

A position is frame × `PER_FRAME` + index in the frame. Events that follow from one fact share its position, and no page ends between
them. What belongs to a run, and what followed from an event, is known only by reading from the run's creation on; so the place of a reader
is kept for its next page, and who follows a run reads each frame once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeVar

from stepmesh_broker.protocol.api import Events, RunEvent
from stepmesh_broker.protocol.ids import RunId
from stepmesh_orchestrator.core.events import PER_FRAME, Event, RunCreated, decode_turn
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.gone import GONE
from stepmesh_orchestrator.core.replica import Consequences, LateReplica, Replica
from stepmesh_orchestrator.core.rows import ItemRow, RunRow
from stepmesh_orchestrator.core.state import Item
from stepmesh_orchestrator.ports import Journal, JournalTrimmed
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.status_events import status_events

_K = TypeVar("_K")
_V = TypeVar("_V")
KEPT = 256
"""Readers whose place is kept. Losing it costs a scan from the run's creation."""
KEPT_PAGES = 32
"""Pages kept for readers that are at the same place."""


_Asked = tuple[RunId, int, int, int, int]
"""Run, where it began (one that was deleted may have had its id), position, and the two limits of a page."""
Known = Callable[[], Mapping[RunId, CompiledFlow]]


@dataclass(slots=True)
class _Place:
    """How far a reader came: the events of the frames up to `frame`, and `index` events of the next one, are in the replica. `left`: events
    that did not fit into its last page."""

    replica: Replica
    frame: int
    index: int = 0
    left: list[RunEvent] = field(default_factory=list[RunEvent])


class History:
    """The past of the runs of one journal, for readers that come back for more."""

    def __init__(self, journal: Journal, flows: FlowRegistry) -> None:
        self._journal = journal
        self._flows = flows
        self._places: OrderedDict[tuple[RunId, int, int], _Place] = OrderedDict()
        self._pages: OrderedDict[_Asked, Events] = OrderedDict()
        self._reading: dict[_Asked, asyncio.Future[Events]] = {}

    async def page(self, run: RunRow, after: int, limit: int, max_bytes: int, known: Known = dict) -> Events:
        """The events of `run` and its sub-runs above position `after`: at most `limit`, and no more than `max_bytes` in all; but one
        position's events at least. Of a run that began before what the journal holds, without what followed from them; `known` gives the
        flows of it and of those below it then. Raises `JournalError`."""
        if run.finished_at is not None and after >= run.finished_at:
            return Events([], ended=True)
        asked = (run.run, run.created_sequence, after, limit, max_bytes)
        page = self._pages.get(asked)
        if page is not None:
            return page
        reading = self._reading.get(asked)
        if reading is None:
            reading = self._reading[asked] = asyncio.ensure_future(self._read(asked, run, known))
            reading.add_done_callback(lambda done: self._was_read(asked, done))
        return await asyncio.shield(reading)

    def _was_read(self, asked: _Asked, reading: asyncio.Future[Events]) -> None:
        del self._reading[asked]
        if not reading.cancelled() and reading.exception() is None and reading.result().events:
            _keep(self._pages, asked, reading.result(), KEPT_PAGES)

    async def steps(self, run: RunRow, as_of: int, first: int, limit: int) -> tuple[list[ItemRow], list[Item]]:
        """The run's items from index `first` on as they stood right after position `as_of`: those that had ended, and the active ones.
        Raises `JournalError`."""
        place = self._beginning(run)
        ended: list[ItemRow] = []
        async with aclosing(self._events(run, place, as_of)) as events:
            async for event, position, at_ms in events:
                await self._take(place.replica, event, position, at_ms)
                ended += [row for row in place.replica.ended_items() if first <= row.item < first + limit]
        return sorted(ended, key=lambda row: row.item), place.replica.items_of(first, limit)

    async def _read(self, asked: _Asked, run: RunRow, known: Known) -> Events:
        place = self._places.pop(asked[:3], None)
        if place is not None:
            return await self._from(place, asked, run)
        try:
            return await self._from(self._beginning(run), asked, run)
        except JournalTrimmed:
            flows = known() or {run.run: await self._flows.load(run.flow) or GONE}
            replica = LateReplica(run.run, run.partition, flows)
            return await self._from(_Place(replica, max(0, (asked[2] + 1) // PER_FRAME - 1)), asked, run)

    async def _from(self, place: _Place, asked: _Asked, run: RunRow) -> Events:
        after, limit, max_bytes = asked[2:]
        found, place.left = place.left, []
        size = _size(found)
        async with aclosing(self._events(run, place)) as events:
            async for event, position, at_ms in events:
                told = await self._told(place, event, position, at_ms)
                if position <= after:
                    continue
                size += _size(told)
                if found and (len(found) + len(told) > limit or size > max_bytes):
                    place.left = told
                    break
                found += told
        over = place.replica.is_over() and not place.left
        if not over:
            _keep(self._places, (run.run, run.created_sequence, found[-1].position if found else after), place, KEPT)
        return Events(found, ended=over)

    async def _told(self, place: _Place, event: Event, position: int, at_ms: int) -> list[RunEvent]:
        flow = place.replica.flow_of(event.run)
        follows = await self._take(place.replica, event, position, at_ms)
        return status_events(event, position, at_ms, flow, follows)

    def _beginning(self, run: RunRow) -> _Place:
        return _Place(Replica(run.run, run.partition), run.created_sequence - 1)

    async def _events(self, run: RunRow, place: _Place, through: int | None = None) -> AsyncGenerator[tuple[Event, int, int], None]:
        """Those that concern the run, with position and time; moves the place behind each before it is given."""
        if place.replica.is_over():
            return
        async for frame in self._journal.read(run.partition, after=place.frame):
            if through is not None and frame.sequence > through // PER_FRAME:
                return
            turn = decode_turn(frame.payload)
            while place.index < len(turn.events):
                event, position = turn.events[place.index], frame.sequence * PER_FRAME + place.index
                if through is not None and position > through:
                    return
                place.index += 1
                if place.replica.concerns(event):
                    yield event, position, turn.at_ms
                    if place.replica.is_over():
                        return
            place.frame, place.index = frame.sequence, 0

    async def _take(self, replica: Replica, event: Event, position: int, at_ms: int) -> Consequences:
        flow = await self._flows.load(event.flow, event.overrides) if isinstance(event, RunCreated) else None
        return replica.take(event, position, at_ms, flow)


def _size(told: list[RunEvent]) -> int:
    return sum(len(one.data) for one in told)


def _keep(kept: OrderedDict[_K, _V], key: _K, value: _V, limit: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > limit:
        kept.popitem(last=False)
