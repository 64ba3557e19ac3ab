"""A live run ⇄ a value that can be kept: what snapshots and dormant trees are made of.

What is derived is left out and derived again, so equal runs have equal images. Knows nothing of other runs than those of its tree.
"""

from __future__ import annotations

from array import array
from typing import cast

import msgspec
from msgspec import structs

from stepmesh_broker.protocol.ids import FlowId, Namespace, RunId
from stepmesh_broker.protocol.messages import Failure
from stepmesh_orchestrator.core.events import PER_FRAME, Parent
from stepmesh_orchestrator.core.evolve.lookup import FlowLookup
from stepmesh_orchestrator.core.evolve.runs import effective_variables
from stepmesh_orchestrator.core.flow.plan import SKIPPED, Outcome, Skipped
from stepmesh_orchestrator.core.functions import Function, image_of
from stepmesh_orchestrator.core.gates import Gate
from stepmesh_orchestrator.core.seeds import FunctionSeed, Seed, SeededRun
from stepmesh_orchestrator.core.state import DERIVED, IDLE, PARKED, RETRYING, Item, Run, State, Tree, Wait, may_have_room


class ItemImage(msgspec.Struct, array_like=True, gc=False):
    """An active item."""

    index: int
    input: bytes
    outcomes: list[bytes | Failure | bool | None]  # False: skipped
    phases: bytes
    times: bytes
    waits: dict[int, Wait] | None


class FunctionItemImage(ItemImage, array_like=True, gc=False):
    """Of an item with steps that are durable functions. Written only then, read always."""

    functions: dict[int, Function] | None = None


class SeededItemImage(FunctionItemImage, array_like=True, gc=False):
    """Of an item whose durable functions are to take over from others. Written only then, read always."""

    pasts: dict[int, FunctionSeed] | None = None


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
    items: list[SeededItemImage]
    children: list[RunId] | None
    results: dict[int, bytes | Failure] | None


class RareRunImage(RunImage, array_like=True, gc=False):
    """Of a run with what few have: events that it took from outside, results of another run that items to come begin with, a
    priority, gates. Written only then, so that all others look as they did before there was any; read always."""

    taken: dict[str, list[int]] | None = None
    seeds: dict[int, list[Seed]] | None = None
    priority: int = 0
    gates: list[Gate] | None = None
    gates_open: int = 0


class SeededRunImage(RareRunImage, array_like=True, gc=False):
    """Of a run with items to come whose durable functions take over from others. Written only then, read always."""

    pasts: dict[int, list[FunctionSeed]] | None = None


class TreeImage(msgspec.Struct, array_like=True, gc=False):
    """See `Tree`."""

    root: RunId
    limit: int
    in_flight: int
    ended: dict[RunId, str]


class RareTreeImage(TreeImage, array_like=True, gc=False):
    """Of a tree that is paused, or is to be cancelled, or keeps results for sub-runs to come. Written only then, read always."""

    paused_ms: int = 0
    cancelling: dict[RunId, str] = {}
    inherited: dict[RunId, SeededRun] = {}


class Places(msgspec.Struct, array_like=True, gc=False):
    """Where a run's events lie: not what they said, so it has no part in the hash."""

    created_at: int
    depth: int
    positions: dict[int, bytes]  # of active items


def tree_image(tree: Tree) -> TreeImage:
    """Without its runs."""
    if tree.paused_ms or tree.cancelling or tree.inherited:
        return RareTreeImage(tree.root, tree.limit, tree.in_flight, tree.ended, tree.paused_ms, tree.cancelling, tree.inherited)
    return TreeImage(tree.root, tree.limit, tree.in_flight, tree.ended)


def restore_tree(state: State, image: RareTreeImage) -> Tree:
    """A tree that has no runs yet."""
    tree = state.trees[image.root] = Tree(
        image.root,
        image.limit,
        image.in_flight,
        0,
        image.ended,
        paused_ms=image.paused_ms,
        cancelling=image.cancelling,
        inherited=image.inherited,
    )
    return tree


def restore_run(state: State, image: SeededRunImage, flows: FlowLookup, places: Places | None) -> Run:
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


