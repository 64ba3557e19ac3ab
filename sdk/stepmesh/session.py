"""One run of a worker over one broker connection: take frames while there is room, run them, say hello, leave cleanly.

Invariant: what this session took and did not finish is handed back or left unacknowledged, so it is never lost. It wires
execution, leases and outbox together and holds no rules of theirs.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from stepmesh.attempt import KEPT_S, Attempt, Frame, Why
from stepmesh.component import Components
from stepmesh.control import Control
from stepmesh.execution import Execution, Limits
from stepmesh.instrument import Instrument
from stepmesh.leases import Leases, Timing
from stepmesh.outbox import Outbox
from stepmesh.requests import Requests
from stepmesh_broker.errors import BrokerUnavailable, MalformedMessage, MessageTooLarge
from stepmesh_broker.ports import Broker, Delivery, TaskSource
from stepmesh_broker.protocol import codec, subjects
from stepmesh_broker.protocol.ids import Namespace, Pool, WorkerId
from stepmesh_broker.protocol.messages import ComponentInfo, Hello, Result, Stop

log = logging.getLogger("stepmesh.worker")

READY_TASKS = 128
"""No more frames are taken while this many quick tasks wait here; slow ones are not taken in advance at all."""
FETCH_FRAMES = 8
"""Frames taken at once."""
FETCH_RETRY_S = 0.5
"""Wait after the broker did not answer a fetch, in seconds."""
LEAVING_SHARE = 0.25
"""Part of the drain's grace period that is kept for stopping tasks and posting results."""
LEAVING_MOST_S = 5.0
"""... but at most this many seconds."""
HURRY_S = 1.0
"""The same after a second stop, in seconds."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this worker is to others."""

    worker: WorkerId
    namespace: Namespace
    pool: Pool
    version: str
    exclusive: bool


