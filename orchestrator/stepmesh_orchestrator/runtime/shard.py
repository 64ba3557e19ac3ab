"""The owner of a partition: one turn after the other. A turn takes all that waits, decides on each in memory, appends one frame, and
only then lets the effects out.

Invariants: journal before effect; one writer (a stale owner's append fails and the shard stops); the inbox position is in the frame that
consumed it. The shard knows nothing of sockets, databases or the wall clock but through its ports.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from stepmesh_broker.protocol.functions import FunctionTurn, FunctionTurned
from stepmesh_broker.protocol.ids import Namespace, Partition, RunId
from stepmesh_broker.protocol.letters import Letters
from stepmesh_broker.protocol.messages import Accepted, AskUpdate, Cancel, EventKept, Refused, Results, SendEvent, TaskRef, UpdateTaken
from stepmesh_orchestrator.core.commands import AdvanceFunction, CancelRun, Command, EndTask, StartRun, TakeLetter
from stepmesh_orchestrator.core.decide import decide
from stepmesh_orchestrator.core.effects import (
    Answered,
    CallKeys,
    Effect,
    LimitWait,
    NeedFlow,
    NudgeTask,
    ParkTask,
    RunOver,
    Send,
    SetScheduleTimer,
    SetTimer,
    StopTask,
    TreeLeft,
    WakeRun,
)
from stepmesh_orchestrator.core.events import TURN_FORMAT, Turn, encode_frame
from stepmesh_orchestrator.core.evolve.runs import forget_finished
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.ports import Clock, Journal, Ownership
from stepmesh_orchestrator.runtime.alarm import Alarm
from stepmesh_orchestrator.runtime.builds import to_decide_on
from stepmesh_orchestrator.runtime.concerned import moved_roots, run_of
from stepmesh_orchestrator.runtime.dispatch import Dispatcher
from stepmesh_orchestrator.runtime.encoding import encoded
from stepmesh_orchestrator.runtime.frames import FrameWriter
from stepmesh_orchestrator.runtime.inputs import MAX_MESSAGES, Answer, Counters, Inputs, Message, of_outside
from stepmesh_orchestrator.runtime.projector import Projector
from stepmesh_orchestrator.runtime.queue_limits import QueueLimits
from stepmesh_orchestrator.runtime.waiters import Waiters, heard
from stepmesh_orchestrator.runtime.waits import Waits
from stepmesh_orchestrator.telemetry.observer import TurnObserver, TurnRecord

log = logging.getLogger("stepmesh.shard")
SNAPSHOT_BYTES = 64 * 1024 * 1024
"""Journal bytes between two snapshots at least, so that a replay reads at most about that much. A state above that is kept more rarely:
after as many bytes as the last snapshot had, so that snapshots never cost more than the journal does."""
SETTLE_S = 1.0
"""How long an answer waits for the turn that is under way, in seconds; a full disk may hold that one up for long."""


class Shard:
    """The turn loop of one partition. `closed`: what is said to everybody once no turn follows."""

    def __init__(
        self,
        namespace: Namespace,
        partition: Partition,
        ownership: Ownership,
        session: Session,
        journal: Journal,
        clock: Clock,
        dispatcher: Dispatcher,
        projector: Projector,
        observer: TurnObserver | None = None,
    ) -> None:
        self.namespace = namespace
        self.partition = partition
        self.ownership = ownership
        self.session = session
        self.dispatcher = dispatcher
        self.projector = projector
        self.waits = Waits(session, lambda: dispatcher.confirmed)
        self.queue_limits = QueueLimits()
        self.over = Waiters()
        self.moved = Waiters()
        self.counters = Counters()
        self.inputs = Inputs()
        self.observer = observer
        self._clock = clock
        self._frames = FrameWriter(journal, clock, partition, ownership, self._refuse_waiting)
        self._answers: list[tuple[asyncio.Future[Answer] | None, str, Answer]] = []
        self._results: list[Results] = []  # of this turn
        self._stopping = False
        self.closed: Refused | None = None
        self._settled = asyncio.Event()
        self._snapshot_bytes = SNAPSHOT_BYTES
        self._alarm = Alarm(clock, self.inputs.wake)
        self.inputs.room.set()
        dispatcher.post = self.post

    @property
    def sequence(self) -> int:
        """Of the last durable frame."""
        return self._frames.sequence

    async def command(self, command: Command) -> Accepted | Refused:
        """Decide on a command in the next turn; the answer comes when its effect is journaled. Refused while the journal is full."""
        answer = await self._ask(command)
        assert isinstance(answer, Accepted | Refused), "other answers are to what follows"
        return answer

    async def keep(self, asked: SendEvent | AskUpdate) -> EventKept | UpdateTaken | Refused:
        """Decide on an event, or an update of a function, as on a command."""
        answer = await self._ask(of_outside(asked))
        assert isinstance(answer, EventKept | UpdateTaken | Refused), "what the decision answers"
        return answer

    async def advance(self, turn: FunctionTurn) -> FunctionTurned | None:
        """Decide on a turn of a durable function as on a command; None when it cannot be taken now."""
        answer = await self._ask(AdvanceFunction(turn))
        return answer if isinstance(answer, FunctionTurned) else None

    async def _ask(self, command: Command) -> Answer:
        refusal = self.closed or self._refusal(command)
        if refusal is not None:
            return refusal
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.post(command, future)
        return await future

    def post(self, command: Command, answer: asyncio.Future[Answer] | None = None) -> None:
        """Decide on a command in the next turn; when there is none any more, `answer` is that of `close`."""
        if self.closed is None:
            self.inputs.commands.append((command, answer))
            self.inputs.wake.set()
        else:
            self._tell(answer, "", self.closed)

    def receive(self, position: int, message: Message | None, flow: CompiledFlow | None = None) -> None:
        """A message of the inbox; a `Submit` with its flow. None: it was dealt with, and only its position is to be journaled."""
        inputs = self.inputs
        inputs.messages.append((position, message, flow))
        inputs.wake.set()
        if len(inputs.messages) >= MAX_MESSAGES:
            inputs.room.clear()

    @property
    def is_settled(self) -> bool:
        """Whether the state is no more than what the journal holds, as between two turns."""
        return self._settled.is_set()

    async def settled(self) -> bool:
        """Until `is_settled`, which holds then until the caller awaits something. False when that takes more than `SETTLE_S`."""
        return self.is_settled or await heard(self._settled, SETTLE_S)

    def stop(self) -> None:
        """Let `run` return after the turn that it is in."""
        self._stopping = True
        self._frames.give_up()
        self.inputs.wake.set()

    def close(self, answer: Refused) -> None:
        """No turn follows: whoever waits for one, or asks from now on, gets this answer."""
        self.closed = answer
        waiting = [future for _, future in self.inputs.commands] + [future for future, _, _ in self._answers]
        for future in waiting:
            self._tell(future, "", answer)
        self.inputs.commands.clear()
        self.inputs.room.set()

    async def seal(self) -> None:
        """A last frame, without events, that says what is published, if no frame says so yet: a recovery need not publish it again."""
        if self.session.state.confirmed < self.dispatcher.outbox.departed <= self.dispatcher.confirmed:
            await self._append()

    async def run(self) -> None:
        """Turn after turn, until `stop`. Raises `JournalError` when this shard may not go on."""
        try:
            await self.turn()  # what the recovery derived: timers, flows to fetch, steps that had become possible
            while True:
                await self._wait()
                if self._stopping and not self.inputs.commands and not self.session.events:
                    return
                await self.turn()
        finally:
            self._alarm.cancel()

    async def turn(self) -> None:
        """One turn over what waits now."""
        session = self.session
        session.now = self._clock.now_ms()
        self._settled.clear()
        consumed = self._take()
        state = session.state
        if session.events or consumed > state.inbox:
            state.inbox = max(state.inbox, consumed)
            await self._append()
        self._results.clear()
        answers, self._answers = self._answers, []
        self._release()
        self._settled.set()
        for future, reply_to, answer in answers:
            self._tell(future, reply_to, answer)
        if consumed:
            self.dispatcher.acknowledge(consumed)
        forget_finished(state, session.now - session.settings.remember_ended_ms, session.settings.remember_ended)
        state.addresses.forget(session.now - session.settings.keep_events_ms)
        if self.dispatcher.journaled_bytes > self._snapshot_bytes or self.waits.many_rested:
            await self.snapshot()

    async def snapshot(self) -> None:
        """Keep the state as of the last frame. Only between turns: within one, the state is ahead of the journal."""
        self.dispatcher.journaled_bytes = 0
        if self.sequence and await self.projector.caught_up(self.sequence):
            payload = await encoded(self.session.state)
            self._snapshot_bytes = max(SNAPSHOT_BYTES, len(payload))
            state, retain_ms = self.session.state, self.session.settings.retain_ms
            released = await self.projector.released(self.sequence)
            self.waits.move_up(await self._frames.snapshot(payload, state.confirmed, retain_ms, state.dormant.first_frame, released))

    def _take(self) -> int:
        inputs, consumed = self.inputs, 0
        known = self.session.state.inbox
        for _ in range(min(len(inputs.messages), MAX_MESSAGES)):
            position, message, flow = inputs.messages.popleft()
            consumed = position
            if message is not None and position > known:  # else it was journaled before and is redelivered
                self._message(message, flow)
        if len(inputs.messages) < MAX_MESSAGES:
            inputs.room.set()
        for _ in range(len(inputs.commands)):
            command, future = inputs.commands.popleft()
            self._decide(command, future)
        for due in self.waits.due():
            self._decide(due, None)
        return consumed

    def _message(self, message: Message, flow: CompiledFlow | None) -> None:
        self.counters.messages += 1
        if isinstance(message, Results):
            if message.journal != self.ownership.journal_id:
                self.session.stale_results += len(message.results)
                return
            self._results.append(message)
            session, dispatcher = self.session, self.dispatcher
            for result in to_decide_on(session, dispatcher, message):
                stale = session.stale_results
                self._decide(EndTask(result), None)
                if session.stale_results == stale:
                    dispatcher.landed(result.run, result.item, result.step, result.duration_us)
        elif isinstance(message, Cancel):
            self._decide(CancelRun(message.run, message.reason, message.force), None, message.reply_to)
        elif isinstance(message, Letters):
            for letter in message.letters:
                self._decide(TakeLetter(letter), None)
        elif flow is not None:
            self._decide(StartRun(message, flow), None, message.reply_to)

    def _decide(self, command: Command, future: asyncio.Future[Answer] | None, reply_to: str = "") -> None:
        session = self.session
        before = len(session.effects)
        try:
            decide(session, command)
        except Exception:
            self._quarantine(command, future, reply_to)
            return
        if future is None and not reply_to:
            return
        for index in range(before, len(session.effects)):
            effect = session.effects[index]
            if isinstance(effect, Answered):
                self._answers.append((future, reply_to, effect.answer))
                if isinstance(command, AdvanceFunction) and isinstance(effect.answer, FunctionTurned) and effect.answer.left:
                    task = command.turn.task
                    self.dispatcher.leases.land((task.run, task.item, task.step))
                return
        if future is not None:
            self._answers.append((future, "", Accepted(RunId(""))))

    def _quarantine(self, command: Command, future: asyncio.Future[Answer] | None, reply_to: str) -> None:
        """A decision that fails is a defect; it must cost its run tree, not the partition. What was emitted stays, and was applied."""
        self.counters.quarantined += 1
        log.exception("SM-5900 a decision failed; its run is cancelled: %r", command)
        session = self.session
        run = run_of(command)
        live = session.state.runs.get(run) if run is not None else None
        session.drop(live.tree.root if live is not None else None)
        refusal = Refused("SM-5900", "the orchestrator failed to decide on this; its log has the details", "report it with that log")
        self._answers.append((future, reply_to, refusal))
        if live is not None and not isinstance(command, CancelRun):
            root = live.tree.root if live.tree.root in session.state.runs else live.id
            again = root in live.tree.cancelling  # its functions were to clean up, and cannot
            self._decide(CancelRun(root, "SM-5900 internal error; see the orchestrator's log", force=again), None)

    async def _append(self) -> None:
        session, confirmed = self.session, self.dispatcher.confirmed
        payload, events_bytes = encode_frame(Turn(TURN_FORMAT, session.now, session.state.inbox, confirmed, session.events))
        took_s = await self._frames.append(payload)
        counters = self.counters
        counters.journal_s += took_s
        counters.turns += 1
        counters.events += len(session.events)
        session.state.sequence = self.sequence
        session.state.confirmed = confirmed
        self.dispatcher.journaled_bytes += events_bytes
        if self.moved:
            for root in moved_roots(session):
                self.moved.wake(root)
        if self.observer is not None:
            self.observer.turn(TurnRecord(session.now, session.events, session.tasks, self._results, len(payload), took_s))
        session.events = []

    def _refusal(self, command: Command) -> Refused | None:
        """Why a command of somebody who waits for the answer is not taken now."""
        if self._is_pending(command):
            return None
        begins = isinstance(command, StartRun) and command.submit.parent is None
        return self._frames.refusal() or (self.projector.refusal(self.sequence) if begins else None)

    def _refuse_waiting(self) -> None:
        """The journal is full. What is in the turn waits for space, because it is decided; what came after it need not."""
        refusal = self._frames.refusal()
        kept: deque[tuple[Command, asyncio.Future[Answer] | None]] = deque()
        for command, future in self.inputs.commands:
            if future is None or refusal is None or self._is_pending(command):
                kept.append((command, future))
            else:
                self._tell(future, "", refusal)
        self.inputs.commands = kept

    def _is_pending(self, command: Command) -> bool:
        """Whether it repeats a submission that the turn may still make durable: no refusal may follow an acceptance."""
        return isinstance(command, StartRun) and command.submit.run in self.session.state.runs

    def _release(self) -> None:
        session = self.session
        if session.rows:
            rows, session.rows = session.rows, []
            self.projector.put(self.sequence, rows)
        tasks, session.tasks = session.tasks, {}
        effects, session.effects = session.effects, []
        letters = [effect for effect in effects if isinstance(effect, Send)]
        self.dispatcher.dispatch(self.sequence, self._frames.asked, tasks, letters)
        stopped: list[TaskRef] = []
        nudged: list[TaskRef] = []
        for effect in effects:
            if isinstance(effect, StopTask):
                stopped.append(effect.task)
            elif isinstance(effect, NudgeTask):
                nudged.append(effect.task)
            else:
                self._carry_out(effect)
        if stopped:
            self.dispatcher.stop_tasks(stopped)
        if nudged:
            self.dispatcher.nudge(nudged)

    def _carry_out(self, effect: Effect) -> None:
        if isinstance(effect, SetTimer | TreeLeft | SetScheduleTimer | WakeRun | CallKeys):
            self.waits.carry_out(effect)
        elif isinstance(effect, LimitWait):
            self.queue_limits.put(effect)
        elif isinstance(effect, RunOver):
            self.over.wake(effect.run)
        elif isinstance(effect, NeedFlow):
            self.dispatcher.fetch_flow(effect)
        elif isinstance(effect, ParkTask):
            self.dispatcher.park(effect)

    def _tell(self, future: asyncio.Future[Answer] | None, reply_to: str, answer: Answer) -> None:
        if future is not None and not future.done():
            future.set_result(answer)
        if reply_to:
            self.dispatcher.reply(reply_to, answer)

    async def _wait(self) -> None:
        inputs = self.inputs
        if inputs.messages or inputs.commands or self.session.events or self._stopping:
            await asyncio.sleep(0)  # let readers add what has arrived
            return
        inputs.wake.clear()
        due = self.waits.next_due()
        if due is not None:
            self._alarm.set(due)
        await inputs.wake.wait()
