"""Drives the real core with a scripted, faulty world around it: workers, timers, the flow store, the journal, crashes.

Time is a number, the journal a list of bytes. Everything that happens is an action with its choices given, so a history is
replayed by its seed and shrunk by hypothesis. After every decision the invariants of the engine are checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from tests.simulation.dormancy import Sleepers
from tests.simulation.flows import Case, Choices, chance, compact, flow_id, make_case, pick
from tests.simulation.invariants import check
from tests.simulation.operators import Operators
from tests.simulation.postman import Postman
from tests.simulation.script import Fail, answer

from stepmesh_broker.protocol.ids import FlowId, Namespace, Partition, RunId
from stepmesh_broker.protocol.messages import Accepted, ErrorCode, Failure, ParentRef, Refused, Result, Submit, Task, TaskRef
from stepmesh_orchestrator.core import events
from stepmesh_orchestrator.core.commands import Command, EndTask, FailAttempt, FireTimer, ResolveFlow, ServeKeys, StartRun, WakeTree
from stepmesh_orchestrator.core.decide import decide
from stepmesh_orchestrator.core.effects import Answered, CallKeys, NeedFlow, RunOver, Send, SetTimer, TreeLeft
from stepmesh_orchestrator.core.events import PER_FRAME
from stepmesh_orchestrator.core.evolve.dormancy import flows_needed
from stepmesh_orchestrator.core.evolve.runs import forget_finished
from stepmesh_orchestrator.core.flow.compile import compile_stored
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.flow.routing import Router, default_router
from stepmesh_orchestrator.core.projection import apply
from stepmesh_orchestrator.core.rebuild import in_flight, rebuild, task_again
from stepmesh_orchestrator.core.replica import Replica
from stepmesh_orchestrator.core.rows import ItemRow, RunRow
from stepmesh_orchestrator.core.session import EngineSettings, Session
from stepmesh_orchestrator.core.snapshot import decode_state, encode_state, flows_in, state_hash
from stepmesh_orchestrator.core.state import FETCHING, QUEUED, RETRYING, Item, State

NO_FLOW = Failure(ErrorCode.INVALID_INPUT, "there is no such flow")
PARTITION = Partition(3)


def _shown(item: Item) -> tuple[list[int], list[int]]:
    """Phases and positions; what only the live engine knows is left out: which flow is being fetched, which retry has become due."""
    phases = [QUEUED if phase in (FETCHING, RETRYING) else phase for phase in item.phases[:-1]]
    return phases, list(item.positions)


Place = tuple[RunId, int, int]


class Store:
    """Flow documents, and the compiled ones that are at hand: the core's `Flows`."""

    def __init__(self) -> None:
        self.documents: dict[str, bytes] = {}
        self._compiled: dict[tuple[str, bytes | None], CompiledFlow] = {}
        self._texts: dict[bytes, CompiledFlow] = {}

    def get(self, flow: FlowId, overrides: bytes | None = None) -> CompiledFlow | None:
        """Only what is at hand."""
        return self._compiled.get((flow, overrides))

    def by_text(self, document: bytes) -> CompiledFlow | Failure | None:
        """Only what is at hand."""
        return self._texts.get(document)

    def put(self, document: bytes) -> FlowId:
        """Store a document (compact JSON)."""
        name = flow_id(msgspec.json.decode(document))
        self.documents[name] = document
        return FlowId(name)

    def load(self, flow: FlowId, overrides: bytes | None = None) -> CompiledFlow | None:
        """Compile a stored flow, unless it is at hand."""
        if flow not in self.documents:
            return None
        if (flow, overrides) not in self._compiled:
            self._compiled[flow, overrides] = compile_stored(self.documents[flow], overrides)
        return self._compiled[flow, overrides]

    def load_text(self, document: bytes) -> None:
        """Store and compile a document."""
        compiled = self.load(self.put(document))
        assert compiled is not None
        self._texts[document] = compiled

    def evict(self) -> None:
        """Nothing is at hand any more."""
        self._compiled.clear()
        self._texts.clear()