class Session:
    """`stop()` begins to leave; `hurry()` ends the patience with running tasks."""

    def __init__(
        self, broker: Broker, identity: Identity, components: Components, limits: Limits, timing: Timing, instrument: Instrument | None
    ) -> None:
        self._broker = broker
        self._identity = identity
        self._components = components
        self._limits = limits
        self._timing = timing
        self._loop = asyncio.get_running_loop()
        self._failure: BaseException | None = None
        self._leaving = asyncio.Event()
        self._hurried = asyncio.Event()
        self._change = asyncio.Event()
        # What a component asks for outlives every outage: its attempt ends by its own time limit, a cancel or the worker's end.
        requests = Requests(broker, identity.namespace, math.inf, waits_for_space=True)
        self.execution = Execution(components, limits, requests, self, instrument)
        self.outbox = Outbox(broker, identity.worker, self.execution.busy, self._frame_settled, self.broken)
        control = Control(broker, identity.namespace, timing.control_timeout)
        self.leases: Leases[Attempt] = Leases(control, lambda _: identity.worker, self.execution, timing, self.broken)

    async def run(self, grace_s: float) -> None:
        """Work until `stop()`, then leave within `grace_s` seconds. Raises what broke the machinery, if something did."""
        broker, identity = self._broker, self._identity
        source = await broker.tasks(identity.pool)
        cancels = await broker.listen(subjects.workers(identity.namespace, identity.pool), self._told)
        keeper = self._watched(self.leases.keep(), "stepmesh leases")
        presence = self._watched(self._say_hello(), "stepmesh presence")
        fetcher = self._watched(self._fetch(source), "stepmesh fetch")
        try:
            await self._leaving.wait()
            await source.close()  # a fetch that waits for frames returns at once
            await self._leave(fetcher, grace_s)
        finally:
            for task in (fetcher, keeper, presence):
                task.cancel()
            self.execution.close()
            self.leases.close()
            self.outbox.abandon()
            for attempt in self._attempts():
                self.execution.stop(attempt, Why.LEAVING)
            await source.close()
            await cancels.close()
            await self._hello(stopping=True)
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Take nothing more and leave."""
        self._leaving.set()
        self._change.set()

    def hurry(self) -> None:
        """Leave without waiting for running tasks; their frames are handed back."""
        self._hurried.set()
        self._change.set()
        self.stop()

    @property
    def stuck(self) -> int:
        """Attempts that run although they were told to stop."""
        return sum(attempt.why is not None for attempt in self.execution.live)

    # --- what execution and outbox tell -------------------------------------------------------------------------

    def settled(self, attempt: Attempt, result: Result | None) -> None:
        """See `execution.Surroundings`."""
        self.outbox.put(attempt.frame, result)

    def ask(self, attempts: list[Attempt]) -> None:
        """See `execution.Surroundings`."""
        self.leases.ask(attempts)

    def changed(self) -> None:
        """See `execution.Surroundings`."""
        self._change.set()

    def broken(self, problem: BaseException) -> None:
        """See `execution.Surroundings`."""
        if self._failure is None:
            self._failure = problem
        self.hurry()

    def _frame_settled(self, frame: Frame) -> None:
        self.leases.let_go(frame)
        self._change.set()

    # --- taking -------------------------------------------------------------------------------------------------

    async def _fetch(self, source: TaskSource) -> None:
        heard = self._loop.time()
        while not self._leaving.is_set():
            room = self._room()
            if not room:
                self._change.clear()
                await self._change.wait()
                continue
            try:
                deliveries = await source.fetch(room, self._timing.fetch)
            except BrokerUnavailable as problem:
                log.warning("cannot take tasks of pool %s: %s", self._identity.pool, problem)
                await asyncio.sleep(FETCH_RETRY_S)
                continue
            late, heard = self._loop.time() - heard > KEPT_S, self._loop.time()
            for delivery in deliveries:
                await self._take(delivery, late)

    def _room(self) -> int:
        execution = self.execution
        if len(execution.ready) >= (READY_TASKS if execution.quick else 1) or len(self.leases.waiting) >= 4 * self._limits.concurrency:
            return 0
        return min(execution.slots.free, FETCH_FRAMES)

    async def _take(self, delivery: Delivery, late: bool) -> None:
        """`late`: the delivery may have waited in this process while it was stopped or blocked, and be with another worker by now."""
        try:
            header = codec.decode_task_frame(delivery.data)
        except MalformedMessage as problem:
            await self._park(delivery, problem)
            return
        frame = Frame(delivery, header, self._loop.time())
        if not header.tasks:
            await delivery.ack()
            return
        self.leases.hold(frame)
        self.execution.accept(frame, delivery.deliveries > 1 or late or self._identity.exclusive)

    async def _park(self, delivery: Delivery, problem: MalformedMessage) -> None:
        log.error("parked a message of pool %s: %s", self._identity.pool, problem)
        try:
            await self._broker.park(self._identity.pool, delivery.data, str(problem))
        except BrokerUnavailable as away:
            log.warning("it will come again: %s", away)
        else:
            await delivery.ack()

    # --- talking ------------------------------------------------------------------------------------------------

    async def _told(self, data: bytes) -> None:
        try:
            message = codec.decode_presence(data)
        except MalformedMessage as problem:
            log.error("a cancel signal was not understood: %s", problem)
            return
        if isinstance(message, Stop):
            refs = {(ref.run, ref.item, ref.step, ref.attempt) for ref in message.tasks}
            for attempt in self._attempts():
                task = attempt.task
                if (task.run, task.item, task.step, task.attempt) in refs:
                    self.execution.stop(attempt, Why.CANCELLED)

    def _attempts(self) -> Sequence[Attempt]:
        return [*self.execution.ready, *self.execution.live, *self.leases.waiting]

    async def _say_hello(self) -> None:
        while True:
            await self._hello(stopping=False)
            await asyncio.sleep(self._timing.hello)

    async def _hello(self, stopping: bool) -> None:
        infos = [component.info() for component in self._components]
        try:
            try:
                await self._announce(infos, stopping)
            except MessageTooLarge as problem:
                log.error("the schemas of %d components are left out: %s", len(infos), problem)
                await self._announce([ComponentInfo(info.path) for info in infos], stopping)
        except BrokerUnavailable as problem:
            log.info("nobody heard this worker: %s", problem)

    async def _announce(self, infos: list[ComponentInfo], stopping: bool) -> None:
        who, running = self._identity, len(self.execution.live)
        hello = Hello(who.worker, who.pool, self._limits.concurrency, who.version, infos, running, stopping, who.exclusive)
        await self._broker.send(subjects.presence(who.namespace), codec.encode(hello))

    # --- leaving ------------------------------------------------------------------------------------------------

    async def _leave(self, fetcher: asyncio.Task[None], grace_s: float) -> None:
        """Hand back what did not start, let the rest finish, stop what does not, post what ended."""
        until = self._loop.time() + grace_s
        reserve_s = min(LEAVING_MOST_S, grace_s * LEAVING_SHARE)
        self.execution.close()
        await self._within(until - reserve_s, fetcher)
        for attempt in self._attempts():
            if not attempt.live:
                self.execution.stop(attempt, Why.LEAVING)
        await self._until_idle(until - reserve_s)
        until = min(until, self._loop.time() + (HURRY_S if self._hurried.is_set() else reserve_s))
        for attempt in self._attempts():
            self.execution.stop(attempt, Why.LEAVING)
        self._hurried.clear()
        await self._until_idle((until + self._loop.time()) / 2)
        for attempt in tuple(self.execution.live):
            self.execution.give_up(attempt)
        await self._within(until, asyncio.ensure_future(self.outbox.flushed()))

    async def _within(self, until: float, task: asyncio.Future[None]) -> None:
        await asyncio.wait([task], timeout=max(0.0, until - self._loop.time()))
        task.cancel()

    async def _until_idle(self, until: float) -> None:
        while self.execution.live and (left := until - self._loop.time()) > 0 and not self._hurried.is_set():
            self._change.clear()
            try:
                await asyncio.wait_for(self._change.wait(), left)
            except TimeoutError:
                return

    def _watched(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = self._loop.create_task(work, name=name)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (problem := task.exception()) is not None:
            self.broken(problem)
