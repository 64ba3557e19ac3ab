"""A partition at work: takes it over, recovers it, and runs its shard with all that serves it; ends by releasing it.

consume → decide → append → act is the shard; this file connects it to its inbox, its control subject and its timers.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from stepmesh_broker.ending import cancelled, ended
from stepmesh_broker.errors import StepmeshError
from stepmesh_broker.ports import Broker, Inbox, Subscription
from stepmesh_broker.protocol import subjects
from stepmesh_broker.protocol.codec import decode_control, encode
from stepmesh_broker.protocol.functions import FunctionTurns
from stepmesh_broker.protocol.ids import Namespace, Partition, Position, partition_of
from stepmesh_broker.protocol.messages import (
    Accepted,
    AskUpdate,
    Claim,
    Failure,
    Heartbeat,
    Refused,
    Resume,
    RunMessage,
    SendEvent,
    SettleToken,
    Submit,
    TaskRef,
)
from stepmesh_broker.protocol.queries import ReadHistory
from stepmesh_broker.protocol.tokens import is_genuine, read_token
from stepmesh_orchestrator.core.commands import FailAttempt, SettleWait, StartRun
from stepmesh_orchestrator.core.decide.settling import token_refused, told_of_ended, waiter_row
from stepmesh_orchestrator.core.decide.waits import tell_over
from stepmesh_orchestrator.core.flow.diagnostics import FlowInvalid
from stepmesh_orchestrator.core.flow.routing import Router
from stepmesh_orchestrator.core.rebuild import in_flight, rebuild, task_again
from stepmesh_orchestrator.core.session import EngineSettings, Session
from stepmesh_orchestrator.ports import Clock, Journal, Store
from stepmesh_orchestrator.runtime.admission import unknown_flow
from stepmesh_orchestrator.runtime.claims import answer_claim, answer_heartbeat
from stepmesh_orchestrator.runtime.dispatch import Dispatcher
from stepmesh_orchestrator.runtime.dormitory import Dormitory
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.functions import take_turns
from stepmesh_orchestrator.runtime.idempotency import Idempotency
from stepmesh_orchestrator.runtime.inbox_reading import InboxReading
from stepmesh_orchestrator.runtime.inputs import Answer, of_live_run
from stepmesh_orchestrator.runtime.intakes import Intakes
from stepmesh_orchestrator.runtime.leases import LEASE_MS, Key
from stepmesh_orchestrator.runtime.owners import PartitionMoving, moving
from stepmesh_orchestrator.runtime.presence import Presence
from stepmesh_orchestrator.runtime.projector import Projector
from stepmesh_orchestrator.runtime.questions import Questions
from stepmesh_orchestrator.runtime.recovery import Recovered, check_whole, recover
from stepmesh_orchestrator.runtime.resuming import resume
from stepmesh_orchestrator.runtime.shard import Shard
from stepmesh_orchestrator.runtime.sweeper import Sweeper
from stepmesh_orchestrator.runtime.tenants import Tenants
from stepmesh_orchestrator.runtime.visits import Visits
from stepmesh_orchestrator.telemetry.observer import Telemetry

log = logging.getLogger("stepmesh.partition")
MAX_BACKLOG = 4_000
"""Unpublished frames above which no new message is taken."""


@dataclass(frozen=True, slots=True)
class Ports:
    """What a partition is connected to. `telemetry`: None = off. `projector`: makes what writes the read model, or waits for who does."""

    broker: Broker
    journal: Journal
    store: Store
    clock: Clock
    telemetry: Telemetry | None = None
    projector: Callable[[Store, Partition], Projector] = Projector


class PartitionService:
    """Owner of one partition from `start` to `stop`. `on_end` hears why it ended when that was not asked for. While `is_held` is false
    another process may own it: nobody is answered then."""

    def __init__(
        self,
        ports: Ports,
        tenants: Tenants,
        partition: Partition,
        owner: str,
        router: Router,
        settings: EngineSettings,
        flows: FlowRegistry,
        presence: Presence,
        partitions: int,
        on_end: Callable[[BaseException], None],
        is_held: Callable[[], bool] = lambda: True,
    ) -> None:
        self.ports = ports
        self.namespace = tenants.own
        self.partition = partition
        self.flows = flows
        self._tenants = tenants
        self._owner = owner
        self._router = router
        self._settings = settings
        self._presence = presence
        self._partitions = partitions
        self._on_end = on_end
        self._is_held = is_held
        self._tasks: list[asyncio.Task[None]] = []
        self._running: asyncio.Task[None] | None = None
        self._control: Subscription | None = None
        self._inbox: Inbox | None = None
        self._dispatcher: Dispatcher | None = None
        self._projector: Projector | None = None
        self._visits = Visits()
        self._aborted = False
        self._idempotency = Idempotency(ports.broker, ports.store, settings, tenants.own, partition, partitions)
        topics = Intakes(ports.broker, ports.store, ports.clock, flows, settings, tenants)
        self._intakes = topics.of(partition, partitions, self._room)
        self.questions = Questions()
        self.shard: Shard
        self.sweeper: Sweeper
        self.dormitory: Dormitory

    async def start(self) -> None:
        """Take over, recover, go. Raises `JournalError`, `BrokerError` or `StoreError`; nothing is left behind then."""
        try:
            await self._start()
        except BaseException:
            await self.abort()
            raise

    async def _start(self) -> None:
        ports = self.ports
        ownership = await ports.journal.acquire(self.partition, self._owner)
        projector = self._projector = ports.projector(ports.store, self.partition)
        recovered = await recover(ports.journal, self.partition, self.flows, projector)
        state = recovered.state
        check_whole(state, ownership)
        session = Session(state, self.flows, self._router, self._settings, partitions=self._partitions)
        self._inbox = await ports.broker.inbox(self.partition, Position(state.inbox))
        dispatcher = self._dispatcher = Dispatcher(
            ports.broker, self._inbox, self.flows, self._presence, self.namespace, self.partition, ownership, state.confirmed
        )
        observer = None if ports.telemetry is None else ports.telemetry.observer(self.namespace, self.partition, self.flows)
        self.shard = Shard(self.namespace, self.partition, ownership, session, ports.journal, ports.clock, dispatcher, projector, observer)
        self.sweeper = Sweeper(self.shard, ports.clock, await ports.broker.incarnation())
        self.dormitory = Dormitory(self.shard, ports.journal, self.flows, ports.clock)
        reading = InboxReading(ports.broker, ports.clock, self.shard, self.dormitory, self._submitted, self._room)
        self._resume(recovered)
        if observer is not None:
            observer.adopt(state, {key: flight.pool for key, flight in dispatcher.leases.flights.items()})
        self._running = asyncio.create_task(self.shard.run())
        self._running.add_done_callback(self._ended)
        self._tasks = [
            asyncio.create_task(work)
            for work in (
                dispatcher.outbox.run(),
                projector.run(),
                self.sweeper.run(),
                self.dormitory.run(),
                reading.run(self._inbox),
                *(intake.run() for intake in self._intakes),
            )
        ]
        for task in self._tasks:
            task.add_done_callback(self._ended)
        self._control = await ports.broker.serve(subjects.control(self.namespace, self.partition), self._serve)

    async def stop(self, *, snapshot: bool = True) -> None:
        """Take nothing new, finish the turn, let effects out, keep a snapshot, release."""
        await self._close_intakes()
        if self._control is not None:
            await self._control.close()
        self.shard.stop()
        if self._running is not None:
            await asyncio.wait((self._running,))
        self._close_shard()
        drained = await ended(self.shard.dispatcher.outbox.drained(), 2)
        if not (await ended(self.shard.projector.reached(self.shard.sequence), 5) and drained):
            log.warning("stopping: what was begun did not end in time; a recovery takes it up")
        await self.shard.dispatcher.close()
        self.shard.projector.close()
        await cancelled(self._tasks)
        if self._inbox is not None:
            await self._inbox.close()
        if snapshot and self._running is not None and self._running.exception() is None:
            await self.shard.seal()
            await self.shard.snapshot()
        self.shard.session.state.release()

    async def abort(self) -> None:
        """End at once, as a crash would: no turn is finished, nothing is flushed, no snapshot is kept. Nobody is answered any more:
        who asked before is told to ask again."""
        self._aborted = True
        self._end_visits()
        if self._projector is not None:
            self._projector.close()
        await cancelled(task for task in (self._running, *self._tasks) if task is not None)
        await self._close_intakes()
        if self._dispatcher is not None:
            self._dispatcher.abort()
        if self._control is not None:
            await self._control.close()
        if self._inbox is not None:
            await self._inbox.close()

    async def _close_intakes(self) -> None:
        await asyncio.gather(*(intake.close() for intake in self._intakes))

    def _close_shard(self) -> None:
        self.shard.close(moving(self.partition))
        self._end_visits()

    def _end_visits(self) -> None:
        self._visits.end(lambda: PartitionMoving.of(self.partition))

    def _resume(self, recovered: Recovered) -> None:
        """Send again what may never have been sent; watch the rest; set the timers."""
        shard, leases = self.shard, self.shard.dispatcher.leases
        shard.session.now = self.ports.clock.now_ms()
        unsent: list[Key] = []
        watched: dict[str, list[Key]] = defaultdict(list)
        for item, step in in_flight(recovered.state):
            key = (item.run.id, item.index, step)
            if key in recovered.unsent:
                unsent.append(key)
                continue
            made = task_again(shard.session, item, step, 1)
            if isinstance(made, Failure):  # it cannot be sent again, so nobody may be waited for
                shard.post(FailAttempt(TaskRef(*key, item.attempt(step)), made))
            else:
                watched[made[0]].append(key)
        for pool, keys in watched.items():
            self.sweeper.adopt(keys, pool)
        leases.recovered = {*unsent, *(key for keys in watched.values() for key in keys)}
        leases.recovered_until = self.ports.clock.monotonic() + LEASE_MS / 2000
        for over in recovered.untold:  # before the waits that stand, one of which may have the name of one that is over
            tell_over(shard.session, over)
        rebuild(shard.session)
        self.sweeper.resend(unsent)
        if recovered.state.sequence:
            state = recovered.state
            dormant = f", and {len(state.dormant)} dormant ones" if state.dormant else ""
            log.info("partition %d recovered at frame %d: %d runs%s", self.partition, state.sequence, len(state.runs), dormant)

    async def _room(self) -> None:
        """Until the shard has room for new work, and the broker took most of the old."""
        await self.shard.dispatcher.outbox.below(MAX_BACKLOG)
        await self.shard.inputs.room.wait()

    async def _submitted(self, submit: Submit) -> StartRun | Accepted | Refused | None:
        return await self._idempotency.pass_on(await self._admit(submit))

    async def _serve(self, data: bytes) -> bytes:
        if self._aborted or not self._is_held():
            raise asyncio.CancelledError
        try:
            message = decode_control(data)
            async with self._visits.visit():
                if isinstance(message, Claim):
                    return encode(await answer_claim(self.shard, message, self.ports.clock))
                if isinstance(message, ReadHistory):
                    return encode(self.questions.page(message, self.ports.broker.max_message_bytes))
                if isinstance(message, FunctionTurns):
                    return encode(await take_turns(self.shard, message, self.ports.clock))
                if isinstance(message, Heartbeat):
                    return encode(answer_heartbeat(self.shard, message, self.ports.clock))
                return encode(await self._command(message))
        except StepmeshError as problem:
            return encode(Refused(problem.code, problem.message, problem.hint))

    async def _command(self, message: RunMessage | SendEvent | AskUpdate) -> Answer:
        if isinstance(message, SendEvent):
            refusal = self._foreign(message.namespace, "address", f"{message.name}/{message.key}")
            return refusal or await self.shard.keep(message)
        if isinstance(message, SettleToken):
            return await self._settle(message)
        if isinstance(message, Submit):
            return await self.begin(message)
        if isinstance(message, Resume):
            return await resume(self.shard, self.dormitory, self._presence, self.ports.clock, message)
        await self.dormitory.awake(message.run)
        if isinstance(message, AskUpdate):
            return await self.shard.keep(message)
        return await self.shard.command(of_live_run(message))

    async def begin(self, submit: Submit, seeded: Callable[[StartRun], StartRun] | None = None) -> Accepted | Refused:
        """Start a run, `seeded` perhaps with results of another one; the answer comes once that is journaled."""
        await self._room()
        start = await self._admit(submit)
        admitted = await self._idempotency.begin(start) if seeded is None else start
        if not isinstance(admitted, StartRun):
            return admitted
        return await self.shard.command(admitted if seeded is None else seeded(admitted))

    async def _settle(self, message: SettleToken) -> Answer:
        """By the state while the item lives, else by what the read model says of it."""
        waiter = read_token(message.token)
        if waiter is None or not is_genuine(message.token, self.shard.ownership.journal_id):
            return token_refused("unknown: it was not made here")
        refusal = self._foreign(message.namespace, "run", waiter.root or waiter.run)
        if refusal is not None:
            return refusal
        await self.dormitory.awake(waiter.run)
        command, run = SettleWait(waiter, message.value, message.rejected), self.shard.session.state.runs.get(waiter.run)
        if run is not None and waiter.item in run.items:
            return await self.shard.command(command)
        await self.shard.projector.reached(self.shard.sequence)
        rows = await self.ports.store.get_items(waiter.run, waiter.item, 1)
        ended = waiter_row(waiter, rows[0].steps) if rows and rows[0].item == waiter.item else None
        return told_of_ended(ended, command)

    async def _admit(self, submit: Submit) -> StartRun | Refused:
        """What can be said of a submission without the state of its partition."""
        refusal = self._foreign(submit.namespace, "run", submit.run if submit.parent is None else submit.parent.root)
        if refusal is not None:
            return refusal
        try:
            flow = await self.flows.load(submit.flow, submit.overrides)
        except FlowInvalid as problem:
            return Refused(problem.code, problem.message, problem.hint)
        return unknown_flow(submit) if flow is None else StartRun(self._traced(submit), flow)

    def _foreign(self, namespace: Namespace, kind: str, name: str) -> Refused | None:
        """Why something that hashes by `name` has no place here; None when it has."""
        foreign = self._tenants.refusal(namespace)
        if foreign is not None:
            return foreign
        home = partition_of(name, self._partitions)
        if home != self.partition:
            message = f"{kind} {name} belongs to partition {home}, not {self.partition}"
            return Refused("SM-5010", message, "ask for the number of partitions again")
        return None

    def _traced(self, submit: Submit) -> Submit:
        observer = self.shard.observer
        return submit if observer is None else observer.stamped(submit)

    def _ended(self, task: asyncio.Task[None]) -> None:
        problem = None if task.cancelled() else task.exception()
        if problem is not None:
            self._on_end(problem)