@dataclass
class World:
    """Everything around the core."""

    choices: Choices
    settings: EngineSettings = field(default_factory=lambda: EngineSettings(max_iterations=6))
    store: Store = field(default_factory=Store)
    router: Router = field(default_factory=default_router)
    session: Session = field(init=False)
    # durable
    frames: list[bytes] = field(default_factory=list)
    snapshots: list[tuple[int, bytes]] = field(default_factory=list)
    rows: list[RunRow | ItemRow] = field(default_factory=list)
    # on the way
    tasks: list[Task] = field(default_factory=list)
    late: list[EndTask] = field(default_factory=list)  # results of attempts that were given up
    past: list[Command] = field(default_factory=list)  # results that were decided on
    timers: list[SetTimer] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)  # keys, and when they are to be served
    sleepers: Sleepers = field(default_factory=Sleepers)
    postman: Postman = field(default_factory=Postman)
    operators: Operators = field(default_factory=Operators)
    past_wakes: list[WakeTree] = field(default_factory=list)
    parents: set[tuple[RunId, int, int]] = field(default_factory=set)  # steps whose components started sub-runs
    needs: list[NeedFlow] = field(default_factory=list)
    # of this turn
    turn: list[Command] = field(default_factory=list)
    # for the record
    dispatched: dict[TaskRef, Task] = field(default_factory=dict)
    over: list[RunId] = field(default_factory=list)
    runs: dict[RunId, Case] = field(default_factory=dict)
    submissions: dict[RunId, StartRun] = field(default_factory=dict)
    crashes: int = 0
    actions: Counter[str] = field(default_factory=Counter)  # taken, by name

    def __post_init__(self) -> None:
        self.session = self._session(State(PARTITION))
        self.session.now = 1_700_000_000_000

    def _session(self, state: State) -> Session:
        return Session(state, self.store, self.router, self.settings)

    # --- what may happen ---

    def submit(self, case: Case, parent: ParentRef | None = None) -> None:
        """A client starts the run of a case, or a component a sub-run, with the variables of its run unless it gives others."""
        for document in case.stored.values():
            self.store.put(compact(document))
        name = self.store.put(compact(case.flow))
        run = RunId(f"0190{len(self.runs):04x}-0000-7000-8000-000000000000")
        variables = None if case.variables is None else compact(case.variables)
        owner = None if parent is None else self.session.state.runs.get(parent.run)
        if owner is not None and owner.given is not None and variables is None:
            case = replace(case, variables=msgspec.json.decode(owner.given))
        key = f"key {run}" if chance(self.choices, 50) else None
        message = Submit(
            run,
            Namespace(pick(self.choices, ("default", "acme"))) if owner is None else owner.namespace,
            name,
            list(map(compact, case.inputs)),
            variables,
            max_concurrency=case.max_concurrency,
            run_key=key,
            parent=parent,
            priority=pick(self.choices, (0, 0, 0, 1, -100)),
        )
        compiled = self.store.load(name)
        assert compiled is not None
        command = StartRun(message, compiled)
        self.send(command)
        answer = self.last_answer()
        if isinstance(answer, Accepted):
            self.runs[run] = case
            self.submissions[run] = command
        else:
            assert answer.code == "SM-5007", answer

    def last_answer(self) -> Accepted | Refused:
        """To the last command that had one."""
        answers = [effect.answer for effect in self.session.effects if isinstance(effect, Answered)]
        return [answer for answer in answers if isinstance(answer, Accepted | Refused)][-1]

    def submit_again(self) -> None:
        """A client is not sure that its submission arrived, and sends it again, perhaps under another run id: nothing comes of it."""
        first = pick(self.choices, list(self.submissions))
        message, state = self.submissions[first].submit, self.session.state
        if message.run_key is not None and chance(self.choices, 50):
            message = msgspec.structs.replace(message, run=RunId("another"))
            remembered = f"{message.namespace}/{message.run_key}" in state.keys
        else:
            remembered = first in state.runs or first in state.finished or first in state.dormant
        if remembered:
            known = len(self.session.events)
            self.send(StartRun(message, self.submissions[first].flow))
            assert len(self.session.events) == known
            assert self.last_answer() == Accepted(first, existing=True)

    def start_child(self) -> None:
        """A component starts a sub-run; one whose attempt is over is refused."""
        task = pick(self.choices, self.tasks)
        root = RunId(task.root or task.run)
        self.parents.add((task.run, task.item, task.step))
        self.submit(make_case(self.choices), ParentRef(root, task.run, task.item, task.step, "key"))

    def answer_task(self) -> None:
        """Some worker answers, or vanishes; another copy of the task may be about."""
        task = self.tasks.pop(self.choices.below(len(self.tasks)))
        said = answer(f"/t{task.component}", msgspec.json.decode(task.input), task.attempt)
        result = Result(task.run, task.item, task.step, task.attempt, None)
        if not isinstance(said, Fail):
            self._conclude(EndTask(msgspec.structs.replace(result, output=compact(said.value))))
            return
        failure = Failure(ErrorCode[said.code], said.message, None, said.retry_after_ms)
        if failure.code in (ErrorCode.UNREACHABLE, ErrorCode.TIMEOUT) and chance(self.choices, 50):
            self._conclude(FailAttempt(TaskRef(task.run, task.item, task.step, task.attempt), failure))
            self.late.append(EndTask(msgspec.structs.replace(result, output=b'"late"')))
        else:
            self._conclude(EndTask(msgspec.structs.replace(result, failure=failure)))

    def _conclude(self, command: EndTask | FailAttempt) -> None:
        self.send(command)
        self.past.append(command)

    def lose_task(self) -> None:
        """The broker forgets a task, or a result is lost."""
        self.tasks.pop(self.choices.below(len(self.tasks)))

    def duplicate(self) -> None:
        """A result is delivered again: nothing comes of it."""
        self._stale(pick(self.choices, self.past))

    def answer_late(self) -> None:
        """The result of an attempt that was given up arrives: nothing comes of it."""
        self._stale(self.late.pop(self.choices.below(len(self.late))))

    def answer_odd(self) -> None:
        """A result of an unknown run, item, step or attempt: nothing comes of it."""
        base = Result(RunId("nobody"), 0, 0, 1, b"1")
        if self.dispatched:
            known = pick(self.choices, list(self.dispatched))
            item, step, attempt = pick(self.choices, [(9, 0, 0), (-1, 0, 0), (0, 99, 0), (0, -50, 0), (0, 0, 1), (0, 0, -1), (0, 0, 9)])
            base = Result(known.run, known.item + item, known.step + step, known.attempt + attempt, b'"odd"')
        if TaskRef(base.run, base.item, base.step, base.attempt) not in self.known_tasks():
            self._stale(EndTask(base))

    def known_tasks(self) -> set[TaskRef]:
        """Every attempt that was dispatched, in the present turn too."""
        new = (task for tasks in self.session.tasks.values() for task in tasks)
        return {*self.dispatched, *(TaskRef(task.run, task.item, task.step, task.attempt) for task in new)}

    def _stale(self, command: Command) -> None:
        known, stale = len(self.session.events), self.session.stale_results
        self.send(command)
        assert len(self.session.events) == known, f"{command} changed something: {self.session.events[known:]}"
        assert self.session.stale_results == stale + 1

    def fire_timer(self) -> None:
        """The clock goes on to the next timer, after the present turn: all of a turn has one time."""
        self.commit()
        if self.calls and not any(timer.due_ms < min(self.calls.values()) for timer in self.timers):
            due, key = min((due, key) for key, due in self.calls.items())
            del self.calls[key]
            self.session.now = max(self.session.now, due)
            self.send(ServeKeys(key=key))
            return
        timer = self.sleepers.next(self)
        if isinstance(timer, TreeLeft):
            self.session.now = max(self.session.now, timer.wakes_ms)
            self.sleepers.wake(self, timer.root)
            return
        self.timers.remove(timer)
        self.session.now = max(self.session.now, timer.due_ms)
        self.send(FireTimer(timer.task))

    def fire_spuriously(self) -> None:
        """A timer rings too early, or for an attempt that is not waiting: nothing comes of it."""
        timer = pick(self.choices, self.timers)
        task = timer.task
        known = len(self.session.events)
        waited = self.operators.dues(self).get(task, timer.due_ms)  # a sleep that was ended early is due before its first timer
        if min(timer.due_ms, waited) > self.session.now and chance(self.choices, 50):
            self.send(FireTimer(task))
        else:
            self.send(FireTimer(TaskRef(task.run, task.item, task.step, task.attempt + 100)))
            self.send(FireTimer(TaskRef(RunId("nobody"), task.item, task.step, task.attempt)))
        assert len(self.session.events) == known

    def resolve_flow(self) -> None:
        """The store answers: the flow is there, or never will be."""
        need = self.needs.pop(self.choices.below(len(self.needs)))
        if need.document is not None:
            self.store.load_text(need.document)
            self.send(ResolveFlow(need.key))
        else:
            found = self.store.load(FlowId(need.key.decode()))
            self.send(ResolveFlow(need.key, None if found is not None else NO_FLOW))

    def evict_flows(self) -> None:
        """The registry drops what it compiled."""
        self.store.evict()

    def cancel(self, run: RunId) -> None:
        """Somebody stops a run, a sub-run perhaps."""
        self.sleepers.cancel(self, run)

    def rest_any(self) -> None:
        """Some tree is looked at, whether it may leave memory."""
        self.sleepers.rest(self)

    def wake_any(self) -> None:
        """Somebody asks for a dormant run."""
        self.sleepers.wake_any(self)

    def bring_letter(self) -> None:
        """The inbox is read."""
        self.postman.bring(self)

    def send_event(self) -> None:
        """An event from outside."""
        self.postman.send_any(self)

    def pause_any(self) -> None:
        """Somebody pauses a run, perhaps one that is paused, or dormant."""
        self.operators.pause_any(self)

    def resume_any(self) -> None:
        """Somebody lets a paused run go on."""
        self.operators.resume_any(self)

    def skip_sleep(self) -> None:
        """Somebody ends a sleep before its time."""
        self.operators.skip_sleep(self)

    def fork_any(self) -> None:
        """Somebody starts a run that takes over the results of an ended one."""
        self.operators.fork_any(self)

    def send(self, command: Command) -> None:
        """Decide on a command, in the present turn."""
        self.turn.append(command)
        decide(self.session, command)
        places = self.session.places
        if places is not None and any(of_pool.waiting for of_pool in places.pools.values()):
            self.actions["wait_for_a_place"] += 1
        check(self)

    # --- the journal ---

    def commit(self) -> None:
        """The turn's frame is durable: its effects come out."""
        session = self.session
        self.turn = []
        if session.events:
            state = session.state
            state.inbox += 1
            turn = events.Turn(events.TURN_FORMAT, session.now, state.inbox, state.confirmed, session.events)
            self.frames.append(events.encode_turn(turn))
            state.sequence = len(self.frames)
            self._forget(state, session.now)
            session.events = []
        self.rows += session.rows
        session.rows = []
        self._release()

    def _release(self) -> None:
        session = self.session
        for pool, tasks in session.tasks.items():
            for task in tasks:
                assert pool == "t"
                reference = TaskRef(task.run, task.item, task.step, task.attempt)
                assert reference not in self.dispatched, f"attempt dispatched twice: {reference}"
                self.dispatched[reference] = task
                self.tasks.append(task)
        self.postman.collect([effect.letter for effect in session.effects if isinstance(effect, Send)])
        for effect in session.effects:
            if isinstance(effect, SetTimer):
                self.timers.append(effect)
            elif isinstance(effect, CallKeys):
                self.calls[effect.key] = effect.due_ms
            elif isinstance(effect, NeedFlow):
                self.needs.append(effect)
            elif isinstance(effect, RunOver):
                self.over.append(effect.run)
            elif isinstance(effect, TreeLeft):
                self.sleepers.left(self, effect)
        session.tasks, session.effects = {}, []

    def _forget(self, state: State, now: int) -> None:
        forget_finished(state, now - self.settings.remember_ended_ms, self.settings.remember_ended)
        state.addresses.forget(now - self.settings.keep_events_ms)

    def snapshot(self) -> None:
        """Keep the state as of the last frame."""
        self.commit()
        self.snapshots.append((len(self.frames), encode_state(self.session.state)))

    def replayed(self, snapshot: tuple[int, bytes] | None) -> tuple[State, list[RunRow | ItemRow]]:
        """The state that the journal says, from a snapshot or from nothing, and the rows that the replay gave."""
        state, after, rows = State(PARTITION), 0, []
        if snapshot is not None:
            after, payload = snapshot
            for flow, overrides in flows_in(payload):
                self.store.load(flow, overrides)
            state = decode_state(payload, self.store)
        for sequence, frame in enumerate(self.frames[after:], after + 1):
            turn = events.decode_turn(frame)
            for event in turn.events:
                for flow, overrides in flows_needed(event):
                    self.store.load(flow, overrides)
                apply(state, event, turn.at_ms, self.store, rows)
            state.sequence, state.inbox, state.confirmed = sequence, turn.inbox, turn.confirmed
            self._forget(state, turn.at_ms)
        return state, rows

    def verify_replay(self) -> None:
        """All ways to the state as of the last frame give the same one, and the same rows."""
        self.commit()
        state, rows = self.replayed(None)
        assert state_hash(state) == state_hash(self.session.state), "the replay differs from the live state"
        assert rows == self.rows, "the replay's rows differ from the live ones"
        state.release()
        for root in self.session.state.trees:
            self._verify_replica(root)

    def _verify_replica(self, root: RunId) -> None:
        """A replica of one tree knows of its live items what the engine knows, what is needed and ready included."""
        replica = Replica(root, PARTITION)
        for sequence, frame in enumerate(self.frames, 1):
            turn = events.decode_turn(frame)
            for index, event in enumerate(turn.events):
                if replica.concerns(event):
                    flow = self.store.load(event.flow, event.overrides) if isinstance(event, events.RunCreated) else None
                    replica.take(event, sequence * PER_FRAME + index, turn.at_ms, flow)
        for run in self.session.state.runs.values():
            if run.tree.root == root:
                other = replica.state.runs[run.id]
                assert {index: _shown(item) for index, item in run.items.items()} == {index: _shown(i) for index, i in other.items.items()}
        replica.state.release()

    def crash(self) -> None:
        """The process dies before its present turn is durable, and another takes over; what was not consumed is delivered again."""
        self.crashes += 1
        again = self.turn
        whole, _ = self.replayed(None)
        state, _ = self.replayed(pick(self.choices, [None, *self.snapshots]))
        assert state_hash(state) == state_hash(whole), "a snapshot leads to another state than the whole journal"
        whole.release()
        self.session.state.release()
        now = self.session.now
        self.session = self._session(state)
        self.session.now = now
        self.turn, self.timers, self.needs, self.calls = [], [], [], {}
        if chance(self.choices, 50):
            self.postman.lose_fresh()
        self.sleepers.adopt(self)
        rebuild(self.session)
        self.commit()
        check(self)
        self.redeliver()
        for command in again:
            self.send(command)
            if isinstance(command, StartRun) and isinstance(self.last_answer(), Refused):
                self._forget_submission(command)

    def _forget_submission(self, command: StartRun) -> None:
        """A component's sub-run that the lost turn had taken, and the next owner does not: nobody was told that it was accepted, because
        an answer leaves after the frame. (Its parent ran by that lost turn only.)"""
        run = command.submit.run
        if self.submissions.get(run) is command:  # else it was refused before as well, and its id is another's now
            assert command.submit.parent is not None
            del self.submissions[run], self.runs[run]

    def redeliver(self) -> None:
        """The sweeper sends every task in flight once more."""
        for item, step in in_flight(self.session.state):
            again = task_again(self.session, item, step, 2)
            assert again is not None
            pool, task = again
            first = self.dispatched[TaskRef(task.run, task.item, task.step, task.attempt)]
            assert (pool, task.input, task.component, task.root) == ("t", first.input, first.component, first.root)
            self.tasks.append(task)

    # --- to the end ---

    def act(self, *, cancels: bool = False) -> None:
        """One random action."""
        options = list(self._options(cancels))
        action = pick(self.choices, options)
        self.actions[action.__name__] += 1
        action()

    def _options(self, cancels: bool) -> Iterable[Any]:
        yield from [self.answer_task] * min(12, 3 * len(self.tasks))
        yield from [self.fire_timer] * min(2, len(self.timers) + len(self.sleepers.due) + len(self.calls))
        yield from [self.rest_any] * min(4, 2 * len(self.timers) if self.session.state.trees else 0)
        if self.session.state.dormant:
            yield self.wake_any
        yield from [self.resolve_flow] * (2 * min(1, len(self.needs)))
        yield from [self.bring_letter] * min(6, 2 * len(self.postman.letters))
        yield self.send_event
        yield from [self.commit] * 3
        yield self.answer_odd
        if self.tasks:
            yield self.lose_task
            if len(self.runs) < 4:
                yield self.start_child
        if self.submissions and self.settings.remember_ended > 1:
            yield self.submit_again
        if self.past:
            yield self.duplicate
        if self.late:
            yield self.answer_late
        if self.timers:
            yield self.fire_spuriously
        yield self.evict_flows
        yield from self.operators.options(self)
        if self.crashes < 3:
            yield self.crash
        if len(self.snapshots) < 3:
            yield self.snapshot
        if cancels and self.is_alive:
            yield self.cancel_any

    def cancel_any(self) -> None:
        """Somebody stops some live run."""
        state = self.session.state
        self.cancel(pick(self.choices, [*state.runs, *state.dormant.places]))

    @property
    def is_alive(self) -> bool:
        """Whether a run lives."""
        return bool(self.session.state.runs or self.session.state.dormant)

    def finish(self) -> None:
        """No more faults: everything must come to its end."""
        while True:
            self.commit()
            if self.needs:
                self.resolve_flow()
            elif self.postman.letters:
                self.bring_letter()
            elif self.operators.paused(self):
                self.resume_any()
            elif self.tasks:
                self.answer_task()
            elif self.postman.send_awaited(self):
                continue
            elif self.timers or self.sleepers.due or self.calls:
                self.fire_timer()
            elif self.is_alive:
                self.redeliver()
                assert self.tasks, "a run is stuck"
            else:
                break
        for command in self.late:
            self._stale(command)
        self.verify_replay()

    def journaled(self) -> list[events.Event]:
        """Every event of the journal."""
        return [event for frame in self.frames for event in events.decode_turn(frame).events]
