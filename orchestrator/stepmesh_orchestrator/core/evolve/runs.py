"""Appliers of run and item events: what lives, what is counted, what is remembered."""

from __future__ import annotations

import msgspec

from stepmesh_broker.protocol.ids import RunId
from stepmesh_orchestrator.core import events, function_events
from stepmesh_orchestrator.core.evolve import control, schedules, steps
from stepmesh_orchestrator.core.evolve.lookup import FlowLookup
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.state import CHILD, DELETED, RUNNING, Run, State, Tree, may_have_room, new_item

_raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


def effective_variables(flow: CompiledFlow, given: bytes | None) -> dict[str, bytes]:
    """Name → JSON: the flow's defaults, overlaid by those given (a JSON object)."""
    values = {name: variable.default for name, variable in flow.variables.items() if variable.default is not None}
    if given is not None:
        for name, raw in _raw_object.decode(given).items():
            values[name] = bytes(raw)
    return values


def run_created(state: State, event: events.RunCreated, at_ms: int, flows: FlowLookup) -> None:
    """The run lives, alone or in its root's tree; a core step that waits for it says so. One of its id that was deleted is forgotten."""
    flow = flows.get(event.flow, event.overrides)
    if flow is None:
        raise LookupError(f"flow {event.flow} of run {event.run} is not loaded")
    tree = state.trees.get(event.root)
    if tree is None:
        tree = state.trees[event.root] = Tree(event.root, event.limit)
    inputs: list[bytes | None] = [*event.inputs]
    run = Run(
        event.run, event.namespace, flow, event.flow, tree, inputs, event.item_limit, event.overrides, event.variables,
        effective_variables(flow, event.variables), event.run_key, event.parent, event.traceparent, event.tags, at_ms, state.sequence + 1,
        created_at=state.at, priority=event.priority,
    )  # fmt: skip
    state.runs[event.run] = run
    state.finished.pop(event.run, None)
    tree.live += 1
    if inputs:
        tree.pending[run.id] = run
        may_have_room(run)
    if event.run_key is not None:
        state.keys[f"{event.namespace}/{event.run_key}"] = event.run
    if event.parent is not None:
        _link(state, run, event.parent, at_ms)


def _link(state: State, run: Run, parent: events.Parent, at_ms: int) -> None:
    owner = state.runs.get(parent.run)
    run.depth = 1 if owner is None else owner.depth + 1
    if owner is None:  # a worker's sub-run may outlive its parent
        return
    if owner.children is None:
        owner.children = []
    owner.children.append(run.id)
    if parent.kind == "function":
        run.results = {}
        return
    if parent.kind == "worker":
        if parent.item in owner.items:
            steps.sub_run_started(owner.items[parent.item], parent.step)
        return
    run.results = {}
    item = owner.items[parent.item]
    item.phases[parent.step] = CHILD
    wait = item.wait(parent.step)
    wait.child = run.id
    wait.iteration = parent.ordinal
    item.times[parent.step << 1] = item.times[parent.step << 1] or at_ms
    item.positions[parent.step] = state.at


def item_started(state: State, event: events.ItemStarted, at_ms: int) -> None:
    """The item is active; its input moves into it."""
    run = state.runs[event.run]
    item = run.items[event.item] = new_item(run, event.item)
    if run.seeds is not None:
        control.plant(state, item, run.seeds.pop(event.item, ()), at_ms)
    if run.pasts is not None:
        item.pasts = {seed.step: seed for seed in run.pasts.pop(event.item, ())} or None
    run.inputs[event.item] = None
    run.next_item = event.item + 1
    if run.next_item == run.total:
        del run.tree.pending[run.id]


def item_ended(state: State, event: events.ItemEnded, at_ms: int) -> None:
    """Only the count and, where a core step waits for it, the result stay. Steps still in flight give their slots back."""
    run = state.runs[event.run]
    item = run.items.pop(event.item, None)
    if item is not None:
        item.open = False
        if RUNNING in item.phases:
            run.tree.in_flight -= sum(map(item.holds_slot, range(len(item.outcomes))))
    if run.next_item < run.total:
        may_have_room(run)
    if event.failure is None:
        run.completed += 1
    elif run.stopping:
        run.cancelled += 1
    else:
        run.failed += 1
    if run.results is not None:
        outcome = event.failure if event.failure is not None else event.output
        run.results[event.item] = b"null" if outcome is None else outcome


def run_ended(state: State, event: events.RunEnded, at_ms: int) -> None:
    """The run leaves memory; the tree leaves with its last run."""
    run = state.runs.pop(event.run)
    tree = run.tree
    tree.live -= 1
    tree.cancelling.pop(event.run, None)
    key = None if run.run_key is None else f"{run.namespace}/{run.run_key}"
    if run.id == tree.root or key is not None:
        state.finished[run.id] = (at_ms, event.status, key)
    if run.parent is not None and run.parent.kind == "worker":
        tree.ended[run.id] = event.status
    if run.parent is not None:
        owner = state.runs.get(run.parent.run)
        if owner is not None and owner.children is not None:
            owner.children.remove(run.id)
        if owner is not None and run.parent.kind == "worker" and run.parent.item in owner.items:
            steps.sub_run_ended(owner.items[run.parent.item], run.parent.step)
    schedules.run_over(state, run.id)
    if not tree.live:
        tree.queue.clear()  # cuts the cycle tree → item → run → tree, which nothing else would
        del state.trees[tree.root]


def run_cancelled(state: State, event: events.RunCancelled, at_ms: int) -> None:
    """No item of it starts any more; those that never started count as cancelled."""
    run = state.runs[event.run]
    run.stopping = True
    if run.next_item < run.total:
        del run.tree.pending[run.id]
        run.cancelled += run.total - run.next_item
        run.next_item = run.total


def run_cancelling(state: State, event: function_events.RunCancelling, at_ms: int) -> None:
    """Its tree remembers."""
    state.runs[event.run].tree.cancelling[event.run] = event.reason


def run_deleted(state: State, event: events.RunDeleted, at_ms: int) -> None:
    """Its keys are free. Its id is still known, so that a submission that comes again late does not bring it back."""
    for run in event.keyed:
        ended = state.finished.get(run)
        if ended is None:
            continue
        when, _, key = ended
        if key is not None and state.keys.get(key) == run:
            del state.keys[key]
        state.finished[run] = (when, DELETED, None)


def forget_finished(state: State, before_ms: int, keep: int) -> None:
    """Drop the memory of runs that ended before `before_ms`, and the oldest above `keep`. Derived from the time alone, so no event."""
    while state.finished:
        run_id: RunId = next(iter(state.finished))
        ended, _, key = state.finished[run_id]
        if ended >= before_ms and len(state.finished) <= keep:
            return
        del state.finished[run_id]
        if key is not None and state.keys.get(key) == run_id:
            del state.keys[key]