def _guessed(image: SeededRunImage, state: State) -> Places:
    """For a snapshot of a release that did not keep them."""
    owner = None if image.parent is None else state.runs.get(image.parent.run)
    depth = 0 if image.parent is None else 1 if owner is None else owner.depth + 1
    return Places(image.created_sequence * PER_FRAME, depth, {})


def run_image(run: Run) -> RunImage:
    """All that events said of it."""
    image = _plain_image(run)
    if not (run.taken is not None or run.seeds or run.priority or run.gates is not None or run.pasts):
        return image
    rare = RareRunImage(
        **structs.asdict(image), taken=run.taken, seeds=run.seeds or None, priority=run.priority, gates=run.gates, gates_open=run.gates_open
    )
    return SeededRunImage(**structs.asdict(rare), pasts=run.pasts) if run.pasts else rare


def is_rare(run: Run) -> bool:
    """Whether it is kept in a form that earlier releases do not know."""
    known = run.taken is None and run.gates is None and not run.seeds and not run.pasts
    return not known or any(item.functions or item.pasts for item in run.items.values())


def _plain_image(run: Run) -> RunImage:
    return RunImage(
        run.id, run.tree.root, run.namespace, run.flow_id, run.inputs, run.item_limit, run.overrides, run.given, run.run_key, run.parent,
        run.traceparent, run.tags, run.created_ms, run.created_sequence, run.next_item, run.completed, run.failed, run.cancelled,
        run.stopping, [_item_image(item) for item in run.items.values()], run.children or None, run.results,
    )  # fmt: skip


def _item_image(item: Item) -> SeededItemImage:
    """Typed as what it is read as."""
    outcomes: list[bytes | Failure | bool | None] = [False if isinstance(outcome, Skipped) else outcome for outcome in item.outcomes]
    plain = ItemImage(item.index, item.input, outcomes, _recorded_phases(item), item.times.tobytes(), item.waits)
    if not (item.functions or item.pasts):
        return cast(SeededItemImage, plain)
    functions = {step: cast(Function, image_of(function)) for step, function in (item.functions or {}).items()} or None
    told = FunctionItemImage(**structs.asdict(plain), functions=functions)
    return SeededItemImage(**structs.asdict(told), pasts=item.pasts) if item.pasts else cast(SeededItemImage, told)


def _recorded_phases(item: Item) -> bytes:
    """What events said of each step. A later attempt that is due but has no slot yet is still a retry on record."""
    phases = bytearray(item.phases)
    phases[-1] = IDLE
    for step, phase in enumerate(phases):
        if phase in DERIVED:
            phases[step] = IDLE if item.attempt(step) == 1 else PARKED if _is_parked(item, step) else RETRYING
    return bytes(phases)


def _is_parked(item: Item, step: int) -> bool:
    """Of a step with a later attempt: whether a worker let go of it, and none was lost."""
    return item.function(step) is not None and not item.wait(step).due_ms


def _run(image: SeededRunImage, tree: Tree, flows: FlowLookup, places: Places) -> Run:
    flow = flows.get(image.flow, image.overrides)
    if flow is None:
        raise LookupError(f"flow {image.flow} of run {image.id} is not loaded")
    run = Run(
        image.id, image.namespace, flow, image.flow, tree, image.inputs, image.item_limit, image.overrides, image.given,
        effective_variables(flow, image.given), image.run_key, image.parent, image.traceparent, image.tags, image.created_ms,
        image.created_sequence, image.next_item, image.completed, image.failed, image.cancelled, image.stopping, {}, image.children,
        image.results, places.created_at, places.depth, seeds=image.seeds, taken=image.taken,
        priority=image.priority, gates=image.gates, gates_open=image.gates_open, pasts=image.pasts,
    )  # fmt: skip
    for item in image.items:
        run.items[item.index] = _item(item, run, places.positions.get(item.index) or bytes(8 * len(item.outcomes)))
    return run


def _item(image: SeededItemImage, run: Run, positions: bytes) -> Item:
    outcomes: list[Outcome | None] = [SKIPPED if isinstance(outcome, bool) else outcome for outcome in image.outcomes]
    times = array("q")
    times.frombytes(image.times)
    known = array("q")
    known.frombytes(positions)
    phases = bytearray(image.phases)
    return Item(run, image.index, image.input, outcomes, phases, times, known, image.waits, functions=image.functions, pasts=image.pasts)
