"""Events → rows of the read model, the same in a live turn and in a replay.

`apply` is `evolve` with a look at the state at the right moment: an item's row is made just before the item leaves memory.
"""

from __future__ import annotations

import msgspec

from stepmesh_broker.protocol.messages import Failure
from stepmesh_orchestrator.core.events import (
    Event,
    ItemEnded,
    RunCancelled,
    RunCreated,
    RunDeleted,
    RunEnded,
    RunPaused,
    RunResumed,
    TreeDormant,
)
from stepmesh_orchestrator.core.evolve import STEPS, FlowLookup, evolve
from stepmesh_orchestrator.core.evolve.dormancy import runs_of
from stepmesh_orchestrator.core.failures import error_json, flow_result
from stepmesh_orchestrator.core.flow.plan import Skipped
from stepmesh_orchestrator.core.gate_events import RunHeld, RunReleased
from stepmesh_orchestrator.core.rows import ItemRow, Row, RunGone, RunRow, StepRow
from stepmesh_orchestrator.core.state import DERIVED, IDLE, WAITING, Item, Run, State

_raw = msgspec.json.Decoder(msgspec.Raw)


def apply(state: State, event: Event, at_ms: int, flows: FlowLookup, rows: list[Row]) -> None:
    """Evolve, and append the rows that the event changes."""
    state.at += 1
    kind = type(event)
    of_step = STEPS.get(kind)
    if of_step is not None:  # the hot ones first: they change no row
        of_step(state, event, at_ms)
    elif kind is ItemEnded:
        row = _item_row(state, event, at_ms)  # type: ignore[arg-type]  # narrowed by identity, for speed
        if row is not None:
            rows.append(row)
        evolve(state, event, at_ms, flows)
    elif kind is TreeDormant:
        rows += _counted(state, event)  # type: ignore[arg-type]  # as above
        evolve(state, event, at_ms, flows)
    elif kind is RunEnded:
        rows.append(run_row(state, state.runs[event.run], event.status, at_ms))  # type: ignore[union-attr]  # as above
        evolve(state, event, at_ms, flows)
    else:
        evolve(state, event, at_ms, flows)
        if kind is RunCreated or kind is RunCancelled or kind is RunHeld or kind is RunReleased:
            rows.append(run_row(state, state.runs[event.run]))
        elif kind is RunDeleted:
            rows.append(RunGone(event.run))
        elif kind is RunPaused or kind is RunResumed:
            rows += [run_row(state, run) for run in runs_of(state, state.trees[event.run])]


def _counted(state: State, event: TreeDormant) -> list[Row]:
    """Runs that leave memory, where the read model would not show how many of their items have ended."""
    runs = (state.runs[run] for run in (event.run, *event.others))
    return [run_row(state, run) for run in runs if run.ended_items]


def run_row(state: State, run: Run, ended: str | None = None, finished_ms: int | None = None) -> RunRow:
    """The run as it stands, or as it `ended`."""
    parent = run.parent
    status = ended or ("paused" if run.tree.paused_ms else "queued" if run.tree.is_held else "running")
    step_id: str | None = None
    if parent is not None and (owner := state.runs.get(parent.run)) is not None and parent.step < len(owner.flow.steps):
        step_id = owner.flow.steps[parent.step].id
    return RunRow(
        run=run.id, namespace=run.namespace, partition=state.partition, flow=run.flow_id, flow_name=run.flow.name, status=status,
        total=run.total, completed=run.completed, failed=run.failed, cancelled=run.cancelled, created_ms=run.created_ms,
        finished_ms=finished_ms, root=run.tree.root, parent=None if parent is None else parent.run, parent_step=step_id,
        created_sequence=run.created_sequence, finished_sequence=None if finished_ms is None else state.sequence + 1,
        run_key=run.run_key, tags=run.tags, created_at=run.created_at, finished_at=None if finished_ms is None else state.at,
        depth=run.depth,
    )  # fmt: skip


def _item_row(state: State, event: ItemEnded, at_ms: int) -> ItemRow | None:
    run = state.runs[event.run]
    item = run.items.get(event.item)
    outcome = event.failure if event.failure is not None else event.output
    status = "success" if event.failure is None else "cancelled" if run.stopping else "failed"
    steps = [] if item is None else [row for index in range(len(run.flow.steps)) if (row := _recorded_row(item, index)) is not None]
    return ItemRow(event.run, event.item, status, flow_result(b"null" if outcome is None else outcome), at_ms, steps)


def _recorded_row(item: Item, index: int) -> StepRow | None:
    """Only if events tell of the step: a replay does not know which of the others were queued when the run was cancelled."""
    derived = item.phases[index] in DERIVED and item.attempt(index) == 1
    return None if derived else step_row(item, index)


def step_row(item: Item, index: int) -> StepRow | None:
    """A step that was needed, as it stands; None for one that nobody needed."""
    phase = item.phases[index]
    if phase in (IDLE, WAITING):
        return None
    step = item.run.flow.steps[index]
    outcome = item.outcomes[index]
    started, finished = item.times[index << 1], item.times[(index << 1) + 1]
    output = outcome if isinstance(outcome, bytes) else None
    failed = outcome if isinstance(outcome, Failure) else None
    if failed is None and item.waits is not None and index in item.waits:
        failed = item.waits[index].last_failure
    status = (
        "cancelled" if outcome is None else "skipped" if isinstance(outcome, Skipped) else "success" if output is not None else "failed"
    )
    return StepRow(
        index, step.id, step.component, status, item.attempt(index), output, None if failed is None else error_json(failed),
        started or None, finished or None, item.positions[index], *_notes(item, index),
    )  # fmt: skip


def _notes(item: Item, index: int) -> tuple[bytes | None, bytes | None]:
    """Attributes and tags of a durable function, whether or not it goes on."""
    function = None if item.functions is None else item.functions.get(index)
    if function is None or not (function.attributes or function.tags):
        return None, None
    return _object(function.attributes), _object(function.tags)


def _object(values: dict[str, bytes]) -> bytes | None:
    """None for none. What a worker said that is no JSON is left out."""
    told: dict[str, msgspec.Raw] = {}
    for name, value in values.items():
        try:
            told[name] = _raw.decode(value)
        except msgspec.MsgspecError:
            continue
    return msgspec.json.encode(told) if told else None
