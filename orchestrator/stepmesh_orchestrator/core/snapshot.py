"""State ⇄ bytes. What is derived is left out and derived again, so equal states have equal bytes, and those a hash."""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Generator

import msgspec

from stepmesh_broker.protocol.ids import FlowId, Namespace, Partition, RunId
from stepmesh_broker.protocol.messages import Failure
from stepmesh_orchestrator.core.events import PER_FRAME, Parent
from stepmesh_orchestrator.core.evolve.lookup import FlowLookup
from stepmesh_orchestrator.core.evolve.runs import effective_variables
from stepmesh_orchestrator.core.flow.plan import SKIPPED, Outcome, Skipped
from stepmesh_orchestrator.core.state import DERIVED, IDLE, RETRYING, Item, Run, State, Tree, Wait, may_have_room

SNAPSHOT_FORMAT = 1


class _ItemImage(msgspec.Struct, array_like=True, gc=False):
    index: int
    input: bytes
    outcomes: list[bytes | Failure | bool | None]  # False: skipped
    phases: bytes
    times: bytes
    waits: dict[int, Wait] | None


class _RunImage(msgspec.Struct, array_like=True, gc=False):
    id: RunId
    root: RunId
    namespace: Namespace
    flow: FlowId
    inputs: list[bytes | None]
    item_limit: int
    overrides: bytes | None
    given: bytes | None
    run_key: str | None
    parent: Parent | None
    traceparent: str
    tags: dict[str, str] | None
    created_ms: int
    created_sequence: int
    next_item: int
    completed: int
    failed: int
    cancelled: int
    stopping: bool
    items: list[_ItemImage]
    children: list[RunId] | None
    results: dict[int, bytes | Failure] | None


class _TreeImage(msgspec.Struct, array_like=True, gc=False):
    root: RunId
    limit: int
    in_flight: int
    ended: dict[RunId, str]


class _Places(msgspec.Struct, array_like=True, gc=False):
    """Where a run's events lie: not what they said, so it has no part in the hash."""

    created_at: int
    depth: int
    positions: dict[int, bytes]  # of active items


class _StateImage(msgspec.Struct, array_like=True, gc=False):
    format: int
    partition: Partition
    sequence: int
    inbox: int
    confirmed: int
    trees: list[_TreeImage]
    runs: list[_RunImage]
    finished: dict[RunId, tuple[int, str, str | None]]
    keys: dict[str, RunId]
    places: dict[RunId, _Places] = {}


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_StateImage)


def encode_state(state: State, *, places: bool = True) -> bytes:
    """All that events said, and, with `places`, where they lie in the journal."""
    work = encoding(state, 0, places=places)
    try:
        while True:
            next(work)
    except StopIteration as done:
        return bytes(done.value)


def encoding(state: State, runs_at_once: int, *, places: bool = True) -> Generator[None, None, bytes]:
    """`encode_state` with a pause after each `runs_at_once` runs (0: none). The state must not change before the end."""
    trees = [_TreeImage(tree.root, tree.limit, tree.in_flight, tree.ended) for tree in state.trees.values()]
    runs: list[msgspec.Raw] = []
    for run in state.runs.values():
        runs.append(msgspec.Raw(_encoder.encode(_run_image(run))))
        if runs_at_once and len(runs) % runs_at_once == 0:
            yield
    image = (SNAPSHOT_FORMAT, state.partition, state.sequence, state.inbox, state.confirmed, trees, runs, state.finished, state.keys)
    if not places:
        return _encoder.encode(image)
    return _encoder.encode((*image, {run.id: _places(run) for run in state.runs.values()}))
    # the fields of _StateImage, with runs that are encoded already


def state_hash(state: State) -> str:
    """Equal for two states that the same events made. `confirmed` is the owner's own progress and not in it."""
    confirmed, state.confirmed = state.confirmed, 0
    try:
        return hashlib.sha256(encode_state(state, places=False)).hexdigest()
    finally:
        state.confirmed = confirmed


def flows_in(payload: bytes) -> list[tuple[FlowId, bytes | None]]:
    """The flows (id, overrides) that must be loaded before `decode_state`."""
    return list({(run.flow, run.overrides): None for run in _decoder.decode(payload).runs})


