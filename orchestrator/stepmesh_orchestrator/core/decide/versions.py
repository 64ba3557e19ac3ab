"""Somebody lets the durable functions of a run go on: blocked ones are tried again at once, and with a version those belong to it from now
on whose live workers have it.

Invariant: a function is only given to code that a live worker has, and never taken from a step that is under way (see turns.py). Which code
that is comes in with the command.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from stepmesh_broker.protocol.messages import Failure, Refused
from stepmesh_orchestrator.core.commands import ResumeRun
from stepmesh_orchestrator.core.decide.news import activate
from stepmesh_orchestrator.core.evolve.dormancy import runs_of
from stepmesh_orchestrator.core.function_events import FunctionResumed
from stepmesh_orchestrator.core.functions import Function
from stepmesh_orchestrator.core.rebuild import routed
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import PARKED, RUNNING, Item, Tree

NOT_ALIVE = "SM-1095"
"""No live worker has the version, as far as is known."""
_NAMED = 10
"""Versions, and functions, that a message shows."""


class Move(NamedTuple):
    """A function that is to go on. `version`: with which code; "" = with its own."""

    item: Item
    step: int
    version: str = ""


class _Offer(NamedTuple):
    """A function that has begun, and the versions of it that live workers have. `workflow`: `/saga of pool py`."""

    item: Item
    step: int
    function: Function
    workflow: str
    alive: list[str]


def moves(session: Session, tree: Tree, command: ResumeRun) -> list[Move] | Refused:
    """What is to go on of a tree, and how; why nothing may."""
    found: list[Move] | Refused = [] if not command.version else _chosen(session, tree, command)
    if isinstance(found, Refused):
        return found
    known = {(move.item.run.id, move.item.index, move.step) for move in found}
    blocked = [Move(item, step) for item, step, function in _functions(session, tree) if function.blocked and item.phases[step] == PARKED]
    return found + [move for move in blocked if (move.item.run.id, move.item.index, move.step) not in known]


def carry_out(session: Session, move: Move) -> None:
    """One that waits is replayed at once, so that it shows now whether the code can go on with it."""
    item, step, version = move
    session.emit(FunctionResumed(item.run.id, item.index, step, version))
    session.touched[item.run.tree.root] = item.run.tree
    if item.phases[step] == PARKED:
        activate(session, item, step)


def named(version: str, alive: Sequence[str]) -> list[str]:
    """Those that are meant: the one that is called so, else those that were declared so, else those that begin so, or whose hash does."""
    if version in alive:
        return [version]
    declared = [one for one in alive if one.partition("+")[0] == version]
    return declared or [one for one in alive if _begins(one, version)]


def _begins(one: str, version: str) -> bool:
    return one.startswith(version) if "+" in version else one.partition("+")[2].startswith(version)


def _chosen(session: Session, tree: Tree, command: ResumeRun) -> list[Move] | Refused:
    """Functions of which no live worker has the version stay where they are, if others have it: each workflow has versions of its own."""
    offers = list(_offers(session, tree, command))
    if not offers:
        hint = "a function that has not begun takes the version of the worker that takes it; without --version the run only goes on"
        return Refused("SM-1096", f"run {tree.root} has no durable function that has begun, so no version is to be chosen", hint)
    meant = [(offer, named(command.version, offer.alive)) for offer in offers]
    unclear = next(((offer, found) for offer, found in meant if len(found) > 1), None)
    if unclear is not None:
        text = f"version {command.version} may be any of {_listed(unclear[1])} of {unclear[0].workflow}"
        return Refused("SM-1097", text, "name one of them whole, as `stepmesh workers` shows it")
    if not any(found for _, found in meant):
        return _not_alive(command.version, offers)
    return [Move(offer.item, offer.step, found[0]) for offer, found in meant if found and not _is_there(offer, found[0])]


def _is_there(offer: _Offer, version: str) -> bool:
    """Whether it belongs to that version, and no worker of another one may be about to take it over."""
    item, step, function = offer.item, offer.step, offer.function
    is_sure = item.phases[step] != RUNNING or function.leaves == item.attempt(step)
    return function.pinned() == version and is_sure


def _not_alive(version: str, offers: Sequence[_Offer]) -> Refused:
    by_workflow = {offer.workflow: _listed(offer.alive) or "none" for offer in offers}
    alive = "; ".join(f"{workflow}: {those}" for workflow, those in list(by_workflow.items())[:_NAMED])
    hint = "`stepmesh workers` shows who has which; start a worker with that version: `stepmesh worker FILE`"
    return Refused(NOT_ALIVE, f"no live worker has version {version}. Versions that live workers have of {alive}", hint)


def _listed(versions: Sequence[str]) -> str:
    more = f" and {len(versions) - _NAMED} more" if len(versions) > _NAMED else ""
    return ", ".join(versions[:_NAMED]) + more


def _offers(session: Session, tree: Tree, command: ResumeRun) -> Iterator[_Offer]:
    for item, step, function in _functions(session, tree):
        route = routed(session, item, step) if function.pinned() else None
        if route is not None and not isinstance(route, Failure):
            place = route[0].pool, route[0].component
            alive = sorted({version for pool, path, version in command.alive if (pool, path) == place})
            yield _Offer(item, step, function, f"{place[1]} of pool {place[0]}", alive)


def _functions(session: Session, tree: Tree) -> Iterator[tuple[Item, int, Function]]:
    for run in runs_of(session.state, tree):
        for item in run.items.values():
            for step in item.functions or ():
                function = item.function(step)
                if function is not None:
                    yield item, step, function
