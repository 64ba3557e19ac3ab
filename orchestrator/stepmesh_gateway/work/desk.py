"""One pool at this gateway: takes frames while a worker has room, spreads their tasks, takes back what nobody begins.

Invariants: what is taken and not sent waits here for a short time only; a task goes to the worker with the least in hand that offers
its component; what a worker was sent and has not begun may be given to one that is idle. It must not know transports.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable
from typing import Protocol

from stepmesh import failures
from stepmesh.attempt import KEPT_S, Frame, Why
from stepmesh.leases import Timing
from stepmesh_broker.errors import BrokerUnavailable, MalformedMessage
from stepmesh_broker.ports import Broker, Delivery, Subscription, TaskSource
from stepmesh_broker.protocol import codec, subjects
from stepmesh_broker.protocol.functions import Nudge
from stepmesh_broker.protocol.ids import Namespace, Partition, Pool, WorkerId
from stepmesh_broker.protocol.messages import ErrorCode, Result, Stop
from stepmesh_gateway.identity import TaskId
from stepmesh_gateway.work.catalogue import Catalogue, Found, missing
from stepmesh_gateway.work.hands import Hands
from stepmesh_gateway.work.held import Held
from stepmesh_gateway.work.line import Assigned
from stepmesh_gateway.work.rooms import Rooms
from stepmesh_gateway.work.seat import Seat

log = logging.getLogger("stepmesh.gateway")

FETCH_FRAMES = 8
"""Frames taken at once."""
AHEAD_TASKS = 8
"""While tasks are quick, so many wait here, so that a worker with room gets its next one without a question to the broker."""
QUICK_S = 0.05
"""A task that took no longer is quick, in seconds."""
AHEAD_BYTES = 64 * 1024
"""No frame is taken in advance behind one that is larger."""
READY_TASKS = 256
"""No more frames are taken while this many tasks wait here for workers that offer their components."""
FETCH_RETRY_S = 0.5
"""Wait after the broker did not answer a fetch, in seconds."""
IDLE_S = 0.25
"""A task that was sent and not begun for so long goes to another worker that has room, in seconds."""
DROPPED_S = 15.0
"""A worker that has begun nothing, and has said nothing about a task for so long, has dropped it."""
MISSED_S = 2.0
"""How long a worker whose stream broke has to come again and say that it runs a task without a lease, in seconds."""
WAITING_S = 1.0
"""A frame of which nothing could be sent for so long goes back to the broker, where other gateways may have workers."""


class Around(Protocol):
    """What the bridge does for its desks."""

    def finished(self, task: TaskId, result: Result, recorded: Callable[[], None]) -> None:
        """A worker's result; `recorded` is called when it is durable or nobody wants it."""
        ...

    def entrust(self, held: list[Held]) -> None:
        """Their worker's stream ended: leave them to it and to their shards."""
        ...

    def changed(self, seat: Seat) -> None:
        """Who is there, or what is offered, is another than before."""
        ...

    def failed(self, problem: BaseException) -> None:
        """No tasks come any more."""
        ...


