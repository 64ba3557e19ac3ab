"""Letting a tree leave memory, and bringing it back. A tree may leave when nothing of it can move before a timer that is far away.

What is remembered of a dormant run is that it lives, so a late or repeated message about it needs no image: no attempt of it is in
flight, and it was submitted already. To cancel it, it must be woken first.
"""

from __future__ import annotations

from stepmesh_orchestrator.core.commands import CancelRun, RestTree, WakeTree
from stepmesh_orchestrator.core.decide import firing, pausing
from stepmesh_orchestrator.core.decide.resume import resume_item
from stepmesh_orchestrator.core.decide.waits import FOR_EVER, RENEWED_MS
from stepmesh_orchestrator.core.dormant import MAX_FRAME, frame_of
from stepmesh_orchestrator.core.effects import TreeLeft
from stepmesh_orchestrator.core.events import PER_FRAME, TreeDormant, TreeWoken
from stepmesh_orchestrator.core.evolve.dormancy import encode_tree, members
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import (
    AWAITING,
    CHILD,
    DONE,
    FALLBACK,
    IDLE,
    PARKED,
    RETRYING,
    SLEEPING,
    WAITING,
    Item,
    Run,
    Tree,
)

MAX_RUNS = 100
MAX_ITEMS = 1_000
"""Runs, and inputs of them, of a tree that may become dormant: a larger one stays in memory."""
MAX_IMAGE_BYTES = 64 * 1024
_TIMED = (RETRYING, SLEEPING, AWAITING)
_RESTING = frozenset((IDLE, WAITING, RETRYING, SLEEPING, CHILD, DONE, FALLBACK, AWAITING, PARKED))


def rest_tree(session: Session, command: RestTree) -> None:
    """Nothing when the tree has something to do soon, or is too large."""
    tree = session.state.trees.get(command.root)
    runs = None if tree is None else _resting(session, tree)
    if runs is not None and not all(_asked(item, command.published) for run in runs for item in run.items.values()):
        return
    dues = (due for run in runs or () for item in run.items.values() for due in _dues(session, item))
    wakes_ms = min(dues, default=None)
    if tree is None or runs is None or wakes_ms is None or wakes_ms < session.now + session.settings.dormant_ms:
        return
    image = encode_tree(tree, runs)
    if len(image) > MAX_IMAGE_BYTES:
        return
    session.emit(TreeDormant(tree.root, wakes_ms, image, [run.id for run in runs if run.id != tree.root]))
    session.cause(TreeLeft(tree.root, wakes_ms))


def wake_tree(session: Session, command: WakeTree) -> None:
    """Set its timers again, and go on where it left."""
    state = session.state
    place = state.dormant.places.get(command.root)
    if place is None or frame_of(place) != command.frame:
        return
    session.bring(TreeWoken(command.root, command.image), command.flows)
    tree = state.trees[command.root]
    session.touched[tree.root] = tree
    for run in members(state, tree) or ():
        for item in list(run.items.values()):
            resume_item(session, item)
    schedule = state.schedules.of_run(tree.root)
    if schedule is not None and tree.root in schedule.ends:
        pausing.cancel_run(session, CancelRun(tree.root, firing.ENDED))


def _resting(session: Session, tree: Tree) -> list[Run] | None:
    """Its runs; None when something is in flight, about to begin, or awaited from the store, or when an ended sub-run is remembered."""
    if tree.in_flight or tree.ended or tree.cancelling or tree.live > MAX_RUNS or session.state.sequence >= MAX_FRAME:
        return None
    if any(item.run.tree is tree for waiting in session.awaiting_child.values() for item, _, _ in waiting):
        return None
    runs = members(session.state, tree)
    if runs is None or sum(run.total for run in runs) > MAX_ITEMS:
        return None
    return runs if all(_rests(item) for run in runs for item in run.items.values()) else None


def _rests(item: Item) -> bool:
    """A function that its code cannot go on with stays in memory: it goes on as soon as a worker brings other code."""
    return _RESTING.issuperset(item.phases) and not any(function.blocked for function in (item.functions or {}).values())


def _dues(session: Session, item: Item) -> list[int]:
    """When its steps move by themselves. One that awaits something for ever is brought back now and then, to ask for it again."""
    renewed, steps = (
        session.now + RENEWED_MS,
        [(item.wait(step).due_ms, phase) for step, phase in enumerate(item.phases) if phase in _TIMED],
    )
    dues = [min(due or FOR_EVER, renewed) if phase == AWAITING else due for due, phase in steps]
    for step in item.functions or ():
        function = item.function(step)
        if function is not None:
            dues += function.dues()
            if not dues or function.awaits_events():
                dues.append(renewed)
    return dues


def _asked(item: Item, published: int) -> bool:
    """Whether all that its steps await is asked for, where it is known: nobody derives it again while the tree is not in memory."""
    return all(item.positions[step] // PER_FRAME <= published for step, phase in enumerate(item.phases) if phase in (AWAITING, PARKED))
