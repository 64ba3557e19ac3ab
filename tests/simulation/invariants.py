"""What must hold after every decision, whatever happened before (architecture.md, Invariants 7 and 8)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from stepmesh_broker.protocol.messages import TaskRef
from stepmesh_broker.protocol.permit_letters import PermitLetter
from stepmesh_orchestrator.core.decide.breakers import name_of
from stepmesh_orchestrator.core.decide.demand import blockers
from stepmesh_orchestrator.core.decide.failure import default_blockers
from stepmesh_orchestrator.core.decide.progress import has_slot
from stepmesh_orchestrator.core.decide.step_keys import asker
from stepmesh_orchestrator.core.effects import CallKeys, Send, SetTimer, TreeLeft
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import (
    AWAITING,
    CHILD,
    DONE,
    FALLBACK,
    FETCHING,
    IDLE,
    QUEUED,
    RETRYING,
    RUNNING,
    SLEEPING,
    WAITING,
    Item,
    Run,
    Tree,
)

if TYPE_CHECKING:
    from tests.simulation.driver import World


def check(world: World) -> None:
    """Slots are counted right and never above the limit; every live run has a next cause."""
    session = world.session
    left = [session.work, session.resolved, session.over, session.touched]
    assert not any(left), "the turn is not settled"
    running: dict[str, int] = {}
    returned: dict[str, int] = {}  # components that take their slot again after their sub-runs: they cannot be made to wait for one
    known = _Causes(world)
    for run in session.state.runs.values():
        assert run.id == run.tree.root or run.parent is not None
        for item in run.items.values():
            held = [step for step in range(len(item.outcomes)) if item.holds_slot(step)]
            running[run.tree.root] = running.get(run.tree.root, 0) + len(held)
            back = sum((run.id, item.index, step) in world.parents for step in held)
            returned[run.tree.root] = returned.get(run.tree.root, 0) + back
            _check_item(known, item)
        _check_run(world, run)
    for tree in session.state.trees.values():
        assert tree.in_flight == running.get(tree.root, 0), f"{tree.in_flight} slots taken by {running.get(tree.root, 0)} tasks"
        assert not tree.limit or tree.in_flight <= tree.limit + returned.get(tree.root, 0), "more tasks in flight than the limit"
        assert tree.live == sum(run.tree is tree for run in session.state.runs.values())
    _check_places(world)
    _check_gates(world)
    _check_dormant(world)


def _check_places(world: World) -> None:
    """Places are counted right, none is free while somebody waits, and who waits keeps a slot of its tree."""
    session, places = world.session, world.session.places
    if places is None:
        assert sum(tree.promised for tree in session.state.trees.values()) == len(_asking_or_held_back(session))
        return
    assert not places.vacant
    holders: Counter[str] = Counter()
    waiting: Counter[str] = Counter()
    promised: Counter[str] = Counter()
    for (run_id, index, step), of_pool in places.held.items():
        item = session.state.runs[run_id].items[index]
        name = places.name_of(of_pool)
        if item.phases[step] == QUEUED:
            waiting[name] += 1
            promised[item.run.tree.root] += 1
        else:
            assert item.phases[step] == RUNNING
            holders[name] += item.holds_slot(step)
    for item, *_ in _asking_or_held_back(session):
        promised[item.run.tree.root] += 1
    for name, of_pool in places.pools.items():
        assert of_pool.taken == holders[name], f"{of_pool.taken} places of pool {name} taken by {holders[name]}"
        assert of_pool.waiting == waiting[name] == sum(lane.waiting for lane in of_pool.lanes.values())
        assert not of_pool.waiting or of_pool.taken >= of_pool.limit, "a place is free while somebody waits for it"
        back = sum(key in world.parents for key, held in places.held.items() if held is of_pool)
        assert of_pool.taken <= of_pool.limit + back, "more tasks in flight than places"
    for tree in session.state.trees.values():
        assert tree.promised == promised[tree.root]
        assert not tree.limit or tree.promised <= tree.limit


def _asking_or_held_back(session: Session) -> list[tuple[Any, ...]]:
    return [*session.asking.values(), *(one for waiting in session.held_back.values() for one in waiting.values())]


def told(world: World) -> set[str]:
    """Runs and attempts about which a letter is on its way."""
    sent = [effect.letter for effect in world.session.effects if isinstance(effect, Send)]
    return {letter.run for letter in [*world.postman.letters, *sent] if isinstance(letter, PermitLetter)}


def _check_gates(world: World) -> None:
    """Whoever is held waits at the home of its key, which has no room, or has set a time; and only who lives has to do with keys."""
    state = world.session.state
    about = told(world)
    calls = {**world.calls, **{effect.key: effect.due_ms for effect in world.session.effects if isinstance(effect, CallKeys)}}
    for run in state.runs.values():
        held = run.gates is not None and run.gates_open < len(run.gates)
        assert held is (run.tree.is_held and run.id == run.tree.root)
        if run.gates is None or not held:
            continue
        assert not run.items
        key = run.gates[run.gates_open].key
        found = state.permits.keys.get(key)
        if found is None or run.id not in found.waiting:
            assert run.id in about, "nobody will open the gate"
        elif found.has_room():
            assert found.opens_ms() > world.session.now or key in calls, "nobody opens the gate"
            assert calls[key] <= found.opens_ms(), "nobody will open the gate"
    for key, found in state.permits.keys.items():
        assert found.is_idle() is (key in state.permits.idle)
        for run_id in found.holders:
            live = run_id in state.runs or run_id in state.dormant or run_id in world.session.granted
            assert live or run_id in about, "nobody gives it back"


def _check_dormant(world: World) -> None:
    """What is dormant is nowhere else, and is to be back at its time."""
    state = world.session.state
    due = {left.root for left in [*world.sleepers.due, *world.session.effects] if isinstance(left, TreeLeft)}
    for frame in state.dormant.frames:
        assert frame <= len(world.frames) + 1, "an image is in a frame to come"
    for run in state.dormant.places:
        assert run not in state.runs
        assert run not in state.finished
    left = [run for run in state.dormant.places if run in world.runs and run not in due and world.submissions[run].submit.parent is None]
    assert not left, f"nobody will wake {left}"
    assert sum(state.dormant.flows.values()) == sum(state.dormant.frames.values()) == len(state.dormant)


class _Causes:
    """What the outside owes the core: tasks, timers, flows."""

    def __init__(self, world: World) -> None:
        session = world.session
        self.tasks = world.known_tasks()
        self.timers = {(timer.task, timer.due_ms) for timer in [*world.timers, *session.effects] if isinstance(timer, SetTimer)}
        self.rings = {task for task, _ in self.timers}
        self.needs = {need.key for need in [*world.needs, *session.effects] if hasattr(need, "key")}
        self.fetching = {(id(item), step) for key, waiting in session.awaiting_flow.items() if key in self.needs for item, step in waiting}
        self.queued = {(id(item), step) for tree in session.state.trees.values() for item, step in tree.queue}
        places = {} if session.places is None else session.places.held
        self.placed = {key for key, of_pool in places.items() if of_pool.taken >= of_pool.limit}
        self.asking, self.permits = session.asking, session.state.permits
        self.told = told(world)
        self.held_back, self.canaries, self.now = session.held_back, session.canaries, session.now
        self.runs = session.state.runs


def _check_run(world: World, run: Run) -> None:
    room = run.item_limit or world.settings.item_window
    assert len(run.items) <= room, "more items at once than allowed"
    pending = run.next_item < run.total
    assert pending == (run.tree.pending.get(run.id) is run)
    assert not pending or len(run.items) >= room or (run.created_at, run.id) in run.tree.roomy, "a run with room that nobody looks at"
    if pending and has_slot(run.tree):
        assert len(run.items) == room, "an item could start and does not"
    assert run.items or pending, "a run with nothing to do has not ended"
    assert run.ended_items + len(run.items) + (run.total - run.next_item) == run.total


def _check_item(causes: _Causes, item: Item) -> None:
    run = item.run
    assert item.open
    assert not run.stopping
    moving = False
    for step, phase in enumerate(item.phases):
        if phase in (IDLE, DONE):
            continue
        if phase == WAITING:
            missing = blockers(item, step)
            assert missing, f"target {step} waits for nothing"
            assert all(item.phases[need] not in (IDLE, DONE) for need in missing), f"target {step} waits for a step that nobody started"
            continue
        if phase == FALLBACK:
            failed = item.wait(step).last_failure
            assert failed is not None
            missing = default_blockers(item, run.flow.steps[step], failed)
            assert missing, f"the default of step {step} waits for nothing"
            assert all(item.phases[need] not in (IDLE, DONE) for need in missing), "a default waits for a step that nobody started"
            continue
        moving = True
        _check_cause(causes, item, step, phase)
    assert moving, f"item {item.index} of {run.id} has no next cause"


def _check_cause(causes: _Causes, item: Item, step: int, phase: int) -> None:
    reference = TaskRef(item.run.id, item.index, step, item.attempt(step))
    if phase == RUNNING:
        assert reference in causes.tasks, "a step runs and no task is about"
    elif phase in (RETRYING, SLEEPING):
        due = (reference, item.wait(step).due_ms) in causes.timers
        assert due or item.run.tree.paused_ms, "a step waits and no timer is set"
    elif phase == AWAITING:
        assert reference in causes.rings or item.run.tree.paused_ms, "a step awaits something and would never ask again"
    elif phase == FETCHING:
        assert (id(item), step) in causes.fetching, "a step waits for a flow that nobody fetches"
    elif phase == CHILD:
        child = causes.runs.get(item.wait(step).child or item.run.id)
        assert child is not None, "a step waits for a sub-run that is not"
        assert child.tree is item.run.tree
    else:
        assert phase == QUEUED
        if (item.run.id, item.index, step) in causes.placed:
            return
        if asker(item, step) in causes.held_back.get(about := name_of(item.run.flow.steps[step]), {}):
            assert about in causes.canaries or causes.permits.breakers[about].due_ms > causes.now, "nobody will try it"
            return
        if (name := asker(item, step)) in causes.asking:
            assert name in causes.told or name in causes.permits.keys[causes.asking[name][2]].waiting, "nobody will let it through"
            return
        assert (id(item), step) in causes.queued, "a step is queued nowhere"
        assert _is_full(item.run.tree), "a step is queued although there is a slot"


def _is_full(tree: Tree) -> bool:
    return not has_slot(tree)
