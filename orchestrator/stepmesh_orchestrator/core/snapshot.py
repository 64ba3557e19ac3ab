"""State ⇄ bytes. What is derived is left out and derived again, so equal states have equal bytes, and those a hash."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Generator

import msgspec

from stepmesh_broker.protocol.ids import FlowId, Partition, RunId
from stepmesh_orchestrator.core.evolve.images import (
    Places,
    RareTreeImage,
    SeededRunImage,
    is_rare,
    places_of,
    restore_run,
    restore_tree,
    run_image,
    tree_image,
)
from stepmesh_orchestrator.core.evolve.lookup import FlowLookup
from stepmesh_orchestrator.core.state import State

SNAPSHOT_FORMAT = 3
_WITH_DORMANT = 2
_PLAIN = 1
"""A snapshot is one that earlier releases read as long as they know all that is in it."""


class _StateImage(msgspec.Struct, array_like=True, gc=False):
    format: int
    partition: Partition
    sequence: int
    inbox: int
    confirmed: int
    trees: list[RareTreeImage]
    runs: list[SeededRunImage]
    finished: dict[RunId, tuple[int, str, str | None]]
    keys: dict[str, RunId]
    places: dict[RunId, Places] = {}
    dormant: bytes = b""
    addresses: bytes = b""
    schedules: bytes = b""
    permits: bytes = b""


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
    trees = [tree_image(tree) for tree in state.trees.values()]
    runs: list[msgspec.Raw] = []
    for run in state.runs.values():
        runs.append(msgspec.Raw(_encoder.encode(run_image(run))))
        if runs_at_once and len(runs) % runs_at_once == 0:
            yield
    dormant, addresses, schedules = state.dormant.encoded(), state.addresses.encoded(), state.schedules.encoded()
    permits = state.permits.encoded()
    version = SNAPSHOT_FORMAT if addresses or schedules or permits or _has_rare(state) else _WITH_DORMANT if dormant else _PLAIN
    image = (version, state.partition, state.sequence, state.inbox, state.confirmed, trees, runs, state.finished, state.keys)
    where = {run.id: places_of(run) for run in state.runs.values()} if places else {}
    if schedules or permits:
        return _encoder.encode((*image, where, dormant, addresses, schedules, permits))
    if addresses:
        return _encoder.encode((*image, where, dormant, addresses))
    if dormant:
        return _encoder.encode((*image, where, dormant))
    return _encoder.encode((*image, where) if places else image)
    # the fields of _StateImage, with runs that are encoded already


def _has_rare(state: State) -> bool:
    """Whether a tree or run is kept in a form that earlier releases do not know."""
    return any(tree.paused_ms or tree.cancelling or tree.inherited for tree in state.trees.values()) or any(
        map(is_rare, state.runs.values())
    )


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
    state.dormant.restore(image.dormant)
    state.addresses.restore(image.addresses)
    state.schedules.restore(image.schedules)
    state.permits.restore(image.permits)
    for tree in image.trees:
        restore_tree(state, tree)
    for run in image.runs:
        restore_run(state, run, flows, image.places.get(run.id))
    return state
