"""A shard's way out: tasks in frames of a fitting size, signals to workers, answers, and the record of what is in flight.

Called only after the turn's frame is durable. What may wait (publishing, acknowledging) is done beside the turn loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from msgspec.structs import replace

from stepmesh_broker.errors import BrokerUnavailable, MessageTooLarge, StepmeshError
from stepmesh_broker.ports import Broker, Inbox
from stepmesh_broker.protocol import subjects
from stepmesh_broker.protocol.codec import encode
from stepmesh_broker.protocol.functions import FunctionTurned, Nudge
from stepmesh_broker.protocol.ids import FlowId, Namespace, Partition, Pool, Position, RunId, WorkerId
from stepmesh_broker.protocol.messages import (
    FORMAT,
    Accepted,
    ErrorCode,
    EventKept,
    Failure,
    Refused,
    Stop,
    Task,
    TaskFrame,
    TaskRef,
    UpdateTaken,
)
from stepmesh_orchestrator.core.commands import Command, FailAttempt, ResolveFlow
from stepmesh_orchestrator.core.effects import BY_NAME, NeedFlow, ParkTask, Send
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.ports import Ownership, StoreError
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.leases import Flight, Leases
from stepmesh_orchestrator.runtime.mail import in_messages
from stepmesh_orchestrator.runtime.outbox import Departure, Mailing, Outbox
from stepmesh_orchestrator.runtime.packing import PoolPace, pack
from stepmesh_orchestrator.runtime.presence import Presence

log = logging.getLogger("stepmesh.dispatch")
_RETRY_S = 0.5
_STOPS = 1_000
"""Tasks in one signal to workers, so that it stays far below any broker's limit."""


