"""What happened: frozen, versioned, append-only. A released event never changes its meaning; a new meaning is a new class with a new tag.

Events of one turn share the turn's time, so they carry none. Steps go by index into the run's compiled flow, whose
document is content addressed and stored before the run exists.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from stepmesh_broker.protocol.ids import FlowId, Namespace, RunId
from stepmesh_broker.protocol.letters import Waiter
from stepmesh_broker.protocol.messages import Failure
from stepmesh_orchestrator.core.compression import compressed, expanded
from stepmesh_orchestrator.core.function_events import FunctionEvent
from stepmesh_orchestrator.core.gate_events import GateEvent
from stepmesh_orchestrator.core.schedule_events import ScheduleEvent
from stepmesh_orchestrator.core.seeds import Seed, SeededRun


class Parent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The step that a sub-run belongs to. `kind`: eval, map, iterate (the core waits for it), worker (a component started it) or function
    (a command of it did)."""

    run: RunId
    item: int
    step: int
    kind: str
    ordinal: int = 0  # of an iteration, from 0; of a function: where the command stands in its history


class RunCreated(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """`inputs`: one JSON text per item. `limit`: tasks in flight in the tree; `item_limit`: items in flight in this run; 0 = none.

    `variables`: those given or inherited, a JSON object. `overrides`: as submitted.
    """

    run: RunId
    root: RunId
    namespace: Namespace
    flow: FlowId
    inputs: list[bytes]
    limit: int
    item_limit: int
    overrides: bytes | None = None
    variables: bytes | None = None
    run_key: str | None = None
    parent: Parent | None = None
    traceparent: str = ""
    tags: dict[str, str] | None = None
    priority: int = 0


class ItemStarted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """The next item of the run (they start in order)."""

    run: RunId
    item: int


class StepDispatched(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """An attempt was handed to its pool and holds a slot."""

    run: RunId
    item: int
    step: int
    attempt: int


class StepSucceeded(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """The step has its output (JSON)."""

    run: RunId
    item: int
    step: int
    output: bytes


class StepFailed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """The step failed for good. `inherited`: with the error of a step that it needs; it never ran."""

    run: RunId
    item: int
    step: int
    failure: Failure
    inherited: bool = False


class StepDefaulted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """The step failed and `onError` gave `output` instead."""

    run: RunId
    item: int
    step: int
    output: bytes
    failure: Failure


class StepSkipped(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=7):
    """By its own `skip`, or because it refers to a skipped step."""

    run: RunId
    item: int
    step: int


class StepRetrying(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=8):
    """`attempt` failed; the next one starts at `due_ms`. `transport`: counted against the transport budget, else the component's."""

    run: RunId
    item: int
    step: int
    attempt: int
    failure: Failure
    due_ms: int
    transport: bool


class StepSleeping(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=9):
    """A durable timer: the step succeeds with `output` at `due_ms`."""

    run: RunId
    item: int
    step: int
    due_ms: int
    output: bytes


class ItemEnded(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=10):
    """An item has its result: `output`, or `failure`."""

    run: RunId
    item: int
    output: bytes | None
    failure: Failure | None = None


class RunEnded(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=11):
    """All items ended. `status`: completed, failed or cancelled."""

    run: RunId
    status: str


class RunCancelled(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=12):
    """From here on nothing of this run starts and no result of it counts; its items end as cancelled."""

    run: RunId
    reason: str


class StepFallingBack(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=13):
    """The step failed for good, and its `onError.defaultValue` needs other steps first. It holds no slot."""

    run: RunId
    item: int
    step: int
    failure: Failure


class RunDeleted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=14):
    """An ended root run is gone with its sub-runs: the read model forgets them, and no rebuild of it brings them back.

    `keyed`: the root and those sub-runs that were submitted with a run key; the keys are free again."""

    run: RunId
    keyed: list[RunId]


class TreeDormant(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=15):
    """A root run leaves memory with its sub-runs, until `wakes_ms` or until somebody asks for it: nothing of it is in flight. `image`:
    all that events said of them. `others`: the sub-runs."""

    run: RunId
    wakes_ms: int
    image: bytes
    others: list[RunId] = []


class TreeWoken(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=16):
    """A dormant root run is back with its sub-runs, as the image says, which is the one that it left with."""

    run: RunId
    image: bytes


NO_RUN = RunId("")
"""Of events that are about no run of their partition."""


class EventReceived(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=20):
    """An event from outside is kept at its address. `dropped_through`: its older ones up to this position are kept no more; 0 = none."""

    run: ClassVar[RunId] = NO_RUN
    name: str
    key: str
    id: str
    payload: bytes
    dropped_through: int = 0
    scope: str = ""  # of the address, see `ids.scope_of`


class WaiterPlaced(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=21):
    """Somebody waits at an address for an event since `since_ms`. `offered`: position of the event that it is given; 0 = none so far."""

    run: ClassVar[RunId] = NO_RUN
    name: str
    key: str
    waiter: Waiter
    since_ms: int
    offered: int = 0
    scope: str = ""


class WaiterLeft(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=22):
    """It does so no more."""

    run: ClassVar[RunId] = NO_RUN
    name: str
    key: str
    waiter: Waiter
    scope: str = ""


class StepAwaiting(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=23):
    """The step waits for somebody outside, until `due_ms` (0: for as long as it takes). `awaited`: for what (see `decide/waits.py`)."""

    run: RunId
    item: int
    step: int
    due_ms: int
    awaited: bytes


class WaitOver(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=24):
    """A wait at an address is over, and the address's home is told. `position`: of the event that it took there, and that no other wait of
    its run takes; 0 = none. What comes of that is the next event."""

    name: str
    key: str
    waiter: Waiter
    position: int = 0
    scope: str = ""

    @property
    def run(self) -> RunId:
        """Its run."""
        return self.waiter.run

    @property
    def item(self) -> int:
        """Its item."""
        return self.waiter.item

    @property
    def step(self) -> int:
        """Its step."""
        return self.waiter.step


class RunPaused(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=25):
    """From here on nothing new of the tree of this root run starts, and no timer of it takes effect; what is in flight counts."""

    run: RunId
    reason: str = ""


class RunResumed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=26):
    """The tree of this root run goes on where it stood; timers that came due meanwhile are due now."""

    run: RunId


class StepWoken(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=27):
    """The step's sleep is over before its time: it is due now."""

    run: RunId
    item: int
    step: int


class RunSeeded(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=28):
    """The run, which was created just now, takes over results of `source`: its item i is the item `items[i]` there, and begins with
    `seeds[i]`. Those steps do not run. `below`: what is kept for sub-runs of its tree."""

    run: RunId
    source: RunId
    items: list[int]
    seeds: list[list[Seed]]
    below: list[SeededRun] = []


Event = (
    RunCreated
    | ItemStarted
    | StepDispatched
    | StepSucceeded
    | StepFailed
    | StepDefaulted
    | StepSkipped
    | StepRetrying
    | StepSleeping
    | ItemEnded
    | RunEnded
    | RunCancelled
    | StepFallingBack
    | RunDeleted
    | TreeDormant
    | TreeWoken
    | FunctionEvent
    | GateEvent
    | EventReceived
    | WaiterPlaced
    | WaiterLeft
    | StepAwaiting
    | WaitOver
    | RunPaused
    | RunResumed
    | StepWoken
    | RunSeeded
    | ScheduleEvent
)

PER_FRAME = 1_000_000
"""The position of an event is frame × this + its index in the frame: it grows, and survives restarts because the journal does."""


class Turn(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One journal frame: every event of a turn and the inbox position that it consumed up to.

    `confirmed`: the effects of all frames up to this sequence are known to be published.
    """

    format: int
    at_ms: int
    inbox: int
    confirmed: int
    events: list[Event]


class _Frame(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A turn as the journal has it. `packed`: the events, compressed, and then `events` is empty."""

    format: int
    at_ms: int
    inbox: int
    confirmed: int
    events: msgspec.Raw
    packed: bytes = b""


TURN_FORMAT = 1
_PACKED_FORMAT = 2
"""Of a frame whose events are compressed: an earlier release says that it cannot read it."""
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Frame)
_events_decoder = msgspec.msgpack.Decoder(list[Event])


def encode_turn(turn: Turn) -> bytes:
    """The payload of a journal frame."""
    return encode_frame(turn)[0]


def encode_frame(turn: Turn) -> tuple[bytes, int]:
    """The payload, and how many bytes its events are when they are read."""
    events = _encoder.encode(turn.events)
    packed = compressed(events)
    if packed:
        return _encoder.encode((_PACKED_FORMAT, turn.at_ms, turn.inbox, turn.confirmed, (), packed)), len(events)
    plain = (turn.format, turn.at_ms, turn.inbox, turn.confirmed, msgspec.Raw(events))
    return _encoder.encode(plain), len(events)


def decode_turn(payload: bytes) -> Turn:
    """Raises `ValueError` for a payload that is no turn, or of a newer format."""
    frame, events = _opened(payload)
    return Turn(TURN_FORMAT, frame.at_ms, frame.inbox, frame.confirmed, _events_decoder.decode(events))


def decode_turn_about(payload: bytes, run: RunId) -> Turn | None:
    """None, at little cost, for a turn whose events do not name the run. Raises `ValueError` as `decode_turn` does."""
    frame, events = _opened(payload)
    if run.encode() not in events:
        return None
    return Turn(TURN_FORMAT, frame.at_ms, frame.inbox, frame.confirmed, _events_decoder.decode(events))


def _opened(payload: bytes) -> tuple[_Frame, bytes]:
    frame = _decoder.decode(payload)
    if frame.format > _PACKED_FORMAT:
        raise ValueError(f"journal frame of format {frame.format}; this version reads up to {_PACKED_FORMAT}")
    return frame, expanded(frame.packed) if frame.format == _PACKED_FORMAT else bytes(frame.events)
