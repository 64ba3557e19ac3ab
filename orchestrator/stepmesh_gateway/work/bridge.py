"""Between the pools of the broker and connected workers: one desk per pool, one seat per stream, everything in hand in one place.

Invariants: what a gateway took and did not finish is handed back or left to its lease, so it is never lost; what a worker says of a task
is understood by every gateway. It must not know how a stream speaks.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from stepmesh.leases import Timing
from stepmesh_broker.ports import Broker
from stepmesh_broker.protocol.ids import Pool, WorkerId
from stepmesh_broker.protocol.messages import Result, TaskRef, Verdict
from stepmesh_gateway.identity import TaskId
from stepmesh_gateway.limits import check_streams
from stepmesh_gateway.settings import GatewaySettings
from stepmesh_gateway.work.brought import Brought
from stepmesh_gateway.work.calls import Calls
from stepmesh_gateway.work.catalogue import Catalogue
from stepmesh_gateway.work.desk import Desk
from stepmesh_gateway.work.elsewhere import AGAIN_S, Completion, Elsewhere, Posts
from stepmesh_gateway.work.hands import Hands
from stepmesh_gateway.work.held import Held
from stepmesh_gateway.work.line import Line, WorkerHello
from stepmesh_gateway.work.presence import Presence
from stepmesh_gateway.work.questions import Questions
from stepmesh_gateway.work.refusals import GatewayStops
from stepmesh_gateway.work.seat import Seat

log = logging.getLogger("stepmesh.gateway")

TICK_S = 0.25
"""How often desks look for tasks that nobody begins, in seconds."""
KNOWN_POOLS = 1_000
"""Pools of which it is remembered what their workers offered last."""
LEAVING_S = 2.0
"""Time that is kept at the end for leases and results, in seconds."""


class Bridge:
    """One per gateway. `gateway`: its id. `ended` gets the exception when the machinery itself fails, so that the process can end."""

    def __init__(self, broker: Broker, settings: GatewaySettings, gateway: str, timing: Timing | None = None) -> None:
        self._broker = broker
        self._settings = settings
        self._timing = timing or Timing()
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._hands = Hands(broker, settings.namespace, WorkerId(gateway), settings.limits.payload_bytes, self._timing, self._broken)
        self._posts = Posts()
        self._elsewhere = Elsewhere(self._hands, WorkerId(gateway), self._posts)
        self._calls = Calls(self._hands, self._elsewhere, self._posts, lambda worker: self._seats.get(worker, ()))
        self._brought = Brought(self._hands, self._elsewhere)
        self._presence = Presence(broker, settings.namespace)
        self._questions = Questions(broker, settings.namespace, self._seats_of)
        self._desks: dict[Pool, Desk] = {}
        self._known: OrderedDict[Pool, Catalogue] = OrderedDict()
        self._seats: dict[WorkerId, list[Seat]] = {}
        self._opening = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._keeping: list[asyncio.Task[None]] = []
        self._stopping = False

    async def start(self) -> None:
        """Begin."""
        self._keeping = [self._spawn(work, name) for work, name in (
            (self._hands.leases.keep(), "leases"), (self._look_around(), "desks"), (self._say_hello(), "presence"),
        )]  # fmt: skip

    async def stop(self, grace_s: float) -> None:
        """Take nothing more, let what was begun end within `grace_s`, leave the rest to other gateways."""
        self._stopping = True
        await self._questions.close()
        await asyncio.gather(*(desk.close() for desk in self._desks.values()))
        for seat in self._all_seats():
            seat.leave()
            if not seat.gone:
                seat.line.drain()
        if self._hands.live:
            await self._within(max(0.0, grace_s - LEAVING_S), self._hands.idle())
        for task in self._keeping:
            task.cancel()
        await self._within(LEAVING_S, self._hands.outbox.flushed())
        for seat in self._all_seats():
            seat.lost()
        await self._within(LEAVING_S, self._elsewhere.entrust([*self._hands.live]))
        await self._within(LEAVING_S, self._hands.outbox.flushed())
        await self._within(LEAVING_S, self._quiet())
        self._posts.give_up()
        self._hands.leases.close()
        self._hands.outbox.abandon()
        for task in self._tasks:
            task.cancel()

    async def _quiet(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)

    # --- streams ------------------------------------------------------------------------------------------------

    async def join(self, hello: WorkerHello, line: Line) -> Seat:
        """A worker's stream is there. Raises `TooManyStreams`, `GatewayStops`, `BrokerUnavailable`."""
        async with self._opening:
            self._check(hello.worker)
            desk = self._desks.get(hello.pool)
            if desk is None:
                desk = Desk(hello.pool, self._broker, self._settings.namespace, self._hands, self, self._timing)
                desk.known = self._known.get(hello.pool)
                await desk.open()
                self._desks[hello.pool] = desk
        if self._stopping:
            await desk.close()
            self._check(hello.worker)
        seat = Seat(hello, line, desk)
        desk.seats.add(seat)
        self._seats.setdefault(hello.worker, []).append(seat)
        if hello.running:
            self._spawn(self._brought.bring(seat, hello.running), "reconnect")
        self._spawn(self._presence.hello([seat]), "hello")
        self._spawn(self._questions.attend(hello.pool), "questions")
        return seat

    def _check(self, worker: WorkerId) -> None:
        if self._stopping:
            raise GatewayStops("this gateway is about to stop", hint="connect again")
        check_streams(worker, len(self._seats.get(worker, ())), self._settings.limits)

    # --- unary calls --------------------------------------------------------------------------------------------

    async def heartbeat(self, worker: WorkerId, task: TaskId, fraction: float | None = None, details: bytes | None = None) -> Verdict:
        """A unary sign of life, also of a task that this gateway never saw; the first one is the claim of a worker that claims."""
        return await self._calls.heartbeat(worker, task, fraction, details)

    async def complete(self, task: TaskId, result: Result) -> Completion:
        """A unary result, also of a task that this gateway never saw. Returns when it is durable."""
        return await self._calls.complete(task, result)

    def children(self, task: TaskRef, content: str) -> int:
        """How often the attempt has started a sub-run with this content by now, this time included."""
        return self._calls.children(task, content)

    # --- what desks tell (desk.Around) --------------------------------------------------------------------------

    def finished(self, task: TaskId, result: Result, recorded: Callable[[], None]) -> None:
        """A worker's result; `recorded` is called when it is durable or nobody wants it."""
        held = self._hands.by_ref.get(task.ref)
        if held is not None:
            self._hands.end(held, result, recorded)
        else:
            self._spawn(self._finish(task, result, recorded), "result")

    async def _finish(self, task: TaskId, result: Result, recorded: Callable[[], None]) -> None:
        while True:
            if await self._elsewhere.complete(task, result) is not Completion.NOT_READY:
                recorded()
                return
            await asyncio.sleep(AGAIN_S)

    def entrust(self, held: list[Held]) -> None:
        """Their worker's stream ended. While the gateway stops, they may still end here."""
        if not self._stopping:
            self._hands.live.difference_update(held)
            self._spawn(self._elsewhere.entrust(held), "entrust")

    def changed(self, seat: Seat) -> None:
        """It told what it offers, or went."""
        if not seat.gone:
            if seat.catalogue is not None:
                self._known[seat.hello.pool] = seat.catalogue
                if len(self._known) > KNOWN_POOLS:
                    self._known.popitem(last=False)
            self._spawn(self._presence.hello([seat]), "hello")
            self._spawn(self._questions.attend(seat.hello.pool), "questions")
            return
        others = self._seats[seat.worker]
        others.remove(seat)
        if not others:
            del self._seats[seat.worker]
        if not any(other.hello.pool == seat.hello.pool for other in others):
            self._spawn(self._presence.hello([seat], stopping=True), "hello")
        desk = self._desks.get(seat.hello.pool)
        if desk is not None and not desk.seats and not self._stopping:
            del self._desks[seat.hello.pool]
            self._spawn(desk.close(), "pool")
        if not self._stopping:
            self._spawn(self._questions.attend(seat.hello.pool), "questions")

    def failed(self, problem: BaseException) -> None:
        """A pool's tasks cannot be taken any more: this gateway ends, and its workers go to others."""
        self._broken(problem)

    # --- now and then -------------------------------------------------------------------------------------------

    async def _look_around(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            for desk in [*self._desks.values()]:
                desk.tick(self._loop.time())

    async def _say_hello(self) -> None:
        while True:
            await asyncio.sleep(self._timing.hello)
            await self._presence.hello(self._all_seats())
            for pool in [*self._desks]:
                await self._questions.attend(pool)
            self._give_up()

    def _give_up(self) -> None:
        """A task of which nothing was heard for too long is lost, although its worker is there."""
        now = self._loop.time()
        for held in [*self._hands.live]:
            if held.seat is None or not held.seat.hello.claims:
                continue
            limit_s = held.seat.hello.silent_s or self._settings.silent_s
            if held.heard_at < now - limit_s:
                log.warning("task %s: nothing was heard of it for %g s; its lease is not renewed any more", held.id, limit_s)
                self._hands.forget(held)

    def _seats_of(self, pool: Pool) -> Iterable[Seat]:
        desk = self._desks.get(pool)
        return () if desk is None else desk.seats

    def _all_seats(self) -> list[Seat]:
        return [seat for seats in self._seats.values() for seat in seats]

    async def _within(self, seconds: float, work: Coroutine[Any, Any, None]) -> None:
        try:
            await asyncio.wait_for(work, seconds)
        except TimeoutError:
            log.warning("stopping: leases or results were not settled within %g s; what is open comes again", seconds)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = self._loop.create_task(work, name=f"stepmesh gateway {name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            self._broken(problem)

    def _broken(self, problem: BaseException) -> None:
        log.error("SM-7205 the gateway cannot go on: %s", problem, exc_info=problem)
        if not self.ended.done():
            self.ended.set_exception(problem)