class Dispatcher:
    """Everything that leaves one shard."""

    def __init__(
        self,
        broker: Broker,
        inbox: Inbox,
        flows: FlowRegistry,
        presence: Presence,
        namespace: Namespace,
        partition: Partition,
        ownership: Ownership,
        confirmed: int,
    ) -> None:
        self.broker = broker
        self.leases = Leases()
        self.outbox = Outbox(broker, confirmed, self._refused, presence.clock)
        self.presence = presence
        self.post: Callable[[Command], None]  # the shard's: given when there is one
        self.paces: dict[str, PoolPace] = {}
        self.journaled_bytes = 0  # since the last snapshot
        self.tasks_published = 0
        self._inbox = inbox
        self._flows = flows
        self._namespace = namespace
        self._partition = partition
        self._ownership = ownership
        self._beside: set[asyncio.Task[None]] = set()
        self._acknowledged = 0
        self._acknowledging = False
        self._frames = 0

    @property
    def confirmed(self) -> int:
        """Every effect of the turns up to this sequence is published."""
        return self.outbox.confirmed

    def dispatch(self, sequence: int, since: float, tasks: dict[str, list[Task]], letters: Sequence[Send] = ()) -> None:
        """Send the tasks of the turn `sequence`, which the journal was given at `since` (monotonic, seconds), by pool; and its letters."""
        departures: list[Departure | Mailing] = []
        for pool, ready in tasks.items():
            size = self._pace(pool).frame_size(len(ready), self.presence.workers(pool))
            departures.extend(self._departure(sequence, since, pool, frame) for frame in pack(ready, size))
            self.tasks_published += len(ready)
        if letters:
            packed = in_messages(self._partition, letters, self.broker.max_message_bytes)
            departures.extend(Mailing(sequence, partition, data) for partition, data in packed)
        self.outbox.put(sequence, departures)

    def landed(self, run: RunId, item: int, step: int, duration_us: int) -> None:
        """The result of an attempt was accepted."""
        pool = self.leases.land((run, item, step))
        if pool is not None:
            self._pace(pool).observe(duration_us)

    def acknowledge(self, position: int) -> None:
        """The inbox up to `position` is journaled."""
        self._acknowledged = max(self._acknowledged, position)
        if not self._acknowledging:
            self._acknowledging = True
            self._spawn(self._acknowledge())

    def fetch_flow(self, need: NeedFlow) -> None:
        """Load or store the flow, then say so to the core."""
        self._spawn(self._fetch_flow(need))

    def stop_tasks(self, tasks: list[TaskRef]) -> None:
        """Tell the workers of their pools. A lost signal is made up for by the verdict on the next heartbeat."""
        pools: dict[str, list[TaskRef]] = {}
        for task in tasks:
            pool = self.leases.land((task.run, task.item, task.step))
            if pool is not None:
                pools.setdefault(pool, []).append(task)
        self._tell_workers(pools, Stop)

    def nudge(self, tasks: list[TaskRef]) -> None:
        """Tell the workers of their pools that there are records for these functions."""
        pools: dict[str, list[TaskRef]] = {}
        for task in tasks:
            flight = self.leases.flights.get((task.run, task.item, task.step))
            if flight is not None:
                pools.setdefault(flight.pool, []).append(task)
        self._tell_workers(pools, Nudge)

    def _tell_workers(self, pools: dict[str, list[TaskRef]], signal: type[Stop | Nudge]) -> None:
        for pool, tasks in pools.items():
            subject = subjects.workers(self._namespace, Pool(pool))
            for first in range(0, len(tasks), _STOPS):
                self._spawn(self._send(subject, encode(signal(tasks[first : first + _STOPS]))))

    def park(self, park: ParkTask) -> None:
        """Put the task into the dead-letter topic."""
        pool = self.leases.land((park.task.run, park.task.item, park.task.step))
        self._spawn(self._park(Pool(pool or "unknown"), park))

    def reply(self, subject: str, answer: Accepted | Refused | FunctionTurned | EventKept | UpdateTaken) -> None:
        """Answer a message that came through the inbox."""
        self._spawn(self._send(subjects.Subject(subject), encode(answer)))

    def again(self, pool: str, tasks: list[Task], sequence: int) -> None:
        """Publish attempts once more, each to be claimed first."""
        size = self._pace(pool).frame_size(len(tasks), self.presence.workers(pool))
        now = self.presence.clock.monotonic()
        self.outbox.put(sequence, [self._departure(sequence, now, pool, frame) for frame in pack(tasks, size)])

    def hand(self, worker: WorkerId, pool: str, task: Task) -> None:
        """Give a task in flight to this worker, which claims it; whoever had it lets go. A message that is lost is made up for by the
        sweeper, because nobody claims the task then."""
        self.leases.held.pop((task.run, task.item, task.step), None)
        ownership, subject = self._ownership, subjects.worker(self._namespace, Pool(pool), worker)
        small = replace(task, history=b"", news=b"")  # the worker asks for them
        frame = TaskFrame(FORMAT, self._namespace, Pool(pool), self._partition, ownership.epoch, ownership.journal_id, [small])
        self._spawn(self._send(subject, encode(frame)))

    def mark(self, flight: Flight) -> None:
        """Publish an empty frame to the pool of attempts that an earlier owner published: all of those lie before it, so it tells when
        the broker is done with them."""
        self.outbox.mark(self._leaving(self.confirmed + 1, self.presence.clock.monotonic(), flight, []))

    def abort(self) -> None:
        """Drop what was begun."""
        for task in self._beside:
            task.cancel()

    async def close(self) -> None:
        """Let what was begun end."""
        if self._beside:
            await asyncio.wait(self._beside, timeout=5)

    def _pace(self, pool: str) -> PoolPace:
        pace = self.paces.get(pool)
        if pace is None:
            pace = self.paces[pool] = PoolPace()
        return pace

    def _departure(self, sequence: int, since: float, pool: str, tasks: list[Task]) -> Departure:
        keys = [(task.run, task.item, task.step) for task in tasks]
        flight = Flight(pool, None, keys, max(task.dispatch for task in tasks))
        self.leases.launch(flight)
        return self._leaving(sequence, since, flight, tasks)

    def _leaving(self, sequence: int, since: float, flight: Flight, tasks: list[Task]) -> Departure:
        ownership = self._ownership
        frame = TaskFrame(FORMAT, self._namespace, Pool(flight.pool), self._partition, ownership.epoch, ownership.journal_id, tasks)
        self._frames += 1
        name = f"{ownership.journal_id}/{self._partition}/{ownership.epoch}/{self._frames}"
        return Departure(sequence, frame, name, flight, since)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    def _refused(self, departure: Departure, problem: StepmeshError) -> list[Departure]:
        """The broker will never take this frame: cut it where it is too large, else fail its attempts, so that no run waits for ever."""
        flight, frame = departure.flight, departure.frame
        if not frame.tasks:
            log.info("pool %s takes no mark: %s", flight.pool, problem)
            return []
        tasks = [task for task in frame.tasks if self.leases.flights.get((task.run, task.item, task.step)) is flight]
        too_large = isinstance(problem, MessageTooLarge)
        if too_large and len(frame.tasks) > 1:
            half = (len(tasks) + 1) // 2
            return [
                self._departure(departure.sequence, departure.since, flight.pool, part) for part in (tasks[:half], tasks[half:]) if part
            ]
        if too_large and tasks and (tasks[0].history or tasks[0].news):  # the worker asks for it, page by page
            return [self._departure(departure.sequence, departure.since, flight.pool, [replace(tasks[0], history=b"", news=b"")])]
        log.warning("a task frame cannot be published to pool %s; its tasks fail: %s", flight.pool, problem)
        self.leases.drop(flight)
        code = ErrorCode.INVALID_INPUT if too_large else ErrorCode.ORCHESTRATOR_ERROR
        for task in tasks:
            failure = Failure(code, f"the task of step '{task.step_id}' cannot be sent to pool {flight.pool}: {problem}")
            self.post(FailAttempt(TaskRef(task.run, task.item, task.step, task.attempt), failure))
        return []

    async def _acknowledge(self) -> None:
        try:
            done = 0
            while done < self._acknowledged:
                done = self._acknowledged
                await self._inbox.ack(Position(done))
        except StepmeshError as problem:
            log.info("the inbox was not acknowledged and will come again: %s", problem)
        finally:
            self._acknowledging = False

    async def _send(self, subject: subjects.Subject, data: bytes) -> None:
        try:
            await self.broker.send(subject, data)
        except StepmeshError as problem:
            log.info("a message to %s was not sent: %s", subject, problem)

    async def _park(self, pool: Pool, park: ParkTask) -> None:
        reason = f"step '{park.step_id}' of run {park.task.run}: {park.reason}"
        while True:
            try:
                await self.broker.park(pool, encode(park.task), reason)
                return
            except BrokerUnavailable as problem:
                log.info("a task is parked later: %s", problem)
                await asyncio.sleep(_RETRY_S)
            except StepmeshError as problem:
                log.error("cannot park a task; the run's failure has its story: %s (%s)", reason, problem)
                return

    async def _fetch_flow(self, need: NeedFlow) -> None:
        """However long the store cannot be used: nothing else moves the steps that wait for the flow."""
        while True:
            try:
                found = await self._fetched(need)
                self.post(ResolveFlow(need.key, flow=found) if isinstance(found, CompiledFlow) else ResolveFlow(need.key, found))
                return
            except StoreError as problem:
                log.warning("a flow is fetched or stored later: %s", problem)
                await asyncio.sleep(_RETRY_S)
            except Exception:
                log.exception("SM-5900 a flow cannot be fetched or stored; the steps that need it fail")
                self.post(ResolveFlow(need.key, Failure(ErrorCode.ORCHESTRATOR_ERROR, "SM-5900 its flow cannot be fetched; see the log")))
                return

    async def _fetched(self, need: NeedFlow) -> CompiledFlow | Failure | None:
        """What cannot be had is a failure; what is found by its name is told, because another one may have that name tomorrow."""
        if need.document is not None:
            return await self._flows.add_text(need.document)
        if need.key.startswith(BY_NAME):
            name, _, version = need.key.removeprefix(BY_NAME).decode().rpartition("@")
            return await self._flows.named(name, version)
        return await self._flows.fetch(FlowId(need.key.decode()))
