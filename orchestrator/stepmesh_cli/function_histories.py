"""The histories of durable functions that a journal holds, each with its workflow's component and its input. Only reads.

Invariant: every event is folded by the engine's own appliers, so an input is what the step's expression gave when its body began. A history
ends where another one begins: with another input, or with another attempt. Must not know what is done with them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from stepmesh_broker.protocol.histories import Record
from stepmesh_broker.protocol.ids import Partition, RunId
from stepmesh_orchestrator.core.events import Event, StepRetrying, TreeDormant, decode_turn
from stepmesh_orchestrator.core.evolve.dormancy import flows_of, restore
from stepmesh_orchestrator.core.function_events import FunctionContinued, FunctionUnwound, HistoryGrew
from stepmesh_orchestrator.core.functions import Function
from stepmesh_orchestrator.core.snapshot import decode_state, flows_in
from stepmesh_orchestrator.core.state import Item, State
from stepmesh_orchestrator.journal.inspect import Inspectable
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.recovery import ReplayFlows, replay

_Key = tuple[RunId, int, int]


@dataclass(slots=True)
class Recorded:
    """One. `place`: what its body is known by to others. `input`: JSON text. `began_ms`: when its first record came."""

    run: RunId
    step_id: str
    component: str
    place: str
    input: bytes
    began_ms: int
    records: list[Record] = field(default_factory=list[Record])


async def read_histories(journal: Inspectable, flows: FlowRegistry) -> list[Recorded]:
    """All that the journal holds, oldest first. Of what was trimmed, those that a snapshot has. Raises `JournalError`, `StoreError`."""
    found: list[Recorded] = []
    for partition in await journal.partitions():
        found += await _of_partition(journal, ReplayFlows(flows), partition)
    return sorted(found, key=lambda one: one.began_ms)


async def _of_partition(journal: Inspectable, flows: ReplayFlows, partition: Partition) -> list[Recorded]:
    reader = _Reader()
    trimmed = await journal.trimmed(partition)
    state = await _oldest(journal, partition, flows) if trimmed else State(partition)
    reader.take_state(state)
    async for frame in journal.read(partition, trimmed):
        turn = decode_turn(frame.payload)
        if frame.sequence > state.sequence:
            await replay(state, frame.sequence, turn, flows, [], reader.watch)
            continue
        for event in turn.events:
            if isinstance(event, TreeDormant) and event.run in state.dormant:
                reader.take_state(await _resting(event, partition, flows))
    return reader.found


async def _oldest(journal: Inspectable, partition: Partition, flows: ReplayFlows) -> State:
    """What the oldest snapshot says: most of the journal lies behind it."""
    for snapshot in reversed(list(await journal.snapshots(partition))):
        for flow, overrides in flows_in(snapshot.payload):
            await flows.load(flow, overrides)
        return decode_state(snapshot.payload, flows)
    return State(partition)


async def _resting(event: TreeDormant, partition: Partition, flows: ReplayFlows) -> State:
    for flow, overrides in flows_of(event.image):
        await flows.load(flow, overrides)
    state = State(partition)
    restore(state, event.run, event.image, flows)
    return state


class _Reader:
    def __init__(self) -> None:
        self.found: list[Recorded] = []
        self._open: dict[_Key, Recorded] = {}

    def take_state(self, state: State) -> None:
        """What is already there of functions, when the journal is read from a later place on."""
        for run in state.runs.values():
            for item in run.items.values():
                for step, function in (item.functions or {}).items():
                    if function.records:
                        self._begin(item, step, function, 0)

    def watch(self, state: State, event: Event, at_ms: int) -> None:
        """See `recovery.Watch`."""
        if isinstance(event, HistoryGrew):
            recorded = self._open.get((event.run, event.item, event.step))
            if recorded is None:
                item = state.runs[event.run].items[event.item]
                recorded = self._begin(item, event.step, (item.functions or {}).get(event.step) or Function(), at_ms)
            recorded.records += event.records
        elif isinstance(event, FunctionContinued | FunctionUnwound) or (isinstance(event, StepRetrying) and not event.transport):
            self._open.pop((event.run, event.item, event.step), None)

    def _begin(self, item: Item, step: int, function: Function, at_ms: int) -> Recorded:
        key = item.run.id, item.index, step
        compiled = item.run.flow.steps[step]
        given = compiled.input.render(item) if function.input is None else function.input
        began_ms = function.records[0].at_ms if function.records else at_ms
        recorded = Recorded(key[0], compiled.id, compiled.component, f"{key[0]}.{key[1]}.{step}", given, began_ms, [*function.records])
        self._open[key] = recorded
        self.found.append(recorded)
        return recorded
