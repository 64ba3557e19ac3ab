"""A live run ⇄ a value that can be kept: what snapshots and dormant trees are made of.

What is derived is left out and derived again, so equal runs have equal images. Knows nothing of other runs than those of its tree.
"""

from __future__ import annotations

from array import array
from typing import Any

import msgspec
from msgspec import structs

from stepmesh_broker.protocol.ids import FlowId, Namespace, RunId
from stepmesh_broker.protocol.messages import Failure
from stepmesh_orchestrator.core.events import PER_FRAME, Parent
from stepmesh_orchestrator.core.evolve.lookup import FlowLookup
from stepmesh_orchestrator.core.evolve.runs import effective_variables
from stepmesh_orchestrator.core.flow.plan import SKIPPED, Outcome, Skipped
from stepmesh_orchestrator.core.gates import Gate
from stepmesh_orchestrator.core.state import DERIVED, IDLE, PARKED, RETRYING, Item, Run, State, Tree, Wait, may_have_room


class ItemImage(msgspec.Struct, array_like=True, gc=False):
    """An active item."""

    index: int
    input: bytes
    outcomes: list[bytes | Failure | bool | None]  # False: skipped
    phases: bytes
    times: bytes
    waits: dict[int, Wait] | None


class RunImage(msgspec.Struct, array_like=True, gc=False):
    """See `Run`."""

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
    items: list[ItemImage]
    children: list[RunId] | None
    results: dict[int, bytes | Failure] | None


class TakerImage(RunImage, array_like=True, gc=False):
    """A run that took events from outside: a form of its own, so that all others look as they did before there were any."""

    taken: dict[str, list[int]] | None = None


class RankedRunImage(TakerImage, array_like=True, gc=False):
    """Of a run with a priority, or with gates. Written only then, read always, so that all others look as they did before."""

    priority: int = 0
    gates: list[Gate] | None = None
    gates_open: int = 0


class TreeImage(msgspec.Struct, array_like=True, gc=False):
    """See `Tree`."""

    root: RunId
    limit: int
    in_flight: int
    ended: dict[RunId, str]
    cancelling: dict[RunId, str] = {}


class Places(msgspec.Struct, array_like=True, gc=False):
    """Where a run's events lie: not what they said, so it has no part in the hash."""

    created_at: int
    depth: int
    positions: dict[int, bytes]  # of active items


def tree_image(tree: Tree) -> TreeImage:
    """Without its runs."""
    return TreeImage(tree.root, tree.limit, tree.in_flight, tree.ended, tree.cancelling)


def restore_tree(state: State, image: TreeImage) -> Tree:
    """A tree that has no runs yet."""
    tree = state.trees[image.root] = Tree(image.root, image.limit, image.in_flight, 0, image.ended, cancelling=image.cancelling)
    return tree


def restore_run(state: State, image: RankedRunImage, flows: FlowLookup, places: Places | None) -> Run:
    """Put a run into its tree, which is there. `LookupError` for a flow that is not loaded."""
    tree = state.trees[image.root]
    run = _run(image, tree, flows, places or _guessed(image, state))
    state.runs[run.id] = run
    tree.live += 1
    tree.is_held = tree.is_held or (run.gates is not None and run.gates_open < len(run.gates))
    if run.next_item < run.total:
        tree.pending[run.id] = run
        may_have_room(run)
    return run


def places_of(run: Run) -> Places:
    """Where its events lie."""
    return Places(run.created_at, run.depth, {index: item.positions.tobytes() for index, item in run.items.items()})


def _guessed(image: RankedRunImage, state: State) -> Places:
    """For a snapshot of a release that did not keep them."""
    owner = None if image.parent is None else state.runs.get(image.parent.run)
    depth = 0 if image.parent is None else 1 if owner is None else owner.depth + 1
    return Places(image.created_sequence * PER_FRAME, depth, {})


def run_image(run: Run) -> RunImage:
    """All that events said of it."""
    image = _plain_image(run)
    if run.priority or run.gates is not None:
        extra: tuple[Any, ...] = (run.taken, run.priority, run.gates, run.gates_open)
        return RankedRunImage(*structs.astuple(image), *extra)
    return image if run.taken is None else TakerImage(**structs.asdict(image), taken=run.taken)


def _plain_image(run: Run) -> RunImage:
    return RunImage(
        run.id, run.tree.root, run.namespace, run.flow_id, run.inputs, run.item_limit, run.overrides, run.given, run.run_key, run.parent,
        run.traceparent, run.tags, run.created_ms, run.created_sequence, run.next_item, run.completed, run.failed, run.cancelled,
        run.stopping, [_item_image(item) for item in run.items.values()], run.children or None, run.results,
    )  # fmt: skip


def _item_image(item: Item) -> ItemImage:
    outcomes: list[bytes | Failure | bool | None] = [False if isinstance(outcome, Skipped) else outcome for outcome in item.outcomes]
    return ItemImage(item.index, item.input, outcomes, _recorded_phases(item), item.times.tobytes(), item.waits)


def _recorded_phases(item: Item) -> bytes:
    """What events said of each step. A later attempt that is due but has no slot yet is still a retry on record."""
    phases = bytearray(item.phases)
    phases[-1] = IDLE
    for step, phase in enumerate(phases):
        if phase in DERIVED:
            phases[step] = IDLE if item.attempt(step) == 1 else RETRYING if item.function(step) is None else PARKED
    return bytes(phases)


def _run(image: RankedRunImage, tree: Tree, flows: FlowLookup, places: Places) -> Run:
    flow = flows.get(image.flow, image.overrides)
    if flow is None:
        raise LookupError(f"flow {image.flow} of run {image.id} is not loaded")
    run = Run(
        image.id, image.namespace, flow, image.flow, tree, image.inputs, image.item_limit, image.overrides, image.given,
        effective_variables(flow, image.given), image.run_key, image.parent, image.traceparent, image.tags, image.created_ms,
        image.created_sequence, image.next_item, image.completed, image.failed, image.cancelled, image.stopping, {}, image.children,
        image.results, places.created_at, places.depth, priority=image.priority, gates=image.gates,
        gates_open=image.gates_open,
    )  # fmt: skip
    run.taken = image.taken if isinstance(image, TakerImage) else None
    for item in image.items:
        run.items[item.index] = _item(item, run, places.positions.get(item.index) or bytes(8 * len(item.outcomes)))
    return run


def _item(image: ItemImage, run: Run, positions: bytes) -> Item:
    outcomes: list[Outcome | None] = [SKIPPED if isinstance(outcome, bool) else outcome for outcome in image.outcomes]
    times = array("q")
    times.frombytes(image.times)
    known = array("q")
    known.frombytes(positions)
    return Item(run, image.index, image.input, outcomes, bytearray(image.phases), times, known, image.waits)
