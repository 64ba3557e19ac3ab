"""Durable functions: a worker's turns, what their commands set going, and what brings an idle one back to a worker.

A function is a step whose worker answers with turns before it answers with a result. Invariants: only this module's events put records in
order; a command gets one result; an idle function with news is handed to its pool again. Calls and children are sub-runs, whose ids follow
from the command, so deciding twice names the same run.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from stepmesh_broker.protocol.functions import FunctionTurn, FunctionTurned
from stepmesh_broker.protocol.histories import Issued, Kind, Record, Settled, TakenOver, Tried, UpdateAsked, size_of
from stepmesh_broker.protocol.ids import FlowId, RunId, child_run_id
from stepmesh_broker.protocol.messages import ErrorCode, Failure, TaskRef
from stepmesh_orchestrator.core.commands import AdvanceFunction
from stepmesh_orchestrator.core.decide import cancel, hearing, outsiders, results, subruns, waits
from stepmesh_orchestrator.core.decide.news import activate, settle, tell
from stepmesh_orchestrator.core.decide.parking import activation_over, give_up_children, let_go, stop_children, wait_of
from stepmesh_orchestrator.core.decide.stale import refused
from stepmesh_orchestrator.core.decide.turns import (
    closed_by,
    gives_over,
    is_as_said,
    is_overtaken,
    speaks_over,
    taken_as,
    takes_over,
)
from stepmesh_orchestrator.core.effects import BY_NAME, Answered, NeedFlow, SetTimer
from stepmesh_orchestrator.core.events import Parent, RunCreated
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.function_events import FunctionContinued, FunctionTookOver, FunctionUnwound, HistoryGrew
from stepmesh_orchestrator.core.function_reuse import answers
from stepmesh_orchestrator.core.functions import Function, call_document, due_ms, unanswered
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.state import PARKED, Item, Run

PAGE_BYTES = 256 * 1024
"""Records in one answer of more than one record, bytes."""


def advance(session: Session, command: AdvanceFunction) -> None:
    """Append what a turn brought, set going what it asks for, and say what the worker lacks."""
    turn, task = command.turn, command.turn.task
    item = results.in_flight(session, task.run, task.item, task.step, task.attempt)
    if item is None:
        session.cause(Answered(refused(session, turn)))
        return
    function = item.function(task.step) or Function()
    if speaks_over(function, turn):
        session.cause(Answered(refused(session, turn, "its task came twice, and another worker took this activation further")))
        return
    own = False
    if turn.number and (function.driver != turn.driver or function.turn < turn.number) and not is_overtaken(function, turn):
        taken = [record for one in turn.records if (record := taken_as(function, turn, one, session.now)) is not None]
        own = turn.base == len(function.records) and is_as_said(taken, turn)
        left = [asked for id in turn.abandoned if (asked := function.asked(id)) is not None]
        if taken or turn.abandoned or not turn.blocked:  # code that cannot go on gives no other sign of life
            is_new = item.functions is None or task.step not in item.functions
            over = takes_over(function, turn, taken)
            closed = closed_by(function, turn)
            session.emit(HistoryGrew(task.run, task.item, task.step, taken, closed, turn.driver, turn.number, over))
            if is_new:
                cancel.tell_late(session, item, task.step)
        waits.leave(session, item, task.step, left)
        give_up_children(session, item, task.step, turn.abandoned)
        if function.kept:
            _answer_known(session, item, task.step, taken)
        function = item.function(task.step) or function
        for id in hearing.heard(item, task.step, turn.base) if item.unheard else ():
            if (late := function.asked(id)) is not None:
                arm(session, item, task.step, late)
        for record in taken:
            if isinstance(record, Issued):
                if record.id in function.open:  # it is not answered, and not given up in the same breath
                    arm(session, item, task.step, record)
            elif isinstance(record, Tried):
                session.cause(SetTimer(record.due_ms, wait_of(item, task.step)))
    session.cause(Answered(_answer(session, item, turn, own=own)))


def _answer_known(session: Session, item: Item, step: int, issued: list[Record]) -> None:
    """Record the results of those of the commands that have them from another run."""
    function = item.function(step)
    asked = [one for one in issued if isinstance(one, Issued)]
    given: list[Record] = [] if function is None else [*answers(function, asked, session.now)]
    if given:
        session.emit(HistoryGrew(item.run.id, item.index, step, given))


def _answer(session: Session, item: Item, turn: FunctionTurn, *, own: bool) -> FunctionTurned:
    """Let go of an idle function that has no news; else tell the news."""
    task = turn.task
    function = item.function(task.step) or Function()
    news = function.records[turn.base :]
    only_own = own and len(news) == len(turn.records)
    left = turn.idle and not any(isinstance(record, Settled | Tried) for record in news) and (only_own or not news)
    if left and not turn.blocked and any(when <= session.now for when in function.retries.values()):
        left = False  # its timer rang while a worker had it, or was to have it: that worker is told the time, and does the step
    if turn.continued is not None:
        _continue(session, item, task.step, turn.continued, turn.base)
        return FunctionTurned(at_ms=session.now, left=True)
    if turn.leaving or gives_over(function, turn, session.now):
        let_go(session, item, task.step, leaving=True)
        activate(session, item, task.step)
        return FunctionTurned(at_ms=session.now, records=[], left=True)  # its body is not kept
    if left and turn.blocked and function.taken:
        _unwind(session, item, task.step)
    elif left:
        let_go(session, item, task.step, turn.blocked, turn.version)
    if only_own:
        return FunctionTurned(at_ms=session.now, left=left)
    page = _page(news)
    return FunctionTurned(at_ms=session.now, records=page, more=len(page) < len(news), left=left)


def _continue(session: Session, item: Item, step: int, value: bytes, heard: int) -> None:
    """The body began anew. Updates behind the records that it `heard` are for the next one; those that it did not reply to are over."""
    function = item.function(step)
    lost, left = ([], []) if function is None else unanswered(function, heard)
    if lost:
        session.emit(HistoryGrew(item.run.id, item.index, step, [_no_reply(one, session.now) for one in lost]))
    _leave(session, item, step)
    session.emit(FunctionContinued(item.run.id, item.index, step, value))
    _ask_again(session, item, step, left)
    _begin_anew(session, item, step)


def _no_reply(update: UpdateAsked, now: int) -> Issued:
    problem = {"code": int(ErrorCode.CANCELLED), "message": "the workflow began anew (wf.continue_as_new) before the update was done"}
    return Issued(f"c/{update.id}", Kind.REPLY, update.id, "", msgspec.json.encode({"error": problem}), "", now)


def _unwind(session: Session, item: Item, step: int) -> None:
    """The code that is there did not do what the other run's did: nothing but results is taken over, and updates that it has to answer."""
    function = item.function(step)
    _leave(session, item, step)
    session.emit(FunctionUnwound(item.run.id, item.index, step))
    _ask_again(session, item, step, [] if function is None else unanswered(function, _taken_over(function))[1])
    _begin_anew(session, item, step)


