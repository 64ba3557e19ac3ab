"""What has become possible, carried out: steps begin, items open, slots and places are given away.

All is a worklist, never recursion: a chain of ten thousand built-in steps is a loop.
"""

from __future__ import annotations

from heapq import heappop

from stepmesh_broker.protocol.permit_letters import PermitAsk, PermitGrant, PermitLetter, PermitReturn, PermitRevoke
from stepmesh_orchestrator.core.decide import cancel, failure, finish, functions, gates, permits, places, start, subruns
from stepmesh_orchestrator.core.decide.demand import demand, propagate
from stepmesh_orchestrator.core.events import ItemStarted
from stepmesh_orchestrator.core.places import Places
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import FALLBACK, QUEUED, Item, Run, Tree


def settle(session: Session) -> None:
    """Carry out everything that has become possible; ends when only the outside can move anything."""
    resolved, work, over = session.resolved, session.work, session.over
    while True:
        if resolved:
            item, step = resolved.popleft()
            if item.open:
                propagate(session, item, step)
                if item.run.flow.must_execute and not cancel.holds(session, item.run):
                    finish.try_end_item(session, item)
        elif work:
            item, target = work.popleft()
            if item.open and item.phases[target] == QUEUED:
                start.begin(session, item, target)
            elif item.open and item.phases[target] == FALLBACK:
                fall_back(session, item, target)
        elif over:
            _ended(session, over.popleft())
        elif session.places is not None and session.places.vacant:
            _call(session, session.places)
        elif session.letters:
            _take_letter(session, session.letters.popleft())
        elif not session.touched or not _refill(session):
            return


def _call(session: Session, known: Places) -> None:
    """Give the free places of a pool to who waits for them. What follows from that is work."""
    of_pool, _ = known.vacant.popitem()
    of_pool.calling = True
    try:
        while of_pool.taken < of_pool.limit and (found := of_pool.next()) is not None:
            places.leave(session, *found)
            start.begin(session, *found)
    finally:
        of_pool.calling = False


def _take_letter(session: Session, letter: PermitLetter) -> None:
    """What this partition told itself about a key."""
    if isinstance(letter, PermitAsk):
        permits.ask(session, letter)
    elif isinstance(letter, PermitReturn):
        permits.returned(session, letter)
    elif isinstance(letter, PermitGrant):
        gates.granted(session, letter)
    elif isinstance(letter, PermitRevoke):
        gates.revoked(session, letter)
    else:
        gates.checked(session, letter)


def _ended(session: Session, run: Run) -> None:
    if run.parent is not None and run.parent.kind == "function":
        functions.child_ended(session, run, subruns.outcomes_of(run)[0])
    else:
        subruns.child_ended(session, run)
    if run.stopping and run.tree.cancelling:  # by force, perhaps, and those above it waited for functions of it
        cancel.function_ended(session, run.tree)


def open_item(session: Session, run: Run) -> None:
    """Start the run's next item: demand its output and what must execute."""
    index = run.next_item
    session.emit(ItemStarted(run.id, index))
    item = run.items[index]
    flow = run.flow
    if flow.input_schema is not None and run.parent is not None:
        violations = flow.input_schema.violations(item.input)
        if violations:
            finish.end_item(session, item, finish.invalid_input(violations))
            return
    demand(session, item, [len(flow.steps), *flow.must_execute])


def fall_back(session: Session, item: Item, target: int) -> None:
    """A failed step's default: demand what it needs, or use it when nothing is missing."""
    step = item.run.flow.steps[target]
    failed = item.wait(target).last_failure
    assert failed is not None, "the event that began the fallback recorded it"
    blocked = failure.default_blockers(item, step, failed)
    if blocked:
        demand(session, item, blocked[::-1])
    else:
        failure.use_default(session, item, step, failed)


def _refill(session: Session) -> bool:
    """Give free slots away: to queued steps first, then to new items. True when there is new work."""
    for tree in list(session.touched.values()):
        while tree.queue and has_slot(tree):
            item, target = tree.queue.popleft()
            if item.open and item.phases[target] == QUEUED:
                session.work.append((item, target))
                return True
        if tree.pending and has_slot(tree) and _open_next(session, tree):
            return True
    session.touched.clear()
    return False


def has_slot(tree: Tree) -> bool:
    """Whether one more task may be in flight, or wait for a place of its pool."""
    return not (tree.is_held or tree.paused_ms) and (not tree.limit or tree.in_flight + tree.promised < tree.limit)


def _open_next(session: Session, tree: Tree) -> bool:
    """Start an item of the oldest run that has room. Runs without any are passed once: the end of an item brings them back."""
    window, roomy = session.settings.item_window, tree.roomy
    while roomy:
        run = tree.pending.get(roomy[0][1])
        if run is not None and len(run.items) < (run.item_limit or window) and not cancel.holds(session, run):
            open_item(session, run)
            return True
        heappop(roomy)
        if run is not None:
            run.is_roomy = False
    return False
