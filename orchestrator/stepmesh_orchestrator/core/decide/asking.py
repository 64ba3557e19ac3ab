"""What a durable function of a live run is asked from outside: which one it is, and an update as a record of its history.

Invariant: an update is one record, however often it is said, because its id is the asker's; the body replies with a record of its own.
Knows nothing of handlers: what the name means, the body says.
"""

from __future__ import annotations

from collections.abc import Sequence

from stepmesh_broker.protocol.histories import UpdateAsked
from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.messages import AskUpdate, Refused, UpdateTaken
from stepmesh_orchestrator.core.commands import UpdateFunction
from stepmesh_orchestrator.core.decide import cancel, results
from stepmesh_orchestrator.core.decide.news import tell
from stepmesh_orchestrator.core.effects import Answered
from stepmesh_orchestrator.core.function_events import HistoryGrew
from stepmesh_orchestrator.core.functions import Function
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import Item, Run

MAX_NAME = 200
"""Characters of an update's id, or name."""
NOT_THERE = "SM-5281"
"""No such function goes on."""
Found = tuple[Item, int, Function]


def update_function(session: Session, command: UpdateFunction) -> None:
    """Its history goes on with the request, and its worker is told, or it goes to one."""
    asked = command.update
    run = session.state.runs.get(asked.run)
    found = _not_live(session, asked.run) if run is None else function_of(run, asked.item, asked.step)
    if isinstance(found, Refused):
        session.cause(Answered(found))
        return
    item, step, function = found
    if asked.id in function.heard or any(isinstance(one, UpdateAsked) and one.id == asked.id for one in function.records):
        session.cause(Answered(UpdateTaken(asked.run, item.index, step, 0, existing=True)))
        return
    arguments = results.checked_json(asked.arguments)
    refusal = blocked(function) or _bad(asked, arguments)
    if refusal is not None:
        session.cause(Answered(refusal))
        return
    assert arguments is not None, "others are refused"
    session.emit(HistoryGrew(asked.run, item.index, step, [UpdateAsked(asked.id, session.now, asked.name, arguments)]))
    position = session.state.at
    tell(session, item, step)
    session.cause(Answered(UpdateTaken(asked.run, item.index, step, position)))


def function_of(run: Run, index: int | None, step_id: str | None) -> Found | Refused:
    """The durable function of the run that is meant: the only one that goes on, unless an item or a step is named."""
    found = [
        (item, step, function)
        for item in run.items.values()
        if index in (None, item.index)
        for step in item.functions or ()
        if step_id in (None, run.flow.steps[step].id) and (function := item.function(step)) is not None and has_begun(function)
    ]
    refusal = not_one(run.id, [(item.index, run.flow.steps[step].id) for item, step, _ in found], index, step_id)
    return refusal or found[0]


def not_one(
    run: RunId, found: Sequence[tuple[int, str]], index: int | None, step_id: str | None, which: str = " that goes on"
) -> Refused | None:
    """Why these functions, by item and step, are not the one that is meant; None when there is one."""
    if not found:
        hint = f"it has not begun, or is over: stepmesh status {run}"
        return Refused(NOT_THERE, f"run {run} has no{_named(index, step_id)} durable function{which}", hint)
    if len(found) > 1:
        places = ", ".join(f"item {item} step {step}" for item, step in found[:5])
        return Refused("SM-5282", f"run {run} has {len(found)} durable functions: {places}", "name the item, and the step")
    return None


def has_begun(function: Function) -> bool:
    """Whether its body has ever begun, be it with another input."""
    return bool(function.records) or function.input is not None


def blocked(function: Function) -> Refused | None:
    """Why nothing can be asked of a function that its code cannot go on with."""
    if not function.blocked:
        return None
    hint = "deploy code that fits its history, then ask again: stepmesh check-replay"
    return Refused("SM-5283", f"the function is blocked: {function.blocked}", hint)


def _not_live(session: Session, name: RunId) -> Refused:
    if name not in session.state.dormant and cancel.has_ended(session, name):
        return over(name)
    return cancel.not_live(session, name)


def over(name: RunId) -> Refused:
    """SM-5280: for an update."""
    return Refused("SM-5280", f"run {name} is over, and nobody is there to be asked", "its result: stepmesh status RUN")


def _named(index: int | None, step_id: str | None) -> str:
    return "" if index is None and step_id is None else " such"


def _bad(asked: AskUpdate, arguments: bytes | None) -> Refused | None:
    if arguments is None:
        return Refused("SM-5284", "the arguments are no JSON, or nested too deep", "give one JSON value, as a component gets it")
    if not (0 < len(asked.id) <= MAX_NAME and 0 < len(asked.name) <= MAX_NAME):
        return Refused("SM-5285", f"an update has an id and a name of 1 to {MAX_NAME} characters", "give a shorter one")
    return None