def _taken_over(function: Function) -> int:
    """Where its own history begins."""
    return max((at for at, record in enumerate(function.records) if isinstance(record, TakenOver)), default=0)


def _ask_again(session: Session, item: Item, step: int, updates: list[UpdateAsked]) -> None:
    if updates:
        again: list[Record] = [msgspec.structs.replace(one, at_ms=session.now) for one in updates]
        session.emit(HistoryGrew(item.run.id, item.index, step, again))


def _leave(session: Session, item: Item, step: int) -> None:
    """What it waited for is void."""
    stop_children(session, item, step)
    function = item.function(step)
    waits.leave(session, item, step, [] if function is None else function.commands())
    activation_over(session, item, step)


def _begin_anew(session: Session, item: Item, step: int) -> None:
    cancel.tell_late(session, item, step)
    session.touched[item.run.tree.root] = item.run.tree
    activate(session, item, step)


def take_over(session: Session, item: Item, step: int, value: bytes) -> None:
    """A step whose first attempt is about to begin with `value` goes on from what it did in another run."""
    seed = (item.pasts or {}).get(step)
    if seed is None:
        return
    session.emit(FunctionTookOver(item.run.id, item.index, step, seed.input != value))
    function = item.function(step)
    for command in [] if function is None else function.commands():
        arm(session, item, step, command)


def _page(news: list[Record]) -> list[Record]:
    size = 0
    for index, record in enumerate(news):
        size += size_of(record)
        if size > PAGE_BYTES and index:
            return news[:index]
    return news


def arm(session: Session, item: Item, step: int, command: Issued) -> None:
    """Set going what a command that is open asks for. Also after a recovery, where some of it may be under way."""
    setting = _ARMED.get(command.kind)
    if setting is not None:
        setting(session, item, step, command)


def _arm_timer(session: Session, item: Item, step: int, command: Issued) -> None:
    session.cause(SetTimer(due_ms(command), wait_of(item, step)))


def _arm_call(session: Session, item: Item, step: int, command: Issued) -> None:
    """A component of any pool: a sub-run of one step."""
    text = call_document(command)
    _start(session, item, step, command, text, session.flows.by_text(text))


def _arm_child(session: Session, item: Item, step: int, command: Issued) -> None:
    flow = FlowId(command.name.removeprefix("flow://"))
    _start(session, item, step, command, None, session.flows.get(flow))


_ARMED: dict[Kind, Callable[[Session, Item, int, Issued], None]] = {
    Kind.TIMER: _arm_timer,
    Kind.CALL: _arm_call,
    Kind.CHILD: _arm_child,
    Kind.EVENT: outsiders.ask,
    Kind.PROMISE: outsiders.ask,
}


