"""The end of an activation of a durable function: its worker lets go of it, its code cannot go on, or it is over and its sub-runs with it.

Knows nothing of turns; an idle function with news is brought back by functions.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from stepmesh_broker.protocol.histories import Issued
from stepmesh_broker.protocol.messages import TaskRef
from stepmesh_orchestrator.core.decide import breakers, cancel, places, waits
from stepmesh_orchestrator.core.effects import SetTimer
from stepmesh_orchestrator.core.events import Parent
from stepmesh_orchestrator.core.function_events import FunctionIdle
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import Item, Run

BLOCKED_MS = (10_000, 600_000)
"""When a function that its code cannot go on with is tried again: first, and at most, doubling between."""

GIVEN_UP = "its workflow waits for it no more"


def let_go(session: Session, item: Item, step: int, blocked: str = "", version: str = "", *, leaving: bool = False) -> None:
    """No worker has it. `blocked`: why the code that is there cannot go on, which has this `version`; that is tried again, because other
    code may be there then. `leaving`: the worker goes, so it is to go to another one."""
    function, due = item.function(step), 0
    if blocked:
        first, most = BLOCKED_MS
        due = session.now + min(most, first << min(0 if function is None else function.blocks, 10))
        session.cause(SetTimer(due, wait_of(item, step)))
    activation_over(session, item, step, heard=not blocked)
    session.emit(FunctionIdle(item.run.id, item.index, step, blocked, due, leaving, version if blocked else ""))
    session.touched[item.run.tree.root] = item.run.tree
    if blocked and item.run.tree.cancelling:
        cancel.function_ended(session, item.run.tree)  # it cannot clean up


def activation_over(session: Session, item: Item, step: int, *, heard: bool = True) -> None:
    """About to be: its place and its permit are free. `heard`: its component did what it is for, which its breaker is told."""
    places.end(session, item, step)
    if session.troubles or session.state.permits.breakers:
        if heard:
            breakers.succeeded(session, item.run.flow.steps[step])
        else:
            breakers.leave(session, item, step)


def end(session: Session, item: Item, step: int, commands: Iterable[Issued]) -> None:
    """It is over, and had no result of `commands`: so are its sub-runs and waits, and the runs may be cancelled that waited for it."""
    waits.leave(session, item, step, commands)
    give_up_children(session, item, step)
    if item.run.tree.cancelling:
        cancel.function_ended(session, item.run.tree)


def give_up_children(session: Session, item: Item, step: int, commands: Collection[str] | None = None) -> None:
    """The function waits no more for the sub-runs of these commands, or for any: they end, durable functions below after they have
    cleaned up."""
    if commands is None or commands:
        for run in _children(session, item, step):
            parent = run.parent
            if commands is None or (parent is not None and _command_of(item, parent) in commands):
                cancel.ask_to_end(session, run, GIVEN_UP)


def stop_children(session: Session, item: Item, step: int) -> None:
    """The function begins anew, and all that it set going ends as it stands."""
    for run in _children(session, item, step):
        cancel.stop(session, run, GIVEN_UP)


def _children(session: Session, item: Item, step: int) -> Iterator[Run]:
    for child in list(item.run.children or ()):
        run = session.state.runs[child]
        parent = run.parent
        if parent is not None and parent.kind == "function" and (parent.item, parent.step) == (item.index, step):
            yield run


def _command_of(item: Item, parent: Parent) -> str:
    function = item.function(parent.step)
    command = None if function is None else function.at(parent.ordinal)
    return "" if command is None else command.id


def wait_of(item: Item, step: int) -> TaskRef:
    """What a timer of the function fires for: whichever activation there is then."""
    return TaskRef(item.run.id, item.index, step, 0)
