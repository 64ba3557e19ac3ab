"""A session's link over a broker: take frames while there is room, say hello, hear cancels, keep leases, post results.

Invariant: a frame that cannot be read is parked, never lost and never looped over. It wires source, leases and outbox together and
holds no rules of theirs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from msgspec.structs import replace

from stepmesh.attempt import KEPT_S, Attempt, Frame, Handed, Why
from stepmesh.control import Control
from stepmesh.durable.telling import Turns
from stepmesh.leases import Leases, Timing
from stepmesh.outbox import Outbox
from stepmesh.querying import answered, pages_over
from stepmesh.session import Identity, Session
from stepmesh_broker.errors import BrokerUnavailable, MalformedMessage, MessageTooLarge
from stepmesh_broker.ports import Broker, Delivery, Subscription, TaskSource
from stepmesh_broker.protocol import codec, subjects
from stepmesh_broker.protocol.functions import Nudge
from stepmesh_broker.protocol.messages import ComponentInfo, Hello, Result, Stop

log = logging.getLogger("stepmesh.worker")

READY_TASKS = 128
"""No more frames are taken while this many quick tasks wait here; slow ones are not taken in advance at all."""
FETCH_FRAMES = 8
"""Frames taken at once."""
DOUBT_S = 2.0
"""For so long after this process stood still, what comes may have come while it did: a fetch that ran out meanwhile brings nothing."""
FETCH_RETRY_S = 0.5
"""Wait after the broker did not answer a fetch, in seconds."""


class BrokerLink:
    """`session.Link` over a connected broker."""

    _session: Session
    leases: Leases[Attempt]
    _outbox: Outbox
    _source: TaskSource | None = None
    _cancels: Subscription | None = None
    _queries: Subscription | None = None
    _handed: Subscription | None = None
    _fetcher: asyncio.Task[None]
    turns: Turns | None = None

    def __init__(self, broker: Broker, identity: Identity, timing: Timing) -> None:
        self._broker = broker
        self._identity = identity
        self._timing = timing
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()  # components came or went

    async def open(self, session: Session) -> None:
        """Join the pool."""
        broker, who = self._broker, self._identity
        self._session = session
        self._outbox = Outbox(broker, who.worker, session.execution.busy, self._frame_settled, session.broken)
        control = Control(broker, who.namespace, self._timing.control_timeout)
        self.leases = Leases(control, lambda _: who.worker, session.execution, self._timing, session.broken)
        self.turns = Turns(broker, who.namespace, who.worker)
        self._source = await broker.tasks(who.pool)
        self._cancels = await broker.listen(subjects.workers(who.namespace, who.pool), self._told)
        if any(component.query is not None for component in session.components):
            self._queries = await broker.serve(subjects.queries(who.namespace, who.pool), self._asked, group=who.pool)
            self._handed = await broker.listen(subjects.worker(who.namespace, who.pool, who.worker), self._hand)
        session.watch(self.leases.keep(), "stepmesh leases")
        session.watch(self._say_hello(), "stepmesh presence")
        self._fetcher = session.watch(self._fetch(self._source), "stepmesh fetch")

    def settled(self, attempt: Attempt, result: Result | None) -> None:
        """Post the result."""
        self._outbox.put(attempt.frame, result)

    def ask(self, attempts: list[Attempt]) -> None:
        """Claim these."""
        self.leases.ask(attempts)

    def waiting(self) -> Iterable[Attempt]:
        """Those that wait for a lease."""
        return self.leases.waiting

    async def take_no_more(self) -> None:
        """Close the source: a fetch that waits for frames returns at once."""
        assert self._source is not None
        self.announce()
        try:
            await self._source.close()
            await asyncio.wait([self._fetcher])
        finally:
            self._fetcher.cancel()

    def changed(self) -> None:
        """The fetcher waits for the session's event."""

    def announce(self) -> None:
        """Say hello at once."""
        self._news.set()

    async def flushed(self) -> None:
        """All results are posted."""
        await self._outbox.flushed()

    def abandon(self) -> None:
        """Ask and post no more."""
        self.leases.close()
        if self.turns is not None:
            self.turns.close()
        self._outbox.abandon()

    async def close(self) -> None:
        """Leave the pool."""
        if self._source is not None:
            await self._source.close()
        if self._cancels is not None:
            await self._cancels.close()
        for subscription in (self._queries, self._handed):
            if subscription is not None:
                await subscription.close()
        await self._hello(stopping=True)

    def _frame_settled(self, frame: Frame) -> None:
        self.leases.let_go(frame)
        self._session.changed()

    # --- taking -------------------------------------------------------------------------------------------------

    async def _fetch(self, source: TaskSource) -> None:
        heard, doubt_until, session = self._loop.time(), 0.0, self._session
        while not session.leaving.is_set():
            room = self._room()
            if not room:
                session.change.clear()
                await session.change.wait()
                continue
            try:
                deliveries = await source.fetch(room, self._timing.fetch)
            except BrokerUnavailable as problem:
                log.warning("cannot take tasks of pool %s: %s", self._identity.pool, problem)
                await asyncio.sleep(FETCH_RETRY_S)
                continue
            now = self._loop.time()
            if now - heard > KEPT_S:
                doubt_until = now + DOUBT_S
            heard = now
            for delivery in deliveries:
                await self._take(delivery, now < doubt_until)

    def _room(self) -> int:
        execution, concurrency = self._session.execution, self._session.limits.concurrency
        if len(execution.ready) >= (READY_TASKS if execution.quick else 1) or len(self.leases.waiting) >= 4 * concurrency:
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
        self._session.execution.accept(frame, delivery.deliveries > 1 or late or self._identity.exclusive)

    async def _hand(self, data: bytes) -> None:
        """A frame for this worker alone: functions that belong to its code. What does not fit is given again in a while."""
        session = self._session
        if session.leaving.is_set() or len(session.execution.ready) >= READY_TASKS:
            return
        try:
            header = codec.decode_task_frame(data)
        except MalformedMessage as problem:
            log.error("a task that was handed over was not understood: %s", problem)
            return
        frame = Frame(Handed(data), header, self._loop.time())
        self.leases.hold(frame)
        session.execution.accept(frame, True)

    async def _park(self, delivery: Delivery, problem: MalformedMessage) -> None:
        log.error("parked a message of pool %s: %s", self._identity.pool, problem)
        try:
            await self._broker.park(self._identity.pool, delivery.data, str(problem))
        except BrokerUnavailable as away:
            log.warning("it will come again: %s", away)
        else:
            await delivery.ack()

    async def _asked(self, data: bytes) -> bytes:
        broker = self._broker
        pages = pages_over(broker, self._identity.namespace, broker.max_message_bytes)
        return await answered(self._session.components, data, broker.max_message_bytes, pages)

    # --- talking ------------------------------------------------------------------------------------------------

    async def _told(self, data: bytes) -> None:
        try:
            message = codec.decode_presence(data)
        except MalformedMessage as problem:
            log.error("a cancel signal was not understood: %s", problem)
            return
        if isinstance(message, Stop | Nudge):
            refs = {(ref.run, ref.item, ref.step, ref.attempt) for ref in message.tasks}
            for attempt in self._session.attempts():
                task = attempt.task
                if (task.run, task.item, task.step, task.attempt) not in refs:
                    continue
                if isinstance(message, Stop):
                    self._session.execution.stop(attempt, Why.CANCELLED)
                elif attempt.news is not None:
                    attempt.news.set()

    async def _say_hello(self) -> None:
        while True:
            self._news.clear()
            await self._hello(stopping=False)
            try:
                await asyncio.wait_for(self._news.wait(), self._timing.hello)
            except TimeoutError:
                pass  # the usual case: nothing changed

    async def _hello(self, stopping: bool) -> None:
        infos = [component.info() for component in self._session.components]
        if self._session.leaving.is_set():  # nothing more is to be handed over
            infos = [replace(info, version="") for info in infos]
        try:
            try:
                await self._announce(infos, stopping)
            except MessageTooLarge as problem:
                log.error("the schemas of %d components are left out: %s", len(infos), problem)
                await self._announce([ComponentInfo(info.path, version=info.version) for info in infos], stopping)
        except BrokerUnavailable as problem:
            log.info("nobody heard this worker: %s", problem)

    async def _announce(self, infos: list[ComponentInfo], stopping: bool) -> None:
        who, session = self._identity, self._session
        running = len(session.execution.live)
        hello = Hello(who.worker, who.pool, session.limits.concurrency, who.version, infos, running, stopping, who.exclusive)
        await self._broker.send(subjects.presence(who.namespace), codec.encode(hello))
