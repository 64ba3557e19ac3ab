"""How a run stood at a place of its journal: every event up to there, folded by the engine's own appliers. Only reads.

Invariant: nothing is decided; what follows from the events (which steps are needed, what each waits for) is derived by the rules of the
live engine. Must not know where journal and store lie.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import NamedTuple

from stepmesh_broker.protocol.ids import Partition, RunId, partition_of
from stepmesh_cli.function_moments import Told
from stepmesh_orchestrator.core.events import PER_FRAME, Event, RunCreated, decode_turn
from stepmesh_orchestrator.core.explain import explain
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.function_events import FunctionContinued, FunctionTookOver, FunctionUnwound, HistoryGrew
from stepmesh_orchestrator.core.gone import GONE
from stepmesh_orchestrator.core.projection import run_row
from stepmesh_orchestrator.core.replica import Replica
from stepmesh_orchestrator.core.rows import ItemRow, RunRow
from stepmesh_orchestrator.core.state import Item
from stepmesh_orchestrator.journal.inspect import Inspectable
from stepmesh_orchestrator.runtime.answers import cause_line
from stepmesh_orchestrator.runtime.flows import FlowRegistry

FOR_EVER = 2**63


class _Entry(NamedTuple):
    event: Event
    position: int
    at_ms: int


@dataclass(slots=True)
class Moment:
    """Right after `position`, at `at_ms`. `ended`: items that had ended, by index. `functions`: durable ones, by item and step, also those
    that had ended."""

    created: RunCreated
    replica: Replica
    flow: CompiledFlow
    position: int = 0
    at_ms: int = 0
    row: RunRow | None = None
    ended: dict[int, ItemRow] = field(default_factory=dict[int, ItemRow])
    functions: dict[tuple[int, int], Told] = field(default_factory=dict[tuple[int, int], Told])

    @property
    def run(self) -> RunRow:
        """The run as it was then."""
        live = self.replica.state.runs.get(self.created.run)
        found = self.row if live is None else run_row(self.replica.state, live)
        assert found is not None, "its creation made one"
        return found

    @property
    def step_ids(self) -> list[str]:
        """Of its flow."""
        return [step.id for step in self.flow.steps]

    @property
    def active(self) -> list[Item]:
        """Items that were under way."""
        return self.replica.items_of(0, len(self.created.inputs))

    @property
    def waits(self) -> list[str]:
        """What it waited for; nothing of a run that was over."""
        live = self.replica.state.runs.get(self.created.run)
        return [] if live is None else [cause_line(one, "") for one in explain(self.replica.state, live, self.at_ms)]

    def add(self, entry: _Entry) -> None:
        """What an event that was taken just now has changed."""
        self.position, self.at_ms = entry.position, entry.at_ms
        for row in self.replica.rows:
            if isinstance(row, RunRow) and row.run == self.created.run:
                self.row = row
        self._look(entry.event)
        self.ended.update((row.item, row) for row in self.replica.ended_items())

    def _look(self, event: Event) -> None:
        """At a durable function of the run, before its item may end."""
        live = self.replica.state.runs.get(self.created.run)
        if (
            live is None
            or event.run != live.id
            or not isinstance(event, HistoryGrew | FunctionContinued | FunctionTookOver | FunctionUnwound)
        ):
            return
        item = live.items.get(event.item)
        function = None if item is None else (item.functions or {}).get(event.step)
        known = self.functions.get((event.item, event.step))
        if function is None:
            return
        if known is None or known.function is not function:
            known = self.functions[event.item, event.step] = Told(function)
        for id in event.abandoned if isinstance(event, HistoryGrew) else ():
            known.abandoned.setdefault(id, len(function.records))


def last_position(until: int | None) -> int:
    """`until` is the number of a frame, or a position as `stepmesh events` shows it; None: the end."""
    if until is None:
        return FOR_EVER
    return until if until >= PER_FRAME else (until + 1) * PER_FRAME - 1


async def moment_of(journal: Inspectable, flows: FlowRegistry, run: RunId, until: int | None) -> Moment | None:
    """None when the journal, up to there, does not know the run. Raises `JournalError`, `StoreError`."""
    partitions = list(await journal.partitions())
    likely = partition_of(run, max(partitions) + 1) if partitions else None
    for partition in sorted(partitions, key=lambda one: one != likely):  # a sub-run lives where its root does
        found = await _moment_in(journal, flows, partition, run, last_position(until))
        if found is not None:
            return found
    return None


async def _moment_in(journal: Inspectable, flows: FlowRegistry, partition: Partition, run: RunId, last: int) -> Moment | None:
    moment: Moment | None = None
    async for entry in _entries(journal, partition, last):
        event = entry.event
        if moment is None:
            if not (isinstance(event, RunCreated) and event.run == run):
                continue
            moment = Moment(event, Replica(run, partition), await flows.load(event.flow, event.overrides) or GONE)
        elif not moment.replica.concerns(event) or moment.replica.is_over():
            continue
        flow = await flows.load(event.flow, event.overrides) if isinstance(event, RunCreated) else None
        moment.replica.take(event, entry.position, entry.at_ms, flow)
        moment.add(entry)
    return moment


async def _entries(journal: Inspectable, partition: Partition, last: int) -> AsyncIterator[_Entry]:
    async for frame in journal.read(partition, await journal.trimmed(partition)):
        turn = decode_turn(frame.payload)
        for index, event in enumerate(turn.events):
            position = frame.sequence * PER_FRAME + index
            if position > last:
                return
            yield _Entry(event, position, turn.at_ms)
