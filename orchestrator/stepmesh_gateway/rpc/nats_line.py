"""stepflow.v1 workers behind a NATS server: assignments go into a work-queue stream, claims and results come by OrchestratorService.

Invariant: at most `WINDOW` tasks lie in the stream or with a worker that has not begun them. A message that was taken and never begun
(its worker died in between) is noticed, and its task sent again; what is cancelled, or not taken when the gateway stops, is removed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from stepmesh.attempt import Why
from stepmesh_broker.errors import BrokerError, BrokerUnavailable
from stepmesh_broker.protocol.ids import WorkerId
from stepmesh_gateway.identity import TaskId
from stepmesh_gateway.rpc.assignments import Assignments
from stepmesh_gateway.rpc.discovery import Discovery
from stepmesh_gateway.settings import NatsQueue
from stepmesh_gateway.translate.defects import defect
from stepmesh_gateway.work.bridge import Bridge
from stepmesh_gateway.work.line import Assigned, WorkerHello
from stepmesh_gateway.work.refusals import GatewayStops
from stepmesh_gateway.work.seat import Seat

if TYPE_CHECKING:
    from stepmesh_broker.nats import WorkQueue

T = TypeVar("T")

log = logging.getLogger("stepmesh.gateway")

WINDOW = 64
"""Tasks that lie in the stream at once: enough that no worker waits for the gateway, few enough that other gateways have some too."""
LOOK_S = 1.0
"""How often it is looked what was taken, in seconds."""
TAKEN_S = 10.0
"""A worker that took a task and did not begin it for so long is dead, in seconds."""
ASK_S = 60.0
"""Components are asked for again after this time, once the last question was taken; in seconds."""
RETRY_S = (1.0, 10.0)
"""Pauses while the NATS server is away: first, and longest; in seconds."""
CLEAR_S = 2.0
"""What the removal of messages may take when the gateway stops, in seconds."""
ROOM = 64 * 1024
"""Bytes of the server's limit that are kept free for headers."""


@dataclass(slots=True)
class _Sent:
    position: int
    taken_at: float = 0.0


