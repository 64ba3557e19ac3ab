"""Why a live run is where it is: one line for each thing that it waits for. Every live run has such a cause, always."""

from __future__ import annotations

from dataclasses import dataclass

from stepmesh_broker.protocol.histories import Kind
from stepmesh_orchestrator.core.decide.failure import default_blockers
from stepmesh_orchestrator.core.decide.progress import blockers
from stepmesh_orchestrator.core.decide.waits import awaited_of
from stepmesh_orchestrator.core.functions import due_ms
from stepmesh_orchestrator.core.gates import Gate
from stepmesh_orchestrator.core.places import Key, Places
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


class _Queues:
    """Who is how far in the queues of pools; each is put in order once."""

    def __init__(self, places: Places | None) -> None:
        self._places = places
        self._ranks: dict[tuple[int, str], dict[Key, int]] = {}

    def of(self, run: Run, item: int, step: int) -> str:
        """What the step is told of its place; "" when it does not wait for one."""
        places = self._places
        of_pool = None if places is None else places.held.get((run.id, item, step))
        if places is None or of_pool is None:
            return ""
        known = (id(of_pool), run.namespace)
        if known not in self._ranks:
            self._ranks[known] = {key: rank for rank, key in enumerate(of_pool.order(run.namespace), 1)}
        ranks = self._ranks[known]
        rank = ranks.get((run.id, item, step))
        if rank is None:
            return ""
        in_turn = sum(1 for lane in of_pool.lanes.values() if lane.waiting)
        beside = f", {in_turn} namespaces by turns" if in_turn > 1 else ""
        where = f"pool {places.name_of(of_pool)} ({of_pool.taken} of {of_pool.limit} tasks in flight)"
        return f"ready, waits for a place of {where}: {ordinal(rank)} of {len(ranks)} of namespace {run.namespace}{beside}"


def explain(state: State, run: Run, now_ms: int, places: Places | None = None) -> list[Cause]:
    """Causes of the run and of its sub-runs, in reading order. A pause goes before all others. `places`: those that live runs wait for."""
    tree = run.tree
    causes = _causes(state, run, now_ms, _Queues(places))
    if tree.paused_ms:
        text = f"paused: nothing new starts and no timer takes effect until `stepmesh resume {tree.root}`; what is in flight ends"
        causes.insert(0, Cause(run.id, None, None, "", "paused", text, tree.paused_ms))
    return causes


def _causes(state: State, run: Run, now_ms: int, queues: _Queues) -> list[Cause]:
    causes: list[Cause] = []
    if run.gates is not None and run.gates_open < len(run.gates):
        causes.append(Cause(run.id, None, None, "", "held", _held(state, run, run.gates[run.gates_open], now_ms), run.created_ms))
    elif run.next_item < run.total:
        waiting = run.total - run.next_item
        causes.append(Cause(run.id, None, None, "", "pending", f"{waiting} items wait for a slot ({_slots(run)})"))
    for item in run.items.values():
        for step, phase in enumerate(item.phases):
            cause = _cause(item, step, phase, now_ms, queues)
            if cause is not None:
                causes.append(cause)
    for child in run.children or ():
        if child in state.runs:
            causes.extend(_causes(state, state.runs[child], now_ms, queues))
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


def _cause(item: Item, step: int, phase: int, now_ms: int, queues: _Queues) -> Cause | None:
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
        text = queues.of(run, item.index, step) or f"ready, waits for a slot ({_slots(run)})"
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


def _held(state: State, run: Run, gate: Gate, now_ms: int) -> str:
    """How far it is, where the key's home is this partition."""
    rule, found = gate.rule, state.permits.keys.get(gate.key)
    whose = f"key {gate.shown}" if gate.shown else f"flow {run.flow.name or run.flow_id}"
    rank = list(found.waiting).index(run.id) + 1 if found is not None and run.id in found.waiting else 0
    place = f": {ordinal(rank)} of {len(found.waiting)}" if found is not None and rank else ""
    seconds = max(0.0, (found.opens_ms() - now_ms) / 1000) if found is not None else 0.0
    if rule.period_ms:
        return f"waits until nobody comes after it for {whose}" + (f", {seconds:.1f} s more" if seconds else "")
    if rule.interval_us:
        return f"waits for its part of the rate{place} of {whose}" + (f"; the next one begins in {seconds:.1f} s" if seconds else "")
    return f"waits for a place{place} of {whose} (limit {rule.limit})"


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, …, 11th, …"""
    last = "th" if 10 < number % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{last}"


def _slots(run: Run) -> str:
    tree = run.tree
    limit = f"{tree.in_flight} of {tree.limit} tasks in flight" if tree.limit else "no limit of tasks"
    limit = f"paused, {limit}" if tree.paused_ms else limit
    return limit + (f", {len(run.items)} of {run.item_limit} items" if run.item_limit else "")
