"""The journal as a flat list: every event with its frame and time, and the names that the flows give to steps.

Only reads: nothing here takes a partition over. Must not know the ledger.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from stepmesh_broker.protocol.ids import FlowId, Partition, RunId
from stepmesh_orchestrator.clock import SystemClock
from stepmesh_orchestrator.core.events import Event, RunCreated, decode_turn
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.ports import Journal, JournalError, Store
from stepmesh_orchestrator.runtime.flows import FlowRegistry

FIRST = Partition(0)
"""The demo has one partition."""


class Entry(NamedTuple):
    """`sequence`: of its frame, from 1; `at_ms`: the time of that frame's turn, which began before the frame was durable."""

    sequence: int
    at_ms: int
    event: Event


@dataclass(slots=True)
class History:
    """All events of one partition, in order, and the compiled flow of every run."""

    entries: list[Entry] = field(default_factory=list[Entry])
    flows: dict[RunId, CompiledFlow] = field(default_factory=dict[RunId, CompiledFlow])
    created: dict[RunId, RunCreated] = field(default_factory=dict[RunId, RunCreated])

    def step_id(self, run: RunId, step: int) -> str:
        """As the flow calls it."""
        return self.flows[run].steps[step].id

    def component(self, run: RunId, step: int) -> str:
        """Path as the flow names it."""
        return self.flows[run].steps[step].component

    def add(self, entry: Entry, flow: CompiledFlow | None = None) -> None:
        """The next event; with a `RunCreated` comes its flow."""
        if isinstance(entry.event, RunCreated) and flow is not None:
            self.flows[entry.event.run] = flow
            self.created[entry.event.run] = entry.event
        self.entries.append(entry)

    def root_item(self, run: RunId, item: int) -> tuple[RunId, int]:
        """The item of the root run that an item of a sub-run belongs to."""
        parent = self.created[run].parent
        return (run, item) if parent is None else self.root_item(parent.run, parent.item)


async def read_history(journal: Journal, store: Store, partition: Partition = FIRST) -> History:
    """Raises `JournalCorrupt`, or `JournalError` for a flow that the store does not have."""
    history = History()
    registry = FlowRegistry(store, SystemClock())
    async for frame in journal.read(partition):
        turn = decode_turn(frame.payload)
        for event in turn.events:
            flow = await _flow(registry, event.flow, event.overrides) if isinstance(event, RunCreated) else None
            history.add(Entry(frame.sequence, turn.at_ms, event), flow)
    return history


async def _flow(registry: FlowRegistry, flow: FlowId, overrides: bytes | None) -> CompiledFlow:
    found = await registry.load(flow, overrides)
    if found is None:
        raise JournalError(f"the journal names flow {flow}, which the store does not have", code="SM-4008")
    return found