def _start(session: Session, item: Item, step: int, command: Issued, document: bytes | None, flow: CompiledFlow | Failure | None) -> None:
    run, function = item.run, item.function(step)
    name = _child_id(item, step, command)
    if name in session.state.runs or function is None or command.id not in function.open:
        return
    if isinstance(flow, Failure):
        settle(session, item, step, Settled(command.id, session.now, failure=flow))
    elif flow is None:
        key = _key_of(command) if document is None else document
        waiting = session.awaiting_child.setdefault(key, [])
        waiting.append((item, step, command))
        if len(waiting) == 1:
            session.cause(NeedFlow(key, document))
    elif subruns.depth(session, run) >= session.settings.max_depth:
        deepest = Failure(ErrorCode.INVALID_INPUT, f"sub-runs are nested deeper than {session.settings.max_depth}")
        settle(session, item, step, Settled(command.id, session.now, failure=deepest))
    else:
        parent = Parent(run.id, item.index, step, "function", function.open[command.id])
        event = RunCreated(
            name, run.tree.root, run.namespace, flow.id, [command.arguments], run.tree.limit, 0, variables=run.given, parent=parent,
            traceparent=run.traceparent, priority=run.priority,
        )  # fmt: skip
        session.create(event, flow)
        session.touched[run.tree.root] = run.tree


def _key_of(command: Issued) -> bytes:
    """What its flow is asked for by. A name and a version are looked up whenever they are asked for: the journal holds the run's flow."""
    asked = command.name.removeprefix("flow://").encode()
    return BY_NAME + asked if b"@" in asked else asked


def _child_id(item: Item, step: int, command: Issued) -> RunId:
    """A function that began anew after a failure names others."""
    function = item.function(step)
    first = None if function is None else function.began()
    began = 0 if first is None else first.at_ms
    return child_run_id(item.run.id, f"{item.index}/{step}/{began}/{command.id}")


def flow_resolved(session: Session, key: bytes, failure: Failure | None, flow: CompiledFlow | None = None) -> None:
    """The flow of commands that wait for it is there, or never will be. `flow`: what a name led to."""
    for item, step, command in session.awaiting_child.pop(key, ()):
        function = item.function(step) if item.open else None
        if function is None or command.id not in function.open:
            continue
        if failure is not None:
            settle(session, item, step, Settled(command.id, session.now, failure=failure))
        elif flow is not None:
            _start(session, item, step, command, None, flow)
        else:
            arm(session, item, step, command)


def child_ended(session: Session, run: Run, outcome: bytes | Failure) -> None:
    """A call or child of a function is over."""
    parent = run.parent
    owner = session.state.runs.get(parent.run) if parent is not None else None
    item = owner.items.get(parent.item) if owner is not None and parent is not None else None
    function = item.function(parent.step) if item is not None and parent is not None else None
    command = function.at(parent.ordinal) if function is not None and parent is not None else None
    if item is None or parent is None or command is None or _child_id(item, parent.step, command) != run.id:
        return
    failed = outcome if isinstance(outcome, Failure) else None
    value = outcome if isinstance(outcome, bytes) else b"null"
    settle(session, item, parent.step, Settled(command.id, session.now, value, failed))


def fire(session: Session, task: TaskRef) -> None:
    """The time of some wait of the function has come: settle all timers that are due, in the order of their times."""
    run = session.state.runs.get(task.run)
    item = run.items.get(task.item) if run is not None else None
    function = item.function(task.step) if item is not None else None
    if item is None or function is None or item.run.tree.paused_ms:
        return  # a paused tree sets its timers again when it goes on
    timers = [(when, command) for when, command in function.timers() if when <= session.now]
    due: list[Record] = [Settled(command.id, session.now) for _, command in timers]
    if due:
        expired = outsiders.expired(function, [when for when, _ in timers])
        session.emit(HistoryGrew(task.run, task.item, task.step, due, expired))
        hearing.settled(item, task.step)
        tell(session, item, task.step)
    if item.phases[task.step] == PARKED and min(function.dues(), default=session.now + 1) <= session.now:
        activate(session, item, task.step)
    elif any(when <= session.now for when in function.retries.values()):
        tell(session, item, task.step)
    if (item.renewals or {}).get(task.step, waits.FOR_EVER) <= session.now:  # to ask again for events, whatever became of the letters
        outsiders.ask_all(session, item, task.step, function)


def resume(session: Session, item: Item, step: int) -> None:
    """A function that was read back: its waits are set again, and one that was let go of and has news goes to a worker."""
    function = item.function(step)
    if function is None:
        return
    hearing.read_back(item, step)
    if item.phases[step] == PARKED:
        if function.blocked:
            session.cause(SetTimer(function.due_ms, wait_of(item, step)))
        elif len(function.records) > function.seen or (function.input is not None and not function.records):
            tell(session, item, step)
    for when in function.retries.values():
        session.cause(SetTimer(when, wait_of(item, step)))
    for command in function.commands():
        arm(session, item, step, command)