def decode_state(payload: bytes, flows: FlowLookup) -> State:
    """Raises `ValueError` for bytes that are no snapshot, or of a newer format; `LookupError` for a flow that is not loaded."""
    image = _decoder.decode(payload)
    if image.format > SNAPSHOT_FORMAT:
        raise ValueError(f"snapshot of format {image.format}; this version reads up to {SNAPSHOT_FORMAT}")
    state = State(image.partition)
    state.sequence, state.inbox, state.confirmed = image.sequence, image.inbox, image.confirmed
    state.finished, state.keys = OrderedDict(image.finished), image.keys
    state.trees = {tree.root: Tree(tree.root, tree.limit, tree.in_flight, 0, tree.ended) for tree in image.trees}
    for run_image in image.runs:
        run = _run(run_image, state.trees[run_image.root], flows, image.places.get(run_image.id) or _guessed(run_image, state))
        state.runs[run.id] = run
        run.tree.live += 1
        if run.next_item < run.total:
            run.tree.pending[run.id] = run
            may_have_room(run)
    return state


def _places(run: Run) -> _Places:
    return _Places(run.created_at, run.depth, {index: item.positions.tobytes() for index, item in run.items.items()})


def _guessed(image: _RunImage, state: State) -> _Places:
    """For a snapshot of a release that did not keep them."""
    owner = None if image.parent is None else state.runs.get(image.parent.run)
    depth = 0 if image.parent is None else 1 if owner is None else owner.depth + 1
    return _Places(image.created_sequence * PER_FRAME, depth, {})


def _run_image(run: Run) -> _RunImage:
    return _RunImage(
        run.id, run.tree.root, run.namespace, run.flow_id, run.inputs, run.item_limit, run.overrides, run.given, run.run_key, run.parent,
        run.traceparent, run.tags, run.created_ms, run.created_sequence, run.next_item, run.completed, run.failed, run.cancelled,
        run.stopping, [_item_image(item) for item in run.items.values()], run.children or None, run.results,
    )  # fmt: skip


def _item_image(item: Item) -> _ItemImage:
    outcomes: list[bytes | Failure | bool | None] = [False if isinstance(outcome, Skipped) else outcome for outcome in item.outcomes]
    return _ItemImage(item.index, item.input, outcomes, _recorded_phases(item), item.times.tobytes(), item.waits)


def _recorded_phases(item: Item) -> bytes:
    """What events said of each step. A later attempt that is due but has no slot yet is still a retry on record."""
    phases = bytearray(item.phases)
    phases[-1] = IDLE
    for step, phase in enumerate(phases):
        if phase in DERIVED:
            phases[step] = RETRYING if item.attempt(step) > 1 else IDLE
    return bytes(phases)


def _run(image: _RunImage, tree: Tree, flows: FlowLookup, places: _Places) -> Run:
    flow = flows.get(image.flow, image.overrides)
    if flow is None:
        raise LookupError(f"flow {image.flow} of run {image.id} is not loaded")
    run = Run(
        image.id, image.namespace, flow, image.flow, tree, image.inputs, image.item_limit, image.overrides, image.given,
        effective_variables(flow, image.given), image.run_key, image.parent, image.traceparent, image.tags, image.created_ms,
        image.created_sequence, image.next_item, image.completed, image.failed, image.cancelled, image.stopping, {}, image.children,
        image.results, places.created_at, places.depth,
    )  # fmt: skip
    for item in image.items:
        run.items[item.index] = _item(item, run, places.positions.get(item.index) or bytes(8 * len(item.outcomes)))
    return run


def _item(image: _ItemImage, run: Run, positions: bytes) -> Item:
    outcomes: list[Outcome | None] = [SKIPPED if isinstance(outcome, bool) else outcome for outcome in image.outcomes]
    times = array("q")
    times.frombytes(image.times)
    known = array("q")
    known.frombytes(positions)
    return Item(run, image.index, image.input, outcomes, bytearray(image.phases), times, known, image.waits)
