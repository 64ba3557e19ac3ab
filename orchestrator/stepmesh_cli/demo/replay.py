"""Replays of a journal that nobody writes any more, to compare: twice from the first frame, and the state that the orchestrator kept.

Only reads.
"""

from __future__ import annotations

from stepmesh_broker.protocol.ids import Partition
from stepmesh_cli.demo.history import FIRST
from stepmesh_orchestrator.clock import SystemClock
from stepmesh_orchestrator.core.events import decode_turn
from stepmesh_orchestrator.core.evolve.dormancy import flows_needed
from stepmesh_orchestrator.core.projection import apply
from stepmesh_orchestrator.core.rows import Row
from stepmesh_orchestrator.core.snapshot import decode_state, flows_in, state_hash
from stepmesh_orchestrator.core.state import State
from stepmesh_orchestrator.ports import Journal, Store
from stepmesh_orchestrator.runtime.flows import FlowRegistry


async def replayed(journal: Journal, store: Store, partition: Partition = FIRST, through: int | None = None) -> tuple[int, str]:
    """(frames, state hash) after every frame up to `through`, applied to an empty state. Raises `JournalCorrupt`."""
    flows = FlowRegistry(store, SystemClock())
    state = State(partition)
    async for frame in journal.read(partition):
        if through is not None and frame.sequence > through:
            break
        turn = decode_turn(frame.payload)
        rows: list[Row] = []
        for event in turn.events:
            for flow, overrides in flows_needed(event):
                await flows.load(flow, overrides)
            apply(state, event, turn.at_ms, flows, rows)
        state.sequence, state.inbox, state.confirmed = frame.sequence, turn.inbox, turn.confirmed
    return state.sequence, state_hash(state)


async def kept(journal: Journal, store: Store, partition: Partition = FIRST) -> tuple[int, str] | None:
    """(frame, state hash) of the newest snapshot: what the live orchestrator had in memory then. None without a snapshot."""
    flows = FlowRegistry(store, SystemClock())
    for snapshot in await journal.snapshots(partition):
        for flow, overrides in flows_in(snapshot.payload):
            await flows.load(flow, overrides)
        return snapshot.sequence, state_hash(decode_state(snapshot.payload, flows))
    return None
