"""One connection to a NATS server: up or down, the life of the task stream, publishing until acknowledged.

Invariant: followers hear of every loss and every return of the connection, and acknowledgements are only sent to the life of
the task stream that they belong to. It must not know pools, partitions or what messages mean.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

import msgspec
from nats.aio.client import Server
from nats.errors import Error as NatsError
from nats.js.api import StreamInfo

from stepmesh_broker.errors import BrokerError, BrokerUnavailable
from stepmesh_broker.nats.release import check_release
from stepmesh_broker.nats.settings import NatsSettings
from stepmesh_broker.nats.streams import API_TIMEOUT_S, Refusal, Streams
from stepmesh_broker.nats.tasks import Life
from stepmesh_broker.nats.wire import Answer, Disconnected, Wire
from stepmesh_broker.protocol.ids import Pool, Position

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_SILENCE_S = 1.0
"""Without an answer for so long a publish is sent again in a cluster: what a node held is gone with it."""
_CLUSTER_LOOK_S = 0.1
"""How long a publish waits for word about a stream that nobody serves at present, before it asks again."""
_ID_IN_PROCESS = 10158
"""The message was sent before, and the cluster has not decided on it yet."""
_PING_INTERVAL_S = 10
_BACKOFF_S = (0.02, 2.0)
_RETRY_S = 0.05


class Follower(Protocol):
    """Something that works over the connection and must know when it was lost."""

    def disconnected(self) -> None:
        """The connection was lost."""
        ...

    def reconnected(self) -> None:
        """It is back, `Connection.life` is known again."""
        ...


class _PubAck(msgspec.Struct, gc=False):
    seq: int = 0
    error: Refusal | None = None


_decode_ack = msgspec.json.Decoder(_PubAck).decode


class Connection:
    """A nats-py client with JetStream. Use: `connect`, then anything, then `close`."""

    def __init__(self, settings: NatsSettings) -> None:
        self.settings = settings
        self.wire = Wire()
        self.streams = Streams(self.wire, settings)
        self.life = Life()
        self.followers: WeakSet[Follower] = WeakSet()
        self._making: dict[str, asyncio.Task[StreamInfo]] = {}
        self._born: datetime | None = None
        self._up = asyncio.Event()
        self._attempts = 0
        self._opened = self._closed = False

    async def connect(self) -> None:
        """Raises `BrokerUnavailable` when it does not succeed within `connect_timeout_s`, `BrokerError` SM-3042 for a server too old."""
        try:
            await self._dial()
            check_release(self.wire.release, self._where())
            await self._insist(self._learn_life, asyncio.get_running_loop().time() + self.settings.publish_timeout_s)
        except BaseException:
            await self.wire.close()
            raise
        self._opened = True
        self._up.set()

    async def close(self) -> None:
        """Flush, then disconnect."""
        if self._closed:
            return
        self._closed = True
        if self.wire.is_connected:
            await self.settle()
        self._up.clear()
        await self.wire.close()
        self.wire.forget()

    async def settle(self) -> None:
        """Wait until the server has seen all that was sent, unless the connection goes meanwhile."""
        try:
            await self.wire.flush(timeout=2)
        except (NatsError, OSError) as problem:
            _log.info("not flushed: %s", problem)

    def check(self) -> None:
        """Raises `BrokerUnavailable` when there is no connection now."""
        if not self._up.is_set():
            self._require_open()
            raise BrokerUnavailable(f"no connection to {self._where()} at present", hint="it comes back by itself once nats-server is up")

    async def steady(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """A call that may be made twice; it is, when the connection was lost meanwhile and is back within `publish_timeout_s`, or
        when a cluster cannot answer at present."""
        deadline = asyncio.get_running_loop().time() + self.settings.publish_timeout_s
        while True:
            await self._wait_up(deadline)
            try:
                return await self._insist(call, deadline)
            except BrokerUnavailable:
                if self._up.is_set():
                    raise

    async def join_pool(self, pool: Pool) -> None:
        """Make sure of the pool's consumer, and note in which life of the stream."""
        self._note_life((await self.streams.join_pool(pool)).created)

    async def publish(self, stream: str, subject: str, data: bytes, headers: bytes = b"") -> Position:
        """Returns the position once the server has the message. Raises `BrokerUnavailable` after `publish_timeout_s`."""
        deadline = asyncio.get_running_loop().time() + self.settings.publish_timeout_s
        while True:
            answer = await self._ask(subject, data, headers, deadline, _SILENCE_S if self.wire.in_cluster else math.inf)
            if answer is None:
                continue
            if answer.no_responders:
                await self._make(stream, deadline)
                continue
            ack = _decode_ack(answer.data)
            if ack.error is None:
                return Position(ack.seq)
            if not self._may_pass(ack.error) or asyncio.get_running_loop().time() > deadline:
                refused = BrokerUnavailable if ack.error.code >= 500 else BrokerError
                raise refused(f"{subject}: {ack.error.description}", hint=f"JetStream error {ack.error.err_code} of stream {stream}")
            await asyncio.sleep(_RETRY_S)

    async def request(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        """One question, one answer. Raises `BrokerUnavailable`."""
        answer = await self._ask(subject, data, b"", asyncio.get_running_loop().time() + timeout_s)
        if answer is None:
            raise BrokerUnavailable(f"the connection was lost while waiting for an answer on {subject}")
        if answer.no_responders:
            raise BrokerUnavailable(f"nobody serves {subject}")
        return answer.data

    async def _ask(self, subject: str, data: bytes, headers: bytes, deadline: float, patience_s: float = math.inf) -> Answer | None:
        """None when the connection was lost meanwhile, or nothing came for `patience_s`."""
        await self._wait_up(deadline)
        loop = asyncio.get_running_loop()
        try:
            return await self.wire.ask(subject, data, headers, min(deadline - loop.time(), patience_s))
        except Disconnected:
            return None
        except TimeoutError as problem:
            if loop.time() < deadline:
                return None
            raise BrokerUnavailable(f"no answer on {subject} in time from {self._where()}", hint="is nats-server up?") from problem

    def _may_pass(self, refusal: Refusal) -> bool:
        """Whether asking again may help: a cluster that looks for a leader refuses meanwhile."""
        return refusal.err_code == _ID_IN_PROCESS or (refusal.code >= 500 and self.wire.in_cluster)

    async def _insist(self, call: Callable[[], Awaitable[_T]], deadline: float) -> _T:
        while True:
            try:
                return await call()
            except BrokerUnavailable:
                if not (self.wire.in_cluster and self.wire.is_connected) or asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(_RETRY_S)

    async def _dial(self) -> None:
        """nats-py tries for ever and swallows a cancellation in places, so a limit on its attempts is what ends it."""
        dialling = asyncio.get_running_loop().create_task(self.wire.connect(**self._options()))
        try:
            await asyncio.wait([dialling], timeout=self.settings.connect_timeout_s)
            reason = self.wire.last_error
        finally:
            if not dialling.done():
                self.wire.options["max_reconnect_attempts"] = 1
                dialling.cancel()
                await asyncio.wait([dialling])
        problem = None if dialling.cancelled() else dialling.exception()
        if dialling.cancelled() or problem is not None:
            raise BrokerUnavailable(
                f"no connection to {self._where()}: {reason or problem or 'no answer'}",
                hint="is nats-server up, and are url and password right?",
            ) from problem

    async def _wait_up(self, deadline: float) -> None:
        if self._up.is_set():
            return
        self._require_open()
        try:
            async with asyncio.timeout_at(deadline):
                await self._up.wait()
        except TimeoutError as problem:
            raise BrokerUnavailable(f"no connection to {self._where()}", hint="is nats-server up?") from problem

    async def _make(self, stream: str, deadline: float) -> None:
        """Make a stream, once for all that miss it now. A cluster may take seconds to say that it has it."""
        making = self._making.get(stream)
        if making is None:
            making = self._making[stream] = asyncio.get_running_loop().create_task(self.streams.ensure(stream))
            making.add_done_callback(lambda made: (self._making.pop(stream), made.cancelled() or made.exception()))
        try:
            done, _ = await asyncio.wait({making}, timeout=_CLUSTER_LOOK_S if self.wire.in_cluster else None)
            for made in done:
                made.result()
        except BrokerUnavailable:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(_RETRY_S)

    def _require_open(self) -> None:
        if self._closed or not self._opened:
            raise BrokerUnavailable("this connection is not open", hint="call connect() first, and nothing after close()")

    def _options(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "servers": [settings.url] if isinstance(settings.url, str) else list(settings.url),
            "user": settings.user,
            "password": settings.password,
            "token": settings.token,
            "user_credentials": settings.credentials_file,
            "tls": settings.tls,
            "inbox_prefix": settings.inbox_prefix,
            "name": f"stepmesh {settings.namespace}",
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": _RETRY_S,
            "reconnect_to_server_handler": self._next_server,
            "ping_interval": _PING_INTERVAL_S,
            "connect_timeout": API_TIMEOUT_S,
            "disconnected_cb": self._disconnected,
            "reconnected_cb": self._reconnected,
            "error_cb": self._error,
        }

    def _next_server(self, servers: list[Server], _info: dict[str, Any]) -> tuple[Server, float]:
        """Round robin, for ever; the pause doubles from 20 ms to 2 s, of which a random half is taken off against stampedes."""
        first, most = _BACKOFF_S
        pause = min(most, first * 2 ** min(self._attempts, 10)) * random.uniform(0.5, 1)
        self._attempts += 1
        return servers[self._attempts % len(servers)], pause

    async def _disconnected(self) -> None:
        self._up.clear()
        self.life.reachable = False
        self.wire.forget()
        for follower in list(self.followers):
            follower.disconnected()
        if not self._closed:
            _log.warning("connection to %s lost, trying again", self._where())

    async def _reconnected(self) -> None:
        """Requests go at once; followers wait until a cluster that lost a node can say what became of the task stream."""
        self._attempts = 0
        self._up.set()
        while self.wire.is_connected:
            try:
                await self._learn_life()
            except BrokerError as problem:
                _log.warning("connected again, but: %s", problem)
                await asyncio.sleep(_RETRY_S)
                continue
            for follower in list(self.followers):
                follower.reconnected()
            _log.info("connection to %s is back", self._where())
            return

    async def _error(self, problem: Exception) -> None:
        _log.info("nats: %s", problem or type(problem).__name__)

    async def _learn_life(self) -> None:
        info = await self.streams.find(self.streams.tasks)
        self._note_life(info.created if info else None)

    def _note_life(self, born: datetime | None) -> None:
        if born == self._born:
            self.life.reachable = True
        else:
            self.life.reachable = False
            self.life = Life()
            self._born = born

    def _where(self) -> str:
        urls = (self.settings.url,) if isinstance(self.settings.url, str) else self.settings.url
        return ", ".join(url.rpartition("@")[2].removeprefix("nats://") for url in urls)
