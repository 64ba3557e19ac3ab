"""Ends: of an output, an item, a run."""

from __future__ import annotations

from stepmesh_broker.protocol.messages import ErrorCode, Failure
from stepmesh_orchestrator.core.decide import keys, places, waits
from stepmesh_orchestrator.core.effects import RunOver, SetScheduleTimer
from stepmesh_orchestrator.core.events import ItemEnded, RunEnded
from stepmesh_orchestrator.core.flow.plan import Outcome, PlanFailed, PlanSkipped
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import DONE, Item, Run


def end_output(session: Session, item: Item) -> None:
    """Nothing blocks the output: render it, then end the item if nothing else must execute."""
    item.output = _render_output(item)
    item.phases[-1] = DONE
    try_end_item(session, item)


def _render_output(item: Item) -> Outcome:
    flow = item.run.flow
    try:
        value = flow.output.render(item)
    except PlanFailed as problem:
        return problem.failure
    except PlanSkipped:
        value = b"null"
    if flow.output_schema is not None and (violations := flow.output_schema.violations(value)):
        return Failure(ErrorCode.COMPONENT_FAILED, "the flow's output does not match its schema: " + "; ".join(violations))
    return value


def try_end_item(session: Session, item: Item) -> None:
    """The item ends when its output and all that must execute have outcomes; a failure among them is the item's."""
    phases = item.phases
    if not item.open or phases[-1] != DONE:
        return
    must = item.run.flow.must_execute
    if any(phases[step] != DONE for step in must):
        return
    outcome = item.output
    if not isinstance(outcome, Failure):
        outcome = next((failed for step in must if isinstance(failed := item.outcomes[step], Failure)), outcome)
    end_item(session, item, outcome)


def end_item(session: Session, item: Item, outcome: Outcome | None) -> None:
    """Record the item's result; the run may end with it."""
    run = item.run
    places.leave_all(session, item)
    waits.give_up_all(session, item)
    if isinstance(outcome, Failure):
        session.emit(ItemEnded(run.id, item.index, None, outcome))
    else:
        session.emit(ItemEnded(run.id, item.index, outcome if isinstance(outcome, bytes) else b"null"))
    session.touched[run.tree.root] = run.tree
    try_end_run(session, run)


def try_end_run(session: Session, run: Run) -> None:
    """The run ends with its last item."""
    if run.ended_items < run.total:
        return
    status = "cancelled" if run.stopping else "failed" if run.failed else "completed"
    schedule = session.state.schedules.of_run(run.id)
    ended = RunEnded(run.id, status)
    if run.parent is None:
        session.emit(ended)
    else:
        places.beside(session, run.parent, lambda: session.emit(ended))
    if schedule is not None and schedule.may_go_on:
        session.cause(SetScheduleTimer(session.now, schedule.schedule.id))
    session.cause(RunOver(run.id))
    if run.gates is not None:
        keys.give_back(session, run)
    session.touched[run.tree.root] = run.tree
    session.over.append(run)


def invalid_input(violations: list[str]) -> Failure:
    """INVALID_INPUT that lists them."""
    return Failure(ErrorCode.INVALID_INPUT, "input does not match the flow's input schema: " + "; ".join(violations))