class NatsLine:
    """`start`, then `stop`. Until the server answers, its pool's tasks stay where they are."""

    def __init__(self, settings: NatsQueue, bridge: Bridge, discovery: Discovery, assignments: Assignments, silent_s: float) -> None:
        self._settings = settings
        self._bridge = bridge
        self._discovery = discovery
        self._assignments = assignments
        self._silent_s = silent_s
        self._serving: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; waits for nobody."""
        name = f"stepmesh gateway stream {self._settings.stream}"
        self._serving = asyncio.get_running_loop().create_task(self._serve(), name=name)

    async def stop(self) -> None:
        """Take back what nobody took. Idempotent."""
        serving, self._serving = self._serving, None
        if serving is not None:
            serving.cancel()
            await asyncio.wait([serving])

    async def _serve(self) -> None:
        pause, most = RETRY_S
        while True:
            try:
                await self._session()
            except BrokerError as problem:
                log.warning("tasks of pool %s wait: %s", self._settings.pool, problem)
            except GatewayStops:
                return
            except Exception:
                defect(f"the work queue of pool {self._settings.pool}")  # its tasks wait, and it is tried again
            await asyncio.sleep(pause)
            pause = min(2 * pause, most)

    async def _session(self) -> None:
        """Until it is cancelled. Raises `BrokerError`, `GatewayStops`."""
        from stepmesh_broker.nats import WorkQueue  # late: a gateway without such a plugin pays nothing for it

        settings = self._settings
        queue = WorkQueue(settings.url, settings.stream)
        await queue.open()
        try:
            await queue.clear()  # what a predecessor left there comes again, as its own copy
            session = _Session(queue, self._discovery, self._assignments)
            name = WorkerId(f"nats:{settings.stream}")
            hello = WorkerHello(name, settings.pool, WINDOW, "stepflow.v1", claims=True, queue=True, silent_s=self._silent_s)
            await session.run(await self._bridge.join(hello, session))
        finally:
            await queue.close()


class _Session:
    """`Line` to one connection's stream."""

    def __init__(self, queue: WorkQueue, discovery: Discovery, assignments: Assignments) -> None:
        self._queue = queue
        self._discovery = discovery
        self._assignments = assignments
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Assigned] = deque()
        self._unwanted: deque[TaskId] = deque()
        self._sent: dict[TaskId, _Sent] = {}
        self._change = asyncio.Event()

    # --- what the bridge says -----------------------------------------------------------------------------------

    def send(self, assigned: Sequence[Assigned]) -> None:
        """See `Line`."""
        self._waiting.extend(assigned)
        self._change.set()

    def stop(self, task: TaskId, why: Why) -> None:
        """A worker that has begun it hears of it with its next heartbeat."""
        self._unwanted.append(task)
        self._change.set()

    def news(self, task: TaskId) -> None:
        """None of its workers has durable functions."""

    def ask(self, number: int, question: bytes) -> None:
        """Nor questions to one."""

    def recorded(self, tasks: Sequence[TaskId]) -> None:
        """The call that brought the result tells."""

    def drain(self) -> None:
        """Whoever runs the session ends it."""

    # --- what it does -------------------------------------------------------------------------------------------

    async def run(self, seat: Seat) -> None:
        """Until cancelled; the seat then only waits for what was begun."""
        try:
            async with asyncio.TaskGroup() as group:
                for work in (self._ask(seat), self._publish(seat), self._look(seat)):
                    group.create_task(work)
        except asyncio.CancelledError:
            seat.leave()
            await self._clear(seat)
            raise
        except BaseException:
            seat.lost()
            raise

    async def _ask(self, seat: Seat) -> None:
        """Which components there are: a question for whoever takes it, and again a while after it was taken."""
        while True:
            with self._discovery.asking(seat) as id:
                question = self._assignments.question(id).SerializeToString()
                position = await self._steadily(partial(self._queue.put, question))
                taken = False
                while not taken:
                    await asyncio.sleep(ASK_S)
                    taken = await self._steadily(self._queue.first) > position

    async def _publish(self, seat: Seat) -> None:
        """What the bridge sends, in order, and the removal of what nobody wants any more."""
        seat.allow(WINDOW)
        while True:
            self._change.clear()
            while self._unwanted:
                await self._take_back(seat, self._unwanted.popleft())
            while self._waiting:
                assigned = self._waiting.popleft()
                if assigned.id in seat.unclaimed:
                    await self._put(seat, assigned)
            if not self._unwanted:
                await self._change.wait()

    async def _put(self, seat: Seat, assigned: Assigned) -> None:
        message = self._assignments.message(assigned, seat, self._queue.max_message_bytes - ROOM)
        if message is not None:
            data = message.SerializeToString()
            self._sent[assigned.id] = _Sent(await self._steadily(lambda: self._queue.put(data)))

    async def _take_back(self, seat: Seat, task: TaskId) -> None:
        sent = self._sent.pop(task, None)
        if sent is not None:
            await self._steadily(lambda: self._queue.remove(sent.position))
        seat.reacted(task)

    async def _look(self, seat: Seat) -> None:
        """Send again what was taken by a worker that never began it."""
        while True:
            await asyncio.sleep(LOOK_S)
            for task in [task for task in self._sent if task not in seat.unclaimed]:
                del self._sent[task]
            if not self._sent:
                continue
            first, now = await self._steadily(self._queue.first), self._loop.time()
            for task, sent in [*self._sent.items()]:
                if sent.position < first:
                    sent.taken_at = sent.taken_at or now
                if sent.taken_at and now - sent.taken_at > TAKEN_S:
                    log.warning("task %s was taken from stream %s and not begun; it is sent again", task, self._queue.name)
                    del self._sent[task]
                    seat.give_back(task)

    async def _steadily(self, call: Callable[[], Awaitable[T]]) -> T:
        """Again and again while the server is away. Raises `BrokerError` for what will not get better."""
        pause, most = RETRY_S
        while True:
            try:
                return await call()
            except BrokerUnavailable as problem:
                log.info("stream %s: %s", self._queue.name, problem)
            await asyncio.sleep(pause)
            pause = min(2 * pause, most)

    async def _clear(self, seat: Seat) -> None:
        """What nobody took is taken back, so that it is not done here while others have it."""
        positions = [sent.position for task, sent in self._sent.items() if task in seat.unclaimed]
        try:
            async with asyncio.timeout(CLEAR_S):
                await asyncio.gather(*(self._queue.remove(position) for position in positions))
        except (BrokerError, TimeoutError) as problem:
            log.info("stream %s keeps tasks that nobody took: %s", self._queue.name, problem or "no answer in time")
