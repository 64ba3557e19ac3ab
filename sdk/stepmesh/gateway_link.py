"""A session's link over a gateway: one stream at a time, opened again when it breaks, while tasks go on running.

Invariants: what has not started when a stream ends is dropped, because the gateway takes it back; what runs goes on, and the next stream
names it; a result is sent until it is recorded. The gateway claims, keeps frames and says hello on the worker's behalf.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable

from stepmesh import gateway_messages
from stepmesh.attempt import Attempt, Why
from stepmesh.departures import MESSAGE_RESULTS, Departures
from stepmesh.durable.telling import Turns
from stepmesh.gateway_messages import GatewayAttempt
from stepmesh.pace import Pace
from stepmesh.querying import answered, pages_over
from stepmesh.session import Identity, Session
from stepmesh_broker.errors import BrokerError, BrokerUnavailable
from stepmesh_broker.pb.stepmesh.v1 import worker_pb2 as pb
from stepmesh_broker.ports import TaskGateway, WorkStream
from stepmesh_broker.protocol.messages import Result

log = logging.getLogger("stepmesh.worker")

BACKOFF_S = (0.05, 2.0)
"""Pause before another stream is opened: first, and largest (seconds); it doubles while none is answered, and a random half of it is left
out, so that many workers do not come at once."""
LINGER_S = 0.002
"""How long results gather while more tasks are about to start, in seconds; with none they leave at once."""
BEAT_S = 1.0
"""How often progress is told and frames are looked at, at least, in seconds."""
WAITS_S = 1.0
"""A task that waits here for so long while all slots are taken goes back to the gateway, in seconds: another worker may have room."""
DRAIN_S = 1.5
"""How long tasks may still end on the stream of a gateway that goes away, in seconds; it claims what runs for more than one."""
UNRECORDED_BYTES = 64 * 1024 * 1024
"""With more than this unconfirmed no further tasks are asked for."""
_WHY = {pb.Stop.CANCELLED: Why.CANCELLED, pb.Stop.ELSEWHERE: Why.ELSEWHERE}


class GatewayLink:
    """`session.Link` over a gateway."""

    turns: Turns | None = None
    _session: Session
    _runner: asyncio.Task[None]

    def __init__(self, gateway: TaskGateway, identity: Identity) -> None:
        self._gateway = gateway
        self._identity = identity
        self._loop = asyncio.get_running_loop()
        self._out = Departures()
        self._held: dict[str, GatewayAttempt] = {}
        self._pace: Pace
        self._credit = 0  # granted on this stream and not used
        self._beat_s = BEAT_S
        self._room = 0  # of an answer to a question, in bytes
        self._drained_at = 0.0
        self._welcome = self._draining = self._leaving = self._finishing = self._abandoned = False

    async def open(self, session: Session) -> None:
        """Begin to connect."""
        self._session = session
        self._pace = Pace(session.limits.concurrency)
        self._runner = session.watch(self._keep_connected(), "stepmesh stream")
        session.watch(self._beat(), "stepmesh beat")

    def settled(self, attempt: Attempt, result: Result | None) -> None:
        """Send the result, or hand the task back when this worker leaves it."""
        assert isinstance(attempt, GatewayAttempt)
        self._held.pop(attempt.id, None)
        if self._abandoned:
            return
        if result is not None:
            self._pace.observe(result.duration_us)
            self._out.result(attempt.id, result)
        elif attempt.why is Why.LEAVING:
            self._out.hand_back(attempt.id)
        elif attempt.why is Why.IDLE:
            self._out.let_go(attempt.id)
        if self._finishing or self._draining:
            self._out.wake.set()

    def ask(self, attempts: list[Attempt]) -> None:
        """These may be with another worker by now, because this process stood still for long: hand them back."""
        for attempt in attempts:
            self._session.execution.stop(attempt, Why.LEAVING)
        self._session.execution.unreserve(attempts)

    def waiting(self) -> Iterable[Attempt]:
        """None: the gateway claims."""
        return ()

    def changed(self) -> None:
        """Ask for more tasks as soon as it is worth a message."""
        if self._wanted(worth_a_message=True):
            self._out.wake.set()

    def announce(self) -> None:
        """Say again who this is."""
        self._out.introduce(self._hello())

    async def take_no_more(self) -> None:
        """Tell the gateway; what it sends all the same is handed back."""
        self._leaving = True
        self._out.leave()

    async def flushed(self) -> None:
        """Everything is recorded, and the gateway has ended the stream."""
        self._finishing = True
        self._out.wake.set()
        await asyncio.wait([self._runner])

    def abandon(self) -> None:
        """Send no more."""
        self._abandoned = True
        if self.turns is not None:
            self.turns.close()

    async def close(self) -> None:
        """The stream is ended."""
        await asyncio.wait([self._runner])

    # --- one stream after the other -----------------------------------------------------------------------------

    async def _keep_connected(self) -> None:
        pause, most = BACKOFF_S
        elsewhere = False
        while not (self._finishing and self._out.empty and not self._held):
            stream = self._gateway.work(elsewhere)
            try:
                await self._converse(stream)
            except BrokerUnavailable as problem:
                log.warning("the stream of tasks from %s ended and is opened again: %s", stream.target, problem)
            finally:
                stream.cancel()
            elsewhere = self._draining or not self._welcome
            pause = BACKOFF_S[0] if self._welcome else min(pause * 2, most)
            self._disconnected()
            self._out.end()
            if not (self._finishing and self._out.empty):
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    async def _converse(self, stream: WorkStream) -> None:
        session = self._session
        self._out.begin(self._hello())
        self._credit = 0
        self._welcome = self._draining = False
        sender = session.watch(self._send(stream), "stepmesh stream sender")
        try:
            while (message := await stream.receive()) is not None:
                self._hear(message)
        finally:
            sender.cancel()
            await asyncio.wait([sender])

    def _hello(self) -> pb.Hello:
        running = [id for id, attempt in self._held.items() if attempt.live]
        room = self._gateway.max_message_bytes
        return gateway_messages.hello(self._identity, self._session.limits.concurrency, self._session.components, running, room)

    def _disconnected(self) -> None:
        self._credit = 0
        for attempt in tuple(self._held.values()):
            if not attempt.live:
                self._session.execution.stop(attempt, Why.LEAVING)

    async def _send(self, stream: WorkStream) -> None:
        out, busy = self._out, self._session.execution.busy
        try:
            while True:
                await out.wake.wait()
                if out.pending < MESSAGE_RESULTS and busy():
                    await asyncio.sleep(LINGER_S)
                credit = self._wanted(worth_a_message=out.pending > 0)
                message = out.next(credit)
                if message is not None:
                    self._credit += credit
                    await stream.send(message)
                    continue
                out.wake.clear()
                if self._over():
                    await stream.finish()
                    return
        except BrokerError as problem:
            log.info("the stream took no more: %s", problem)  # the receiver hears why

    def _over(self) -> bool:
        """Whether nothing more is to be said on this stream, now that everything was."""
        if self._draining:
            return not self._held or self._loop.time() >= self._drained_at
        return self._finishing and self._out.empty and not self._held

    # --- hearing ------------------------------------------------------------------------------------------------

    def _hear(self, message: pb.ToWorker) -> None:
        if message.HasField("welcome"):
            self._welcomed(message.welcome)
        if message.tasks:
            self._take(message.tasks)
        for id in message.recorded:
            self._out.recorded(id)
        for stop in message.stops:
            attempt = self._held.get(stop.id)
            if attempt is not None:
                self._session.execution.stop(attempt, _WHY.get(stop.reason, Why.CANCELLED))
        for id in message.news:
            self._nudge(self._held.get(id))
        for asked in message.questions:
            self._session.watch(self._answer(asked.number, asked.question), "stepmesh query")
        if message.drain:
            self._drain()
        if message.recorded:
            self._out.wake.set()

    async def _answer(self, number: int, question: bytes) -> None:
        pages = pages_over(self._gateway, self._identity.namespace, self._room)
        self._out.answer(number, await answered(self._session.components, question, self._room, pages))

    def _welcomed(self, welcome: pb.Welcome) -> None:
        self._welcome = True
        self._beat_s = min(BEAT_S, welcome.heartbeat_ms / 2000) if welcome.heartbeat_ms else BEAT_S
        if welcome.payload_bytes:
            self._session.execution.limit_payload(welcome.payload_bytes)
        self._pass_turns(welcome.turn_bytes)
        log.info("connected to gateway %s", welcome.gateway)

    def _pass_turns(self, message_bytes: int) -> None:
        """Of durable functions, through any gateway of the address. What there was for them while the stream was away, nobody told."""
        self._room = min(message_bytes, self._gateway.max_message_bytes)
        if message_bytes and self.turns is None:
            self.turns = Turns(self._gateway, self._identity.namespace, self._identity.worker)
        if message_bytes and self.turns is not None:
            self.turns.limit(message_bytes)
        for attempt in self._held.values():
            self._nudge(attempt)

    def _nudge(self, attempt: Attempt | None) -> None:
        """There may be records for it."""
        if attempt is not None and attempt.news is not None:
            attempt.news.set()

    def _take(self, tasks: Iterable[pb.Task]) -> None:
        came = gateway_messages.attempts_of(tasks, self._identity, self._loop.time())
        self._credit = max(0, self._credit - len(came))
        taken = [attempt for attempt in came if attempt.id not in self._held]
        if self._leaving or self._draining:
            for attempt in taken:
                self._out.hand_back(attempt.id)
            return
        self._held.update({attempt.id: attempt for attempt in taken})
        self._session.execution.take(taken)

    def _drain(self) -> None:
        """The gateway goes away: what has not started goes back to it, and what ends soon is sent. What runs longer is claimed by then:
        it is the next stream's."""
        self._draining = True
        self._drained_at = self._loop.time() + DRAIN_S
        self._loop.call_later(DRAIN_S, self._out.wake.set)
        for attempt in tuple(self._held.values()):
            if not attempt.live:
                self._session.execution.stop(attempt, Why.LEAVING)
        self._out.wake.set()

    # --- credit and signs of life -------------------------------------------------------------------------------

    def _wanted(self, worth_a_message: bool) -> int:
        """How many more tasks to ask for. Alone a request is worth a message when it fills at least half of the room."""
        if not self._welcome or self._leaving or self._draining or self._out.unrecorded_bytes > UNRECORDED_BYTES:
            return 0
        execution = self._session.execution
        room = execution.slots.free + self._pace.ahead(execution.quick)
        wanted = room - len(execution.ready) - self._credit
        return wanted if wanted > 0 and (not worth_a_message or 2 * wanted >= room) else 0

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._beat_s)
            now, execution = self._loop.time(), self._session.execution
            if not self._welcome:
                continue
            for attempt in tuple(self._held.values()):
                attempt.frame.keep(now)
                if not attempt.live and execution.slots.free <= 0 and now - attempt.came_at > WAITS_S:
                    execution.stop(attempt, Why.LEAVING)
            self._out.beat([told for attempt in self._held.values() if (told := _news(attempt)) is not None])


def _news(attempt: GatewayAttempt) -> pb.Progress | None:
    """The attempt's progress, if it changed since it was told."""
    if not attempt.live or attempt.told == (attempt.progress, attempt.details):
        return None
    attempt.told = (attempt.progress, attempt.details)
    return pb.Progress(id=attempt.id, fraction=attempt.progress, details=attempt.details or b"")
