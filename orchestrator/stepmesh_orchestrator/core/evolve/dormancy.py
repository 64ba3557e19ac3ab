"""Appliers of the events by which trees leave memory and come back, and the form in which one is kept meanwhile."""

from __future__ import annotations

import msgspec

from stepmesh_broker.protocol.ids import FlowId, RunId
from stepmesh_orchestrator.core import events
from stepmesh_orchestrator.core.dormant import place_of
from stepmesh_orchestrator.core.events import PER_FRAME
from stepmesh_orchestrator.core.evolve.images import (
    Places,
    RareTreeImage,
    RunImage,
    SeededRunImage,
    is_rare,
    places_of,
    restore_run,
    restore_tree,
    run_image,
)
from stepmesh_orchestrator.core.evolve.lookup import FlowLookup
from stepmesh_orchestrator.core.seeds import SeededRun
from stepmesh_orchestrator.core.state import Run, State, Tree

_FORMAT = 2
_PLAIN = 1
"""Of a tree that is not paused and of which no run has anything rare: one that earlier releases read."""


class _TreeForm(msgspec.Struct, array_like=True, gc=False):
    """Runs oldest first, the root before all. Its id, which is not in the form, stands everywhere for an empty one."""

    format: int
    limit: int
    runs: list[SeededRunImage]
    places: list[Places]
    paused_ms: int = 0
    inherited: dict[RunId, SeededRun] = {}


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_TreeForm)
_ROOT = RunId("")


def members(state: State, tree: Tree) -> list[Run] | None:
    """The runs of a tree, oldest first; None when not all of them hang on its root, which ended before them."""
    root = state.runs.get(tree.root)
    found = [] if root is None else [root]
    for run in found:
        found += [state.runs[child] for child in run.children or ()]
    return sorted(found, key=lambda run: run.created_at) if len(found) == tree.live else None


def runs_of(state: State, tree: Tree) -> list[Run]:
    """The runs of a tree, whether or not they hang on its root."""
    found = members(state, tree)
    return [run for run in state.runs.values() if run.tree is tree] if found is None else found


def encode_tree(tree: Tree, runs: list[Run]) -> bytes:
    """All that events said of a tree in which nothing is in flight and of which no ended sub-run is remembered."""
    images: list[RunImage] = []
    for run in runs:
        image = run_image(run)
        image.root = _ROOT
        if image.id == tree.root:
            image.id = _ROOT
        images.append(image)
    form = (tree.limit, images, [places_of(run) for run in runs])  # the fields of _TreeForm
    if tree.paused_ms or tree.inherited or any(map(is_rare, runs)):
        return _encoder.encode((_FORMAT, *form, tree.paused_ms, tree.inherited))
    return _encoder.encode((_PLAIN, *form))


def flows_of(image: bytes) -> list[tuple[FlowId, bytes | None]]:
    """The flows (id, overrides) that must be loaded before a tree is restored."""
    return [(run.flow, run.overrides) for run in _decode(image).runs]


def flows_needed(event: events.Event) -> list[tuple[FlowId, bytes | None]]:
    """Those that must be loaded before the event is applied."""
    if isinstance(event, events.RunCreated):
        return [(event.flow, event.overrides)]
    return flows_of(event.image) if isinstance(event, events.TreeWoken) else []


def restore(state: State, root: RunId, image: bytes, flows: FlowLookup) -> list[Run]:
    """Put a tree into a state in which it is not; its runs. What is derived is to be derived again."""
    form = _decode(image)
    restore_tree(state, RareTreeImage(root, form.limit, 0, {}, form.paused_ms, inherited=form.inherited))
    runs: list[Run] = []
    for run, places in zip(form.runs, form.places, strict=True):
        run.root, run.id = root, run.id or root
        runs.append(restore_run(state, run, flows, places))
    return runs


def _decode(image: bytes) -> _TreeForm:
    form = _decoder.decode(image)
    if form.format > _FORMAT:
        raise ValueError(f"dormant run of format {form.format}; this version reads up to {_FORMAT}")
    return form


def tree_dormant(state: State, event: events.TreeDormant, at_ms: int) -> None:
    """The tree is out of memory; where its image is, is known."""
    tree = state.trees.pop(event.run)
    runs = [state.runs.pop(run) for run in (event.run, *event.others)]
    state.dormant.add(((run.id, run.flow_id) for run in runs), place_of(state.at // PER_FRAME, event.wakes_ms))
    tree.pending.clear()
    tree.roomy.clear()
    tree.queue.clear()
    for run in runs:
        for item in run.items.values():
            item.open = False
        run.items.clear()  # cuts the cycle item → run → items, which nothing else would


def tree_woken(state: State, event: events.TreeWoken, at_ms: int, flows: FlowLookup) -> None:
    """The tree is in memory again."""
    runs = restore(state, event.run, event.image, flows)
    state.dormant.remove((run.id, run.flow_id) for run in runs)