class Desk:
    """`known`: what a worker of the pool said last that it offers. `ready`: tasks that wait for a worker. `quick`: so was the last one."""

    def __init__(self, pool: Pool, broker: Broker, namespace: Namespace, hands: Hands, around: Around, timing: Timing) -> None:
        self.pool = pool
        self.seats: set[Seat] = set()
        self.ready: deque[Held] = deque()
        self.known: Catalogue | None = None
        self._broker = broker
        self._namespace = namespace
        self._hands = hands
        self._around = around
        self._timing = timing
        self._loop = asyncio.get_running_loop()
        self._rooms = Rooms()
        self._missed: set[Held] = set()
        self._change = asyncio.Event()
        self._spreading = False
        self._closing = False
        self.quick = False
        self._frame_bytes = 0
        self._source: TaskSource | None = None
        self._stops: Subscription | None = None
        self._fetching: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Join the pool. Raises `BrokerUnavailable`."""
        source = self._source = await self._broker.tasks(self.pool)
        try:
            self._stops = await self._broker.listen(subjects.workers(self._namespace, self.pool), self._told)
        except BrokerUnavailable:
            await source.close()
            raise
        self._fetching = self._loop.create_task(self._fetch(source), name=f"stepmesh gateway pool {self.pool}")
        self._fetching.add_done_callback(self._fetched)

    async def close(self) -> None:
        """Take nothing more, and hand back what no worker has begun."""
        self._closing = True
        self._change.set()
        if self._source is not None:
            await self._source.close()
        if self._fetching is not None:
            await asyncio.wait([self._fetching])
        self.hand_back()
        for held in [*self._missed]:
            self._not_back(held)
        for seat in self.seats:
            for held in [held for held in seat.holding.values() if held.sent and not held.started_at]:
                self._hands.give_back(held)
        if self._stops is not None:
            await self._stops.close()

    def hand_back(self) -> None:
        """What waits goes to other gateways."""
        while self.ready:
            held = self.ready.popleft()
            if not held.settled and held.seat is None:
                self._hands.give_back(held)

    # --- what seats tell ----------------------------------------------------------------------------------------

    def room(self, seat: Seat) -> None:
        """It has credit."""
        self._rooms.enter(seat)
        self.spread()

    def lasted(self, seconds: float) -> None:
        """One of its tasks ran so long."""
        self.quick = seconds <= QUICK_S
        if self._looks_ahead():
            self._change.set()

    def learned(self, seat: Seat) -> None:
        """It said what it offers."""
        self.known = seat.catalogue
        self._around.changed(seat)

    def finished(self, task: TaskId, result: Result, recorded: Callable[[], None]) -> None:
        """See `Around`."""
        self._around.finished(task, result, recorded)

    def begin(self, held: Held) -> None:
        """Its worker runs it from now on."""
        seat = held.seat
        assert seat is not None, "only a worker begins a task"
        self._hands.begin(held, limited=seat.hello.claims)
        seat.began()

    def put_back(self, held: Held) -> None:
        """It waits for a worker again, before all others."""
        if held.settled or held.seat is not None:
            return
        if held.sent:
            held.id = held.id._replace(copy=held.id.copy + 1)
            held.sent = held.fresh = False
        held.ready_at = self._loop.time()
        if self._closing or not self.seats:
            self._hands.give_back(held)
            return
        self.ready.appendleft(held)
        self.spread()

    def give_back(self, held: Held) -> None:
        """It goes back to the broker."""
        self._hands.give_back(held)

    def let_go_of(self, held: Held) -> None:
        """Its shard needs nobody for it now."""
        self._hands.forget(held)

    def lost(self, seat: Seat) -> None:
        """Its stream ended. What it may have begun a moment ago, and has no lease for, waits for it a little."""
        self.seats.discard(seat)
        begun: list[Held] = []
        for held in [*seat.holding.values()]:
            if held.started_at and (held.lease_s or seat.hello.claims or self._closing):
                begun.append(held)
            elif held.started_at:
                seat.unsent(held)
                self._miss(held)
            elif held.sent:
                seat.unsent(held)
                self.put_back(held)
        if begun:
            self._around.entrust(begun)
        if not self.seats:
            self.hand_back()
        self._around.changed(seat)

    def _miss(self, held: Held) -> None:
        self._hands.unbegin(held)
        held.claim_first = True
        self._missed.add(held)
        self._loop.call_later(MISSED_S, self._not_back, held)

    def _not_back(self, held: Held) -> None:
        self._missed.discard(held)
        self.put_back(held)

    # --- spreading ----------------------------------------------------------------------------------------------

    def spread(self) -> None:
        """Send what waits to workers with room."""
        if self._spreading or self._closing:
            return
        sends: dict[Seat, list[Assigned]] = {}
        asks: dict[tuple[WorkerId, Partition], list[Held]] = {}
        passed: list[Held] = []
        self._spreading = True
        while self.ready and self._rooms.any():
            held = self.ready.popleft()
            if held.settled or held.seat is not None:
                continue
            chosen = self._choose(held)
            if chosen is not None:
                self._assign(held, *chosen, sends, asks)
            elif not self._hopeless(held):
                passed.append(held)
        self.ready.extendleft(reversed(passed))
        self._spreading = False
        for attempts in asks.values():
            self._hands.leases.ask(attempts)
        for seat, assigned in sends.items():
            seat.line.send(assigned)
        if self._wants_more():
            self._change.set()

    def _assign(
        self, held: Held, seat: Seat, found: Found, sends: dict[Seat, list[Assigned]], asks: dict[tuple[WorkerId, Partition], list[Held]]
    ) -> None:
        seat.take(held)
        self._rooms.enter(seat)
        claims = seat.hello.claims
        if not claims and (held.claim_first or seat.hello.exclusive or held.frame.in_doubt(self._loop.time())):
            held.fresh = False
            asks.setdefault((seat.worker, held.id.partition), []).append(held)
            return
        sends.setdefault(seat, []).append(seat.sending(held, found))
        if not claims:
            self.begin(held)

    def _choose(self, held: Held) -> tuple[Seat, Found] | None:
        assert held.task is not None, "what came without a task runs already"
        return self._rooms.choose(held.task.component)

    def _hopeless(self, held: Held) -> bool:
        """Whether nobody here offers the component, which is then the task's end."""
        assert held.task is not None, "what came without a task runs already"
        path = held.task.component
        if any(seat.undecided or seat.find(path) is not None for seat in self.seats):
            return False
        text = missing(path, self.pool, [seat.catalogue for seat in self.seats if seat.catalogue is not None])
        self._hands.fail(held, failures.of(ErrorCode.COMPONENT_NOT_FOUND, text))
        return True

    # --- taking -------------------------------------------------------------------------------------------------

    def _wants_more(self) -> bool:
        return not self._closing and ((self._rooms.any() and len(self.ready) < READY_TASKS) or self._looks_ahead())

    def _looks_ahead(self) -> bool:
        return self.quick and len(self.ready) < AHEAD_TASKS and self._frame_bytes <= AHEAD_BYTES

    async def _fetch(self, source: TaskSource) -> None:
        while not self._closing:
            if not self._wants_more():
                self._change.clear()
                await self._change.wait()
                continue
            asked = self._loop.time()
            try:
                deliveries = await source.fetch(self._frames_wanted(), self._timing.fetch)
            except BrokerUnavailable as problem:
                if not self._closing:
                    log.warning("cannot take tasks of pool %s: %s", self.pool, problem)
                    await asyncio.sleep(FETCH_RETRY_S)
                continue
            late = self._loop.time() - asked > KEPT_S  # this process was stopped, and the broker may have given them to others
            for delivery in deliveries:
                await self._take(delivery, late)

    def _fetched(self, fetching: asyncio.Task[None]) -> None:
        if not fetching.cancelled() and (problem := fetching.exception()) is not None:
            self._around.failed(problem)

    def _frames_wanted(self) -> int:
        if self._looks_ahead():
            return FETCH_FRAMES
        wanted = 0
        for seat in self.seats:
            wanted += max(0, seat.credit)
            if wanted >= FETCH_FRAMES:
                return FETCH_FRAMES
        return max(1, wanted)

    async def _take(self, delivery: Delivery, late: bool) -> None:
        try:
            header = codec.decode_task_frame(delivery.data)
        except MalformedMessage as problem:
            await self._park(delivery, problem)
            return
        if not header.tasks:
            await delivery.ack()
            return
        self._frame_bytes = len(delivery.data)
        frame = Frame(delivery, header, self._loop.time())
        self._hands.leases.hold(frame)
        again = delivery.deliveries > 1 or late
        for task in header.tasks:
            held = self._hands.take(task, frame, again or task.claim_first)
            if held is not None:
                held.desk = self
                self.ready.append(held)
        if self._closing or not self.seats:
            self.hand_back()
        else:
            self.spread()

    async def _park(self, delivery: Delivery, problem: MalformedMessage) -> None:
        log.error("parked a message of pool %s: %s", self.pool, problem)
        try:
            await self._broker.park(self.pool, delivery.data, str(problem))
        except BrokerUnavailable as away:
            log.warning("it will come again: %s", away)
        else:
            await delivery.ack()

    async def _told(self, data: bytes) -> None:
        try:
            message = codec.decode_presence(data)
        except MalformedMessage as problem:
            log.error("a cancel signal was not understood: %s", problem)
            return
        if not isinstance(message, Stop | Nudge):
            return
        for ref in message.tasks:
            held = self._hands.by_ref.get(ref)
            if held is not None and isinstance(message, Stop):
                self._hands.stop(held, Why.CANCELLED)
            elif held is not None and held.seat is not None:
                held.seat.news(held)

    # --- now and then -------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Give idle workers what others were sent and have not begun; hand back what waits for nobody."""
        for seat in self.seats:
            if seat.unclaimed and not seat.hello.queue:
                self._look_at(seat, now)
        if self.ready and not self._rooms.any():
            self._let_go(now)

    def _let_go(self, now: float) -> None:
        """Frames of which nothing is with a worker, and has not been for too long."""
        self.ready = deque(held for held in self.ready if not held.settled and held.seat is None)
        waiting = Counter(held.frame for held in self.ready if now - held.ready_at > WAITING_S)
        for held in [held for held in self.ready if waiting[held.frame] == held.frame.left]:
            self._hands.give_back(held)
            self.quick = False  # no more in advance, until a quick one ends again
        self.ready = deque(held for held in self.ready if not held.settled)

    def _look_at(self, seat: Seat, now: float) -> None:
        for id, (held, sent_at) in [*seat.unclaimed.items()]:
            here = held.seat is seat and held.id == id and not held.settled
            if now - sent_at > DROPPED_S and not seat.begun:
                log.warning(
                    "worker %s of pool %s does not begin task %s: can it reach the gateway's advertised address?",
                    seat.worker,
                    self.pool,
                    id,
                )
                if here:
                    seat.unsent(held)
                    self.put_back(held)
                seat.reacted(id)
            elif here and now - sent_at > IDLE_S and self._rooms.any():
                chosen = self._choose(held)
                if chosen is not None:
                    self._rooms.enter(chosen[0])
                    seat.unsent(held)
                    self.put_back(held)
