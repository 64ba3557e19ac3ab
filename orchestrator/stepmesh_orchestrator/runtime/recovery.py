"""From a journal to a state: the newest snapshot that verifies, then every frame after it, through the same appliers as live.

Nothing is decided here. What the last frames caused but may not have been sent is listed, to be sent again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from stepmesh_broker.protocol.ids import FlowId, Partition
from stepmesh_orchestrator.core.events import Event, RunCreated, StepDispatched, TreeWoken, Turn, WaitOver, decode_turn
from stepmesh_orchestrator.core.evolve.dormancy import flows_needed
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.gone import GONE, can_be_applied
from stepmesh_orchestrator.core.projection import apply
from stepmesh_orchestrator.core.rows import Row
from stepmesh_orchestrator.core.snapshot import decode_state, flows_in
from stepmesh_orchestrator.core.state import State
from stepmesh_orchestrator.ports import Journal, JournalError, Ownership
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.leases import Key
from stepmesh_orchestrator.runtime.projector import Projector

log = logging.getLogger("stepmesh.recovery")
Watch = Callable[[State, Event, int], None]
"""Sees an event, and when it happened (ms)."""


@dataclass(slots=True)
class Recovered:
    """A replayed partition. `unsent`: attempts that frames after the confirmed one dispatched; `untold`: ends of waits, likewise."""

    state: State
    snapshot_sequence: int
    unsent: set[Key] = field(default_factory=set)
    untold: list[WaitOver] = field(default_factory=list[WaitOver])


async def recover(journal: Journal, partition: Partition, flows: FlowRegistry, projector: Projector) -> Recovered:
    """Replay. Raises `JournalCorrupt` where the journal is, `JournalError` SM-4008 for a flow that a live run needs and the store has lost.

    Frames that the snapshot holds are read once more from the confirmed one on: what they dispatched may never have been sent.
    """
    known = ReplayFlows(flows)
    state = await _from_snapshot(journal, partition, known)
    snapshot_sequence = state.sequence
    dispatched: dict[Key, int] = {}
    over: list[tuple[int, WaitOver]] = []
    projected = await projector.position()
    async for frame in journal.read(partition, after=min(state.confirmed, state.sequence)):
        turn = decode_turn(frame.payload)
        for event in turn.events:
            if isinstance(event, StepDispatched):
                dispatched[event.run, event.item, event.step] = frame.sequence
            elif isinstance(event, WaitOver):
                over.append((frame.sequence, event))
        if frame.sequence <= snapshot_sequence:
            continue
        rows: list[Row] = []
        await replay(state, frame.sequence, turn, known, rows)
        if frame.sequence > projected:
            projector.put(frame.sequence, rows)
    await _check(state, known)
    unsent = {key for key, sequence in dispatched.items() if sequence > state.confirmed}
    untold = [event for sequence, event in over if sequence > state.confirmed]
    return Recovered(state, snapshot_sequence, unsent, untold)


def check_whole(state: State, ownership: Ownership) -> None:
    """Raises `JournalError` SM-4230 when the replay ended before the last frame: a server may show less than it told the new owner."""
    if state.sequence + 1 != ownership.next_sequence:
        raise JournalError(
            f"the journal showed partition {state.partition} up to frame {state.sequence}, and has {ownership.next_sequence - 1}",
            code="SM-4230",
            hint="the partition is recovered anew; if this comes again and again, see the server's log",
        )


class ReplayFlows:
    """The flows that a replay needs. One that the store does not have is `GONE`: it was deleted after its last run had ended."""

    def __init__(self, flows: FlowRegistry) -> None:
        self._flows = flows
        self.gone: set[FlowId] = set()

    async def load(self, flow: FlowId, overrides: bytes | None) -> None:
        """Have it at hand. Raises `StoreError`."""
        if await self._flows.load(flow, overrides) is None:
            self.gone.add(flow)

    def get(self, flow: FlowId, overrides: bytes | None = None) -> CompiledFlow | None:
        """See `FlowLookup`."""
        return GONE if flow in self.gone else self._flows.get(flow, overrides)


async def _from_snapshot(journal: Journal, partition: Partition, known: ReplayFlows) -> State:
    for snapshot in await journal.snapshots(partition):
        try:
            for flow, overrides in flows_in(snapshot.payload):
                await known.load(flow, overrides)
            return decode_state(snapshot.payload, known)
        except (ValueError, LookupError) as problem:
            log.warning("snapshot %d of partition %d is of no use, trying an older one: %s", snapshot.sequence, partition, problem)
    return State(partition)


async def replay(state: State, sequence: int, turn: Turn, known: ReplayFlows, rows: list[Row], watch: Watch | None = None) -> None:
    """Apply the frame that comes next, and append its rows. `watch` sees each event, with the state just before it."""
    for event in turn.events:
        if isinstance(event, RunCreated | TreeWoken):
            for flow, overrides in flows_needed(event):
                await known.load(flow, overrides)
    for event in turn.events:
        if not known.gone or can_be_applied(state, event):
            if watch is not None:
                watch(state, event, turn.at_ms)
            apply(state, event, turn.at_ms, known, rows)
    state.sequence, state.inbox, state.confirmed = sequence, turn.inbox, turn.confirmed


async def _check(state: State, known: ReplayFlows) -> None:
    lost = next(((f"run {run.id}", run.flow_id) for run in state.runs.values() if run.flow is GONE), None)
    for flow in state.dormant.flows if lost is None else ():
        await known.load(flow, None)
        if flow in known.gone:
            lost = ("a dormant run", flow)
    if lost is not None:
        raise JournalError(
            f"{lost[0]} of the journal needs flow {lost[1]}, which the store does not have",
            code="SM-4008",
            hint="restore the store that belongs to this journal",
        )
