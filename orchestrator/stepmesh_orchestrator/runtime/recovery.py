"""From a journal to a state: the newest snapshot that verifies, then every frame after it, through the same appliers as live.

Nothing is decided here. What the last frames caused but may not have been sent is listed, to be sent again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from stepmesh_broker.protocol.ids import FlowId, Partition
from stepmesh_orchestrator.core.events import RunCreated, StepDispatched, Turn, decode_turn
from stepmesh_orchestrator.core.projection import apply
from stepmesh_orchestrator.core.rows import ItemRow, RunRow
from stepmesh_orchestrator.core.snapshot import decode_state, flows_in
from stepmesh_orchestrator.core.state import State
from stepmesh_orchestrator.ports import Journal, JournalError
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.leases import Key
from stepmesh_orchestrator.runtime.projector import Projector

log = logging.getLogger("stepmesh.recovery")


@dataclass(slots=True)
class Recovered:
    """A replayed partition. `unsent`: attempts that frames after the confirmed one dispatched."""

    state: State
    snapshot_sequence: int
    unsent: set[Key] = field(default_factory=set)


async def recover(journal: Journal, partition: Partition, flows: FlowRegistry, projector: Projector) -> Recovered:
    """Replay. Raises `JournalCorrupt` where the journal is, `JournalError` SM-4008 for a flow that the store has lost.

    Frames that the snapshot holds are read once more from the confirmed one on: what they dispatched may never have been sent.
    """
    state = await _from_snapshot(journal, partition, flows)
    snapshot_sequence = state.sequence
    dispatched: dict[Key, int] = {}
    projected = await projector.position()
    async for frame in journal.read(partition, after=min(state.confirmed, state.sequence)):
        turn = decode_turn(frame.payload)
        for event in turn.events:
            if isinstance(event, StepDispatched):
                dispatched[event.run, event.item, event.step] = frame.sequence
        if frame.sequence <= snapshot_sequence:
            continue
        await _load_flows(turn, flows)
        rows: list[RunRow | ItemRow] = []
        for event in turn.events:
            apply(state, event, turn.at_ms, flows, rows)
        state.sequence, state.inbox, state.confirmed = frame.sequence, turn.inbox, turn.confirmed
        if frame.sequence > projected:
            projector.put(frame.sequence, rows)
    unsent = {key for key, sequence in dispatched.items() if sequence > state.confirmed}
    return Recovered(state, snapshot_sequence, unsent)


async def _from_snapshot(journal: Journal, partition: Partition, flows: FlowRegistry) -> State:
    for snapshot in await journal.snapshots(partition):
        try:
            for flow, overrides in flows_in(snapshot.payload):
                await _load(flows, flow, overrides)
            return decode_state(snapshot.payload, flows)
        except (ValueError, LookupError) as problem:
            log.warning("snapshot %d of partition %d is of no use, trying an older one: %s", snapshot.sequence, partition, problem)
    return State(partition)


async def _load_flows(turn: Turn, flows: FlowRegistry) -> None:
    for event in turn.events:
        if isinstance(event, RunCreated):
            await _load(flows, event.flow, event.overrides)


async def _load(flows: FlowRegistry, flow: FlowId, overrides: bytes | None) -> None:
    if await flows.load(flow, overrides) is None:
        raise JournalError(
            f"the journal names flow {flow}, which the store does not have",
            code="SM-4008",
            hint="restore the store that belongs to this journal",
        )
