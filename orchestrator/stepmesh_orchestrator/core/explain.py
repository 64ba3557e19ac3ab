"""Why a live run is where it is: one line for each thing that it waits for. Every live run has such a cause, always."""

from __future__ import annotations

from dataclasses import dataclass

from stepmesh_broker.protocol.histories import Kind
from stepmesh_orchestrator.core.decide.demand import blockers
from stepmesh_orchestrator.core.decide.failure import default_blockers
from stepmesh_orchestrator.core.decide.waits import awaited_of
from stepmesh_orchestrator.core.functions import due_ms
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.standing import Standing, at_gate
from stepmesh_orchestrator.core.state import (
    AWAITING,
    CHILD,
    DONE,
    FALLBACK,
    FETCHING,
    PARKED,
    QUEUED,
    RETRYING,
    RUNNING,
    SLEEPING,
    WAITING,
    Item,
    Run,
    State,
)


@dataclass(frozen=True, slots=True)
class Cause:
    """What a step (or the output, or the run) waits for. `kind`: a phase, `paused`, `pending`, `stuck`; `since_ms` None = not known."""

    run: str
    item: int | None
    step: int | None
    step_id: str
    kind: str
    text: str
    since_ms: int | None = None


def explain(state: State, run: Run, now_ms: int, session: Session | None = None) -> list[Cause]:
    """Causes of the run and of its sub-runs, in reading order. A pause goes before all others. `session`: that of a live run."""
    tree = run.tree
    causes = _causes(state, run, now_ms, Standing(session))
    if tree.paused_ms:
        text = f"paused: nothing new starts and no timer takes effect until `stepmesh resume {tree.root}`; what is in flight ends"
        causes.insert(0, Cause(run.id, None, None, "", "paused", text, tree.paused_ms))
    return causes


def _causes(state: State, run: Run, now_ms: int, standing: Standing) -> list[Cause]:
    causes: list[Cause] = []
    if run.gates is not None and run.gates_open < len(run.gates):
        causes.append(Cause(run.id, None, None, "", "held", at_gate(state, run, run.gates[run.gates_open], now_ms), run.created_ms))
    elif run.next_item < run.total:
        waiting = run.total - run.next_item
        causes.append(Cause(run.id, None, None, "", "pending", f"{waiting} items wait for a slot ({_slots(run)})"))
    for item in run.items.values():
        for step, phase in enumerate(item.phases):
            cause = _cause(item, step, phase, now_ms, standing)
            if cause is not None:
                causes.append(cause)
    for child in run.children or ():
        if child in state.runs:
            causes.extend(_causes(state, state.runs[child], now_ms, standing))
    if not causes:
        causes.append(
            Cause(
                run.id,
                None,
                None,
                "",
                "stuck",
                "nothing that could move it is known; this is a defect: `stepmesh journal dump` shows its story",
            )
        )
    return causes


def _cause(item: Item, step: int, phase: int, now_ms: int, standing: Standing) -> Cause | None:
    run, flow = item.run, item.run.flow
    is_output = step == len(flow.steps)
    name = "output" if is_output else flow.steps[step].id
    since = None if is_output else item.times[step << 1] or None
    attempt = item.attempt(step)
    if phase == RUNNING:
        return Cause(
            run.id, item.index, step, name, "running", f"attempt {attempt} of {flow.steps[step].component} is with its pool", since
        )
    if phase in (RETRYING, SLEEPING):
        wait = item.wait(step)
        seconds = max(0.0, (wait.due_ms - now_ms) / 1000)
        failed = f" after: {wait.last_failure.message}" if phase == RETRYING and wait.last_failure is not None else ""
        kind = "retrying" if phase == RETRYING else "sleeping"
        text = f"attempt {attempt} starts in {seconds:.1f} s{failed}" if phase == RETRYING else f"sleeps for {seconds:.1f} s more"
        return Cause(run.id, item.index, step, name, kind, text, since)
    if phase == PARKED:
        return Cause(run.id, item.index, step, name, "parked", _awaited(item, step, now_ms), since)
    if phase == AWAITING:
        return Cause(run.id, item.index, step, name, "awaiting", _awaited_text(item, step, now_ms), since)
    if phase == CHILD:
        return Cause(run.id, item.index, step, name, "child", f"waits for its sub-run {item.wait(step).child}", since)
    if phase == FETCHING:
        return Cause(run.id, item.index, step, name, "fetching", "waits for the flow of its sub-run to be loaded", since)
    if phase == QUEUED:
        text = standing.of_step(item, step) or f"ready, waits for a slot ({_slots(run)})"
        return Cause(run.id, item.index, step, name, "queued", text, since)
    if phase == FALLBACK and (problem := item.wait(step).last_failure) is not None:
        needs = ", ".join(f"'{flow.steps[index].id}'" for index in default_blockers(item, flow.steps[step], problem)[:5])
        return Cause(run.id, item.index, step, name, "fallback", f"failed ({problem.message}); its default needs {needs}", since)
    if phase == WAITING:
        needs = ", ".join(f"'{flow.steps[index].id}'" for index in blockers(item, step)[:5])
        return Cause(run.id, item.index, step, name, "waiting", f"needs {needs}", since)
    if phase == DONE and is_output:
        open_steps = [flow.steps[index].id for index in flow.must_execute if item.phases[index] != DONE]
        return Cause(run.id, item.index, step, name, "waiting", f"is ready; mustExecute steps are not: {', '.join(open_steps)}")
    return None


def _awaited(item: Item, step: int, now_ms: int) -> str:
    """What a durable function waits for."""
    function = item.function(step)
    if function is None:
        return "waits for records"
    if function.blocked:
        return f"is blocked, and tried again in {max(0, function.due_ms - now_ms) / 1000:.0f} s: {function.blocked}"
    waits = [
        f"{command.id} ({command.kind}, {command.where})"
        + (f" for {max(0, due_ms(command) - now_ms) / 1000:.1f} s more" if command.kind is Kind.TIMER else "")
        for command in function.commands()
    ]
    return "waits for " + ", ".join(waits[:5]) + (f" and {len(waits) - 5} more" if len(waits) > 5 else "")


def _awaited_text(item: Item, step: int, now_ms: int) -> str:
    awaited, until_ms = awaited_of(item, step), item.wait(step).due_ms
    what = f"waits for event {awaited.name!r} with key {awaited.key!r}" if awaited.name else "waits for a decision"
    return what + (f", {max(0.0, (until_ms - now_ms) / 1000):.1f} s more at most" if until_ms else "")


def _slots(run: Run) -> str:
    tree = run.tree
    limit = f"{tree.in_flight} of {tree.limit} tasks in flight" if tree.limit else "no limit of tasks"
    limit = f"paused, {limit}" if tree.paused_ms else limit
    return limit + (f", {len(run.items)} of {run.item_limit} items" if run.item_limit else "")
