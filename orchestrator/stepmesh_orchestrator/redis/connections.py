"""A few connections to one Redis server, or to a cluster, which is noticed when they are opened.

Invariant: nothing hangs: connecting, waiting for an answer and waiting for a free connection have limits. Nothing is sent twice, but in a
cluster, whose client tries again to find its nodes: each script must bear that. What an idle connection missed (a restart of the server) is
noticed before it is used. Must not know what is stored.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import NoScriptError, ReadOnlyError, ResponseError

from stepmesh_orchestrator.redis.faults import ERRORS
from stepmesh_orchestrator.redis.scripts import Script

log = logging.getLogger(__name__)

T = TypeVar("T")

CONNECT_S = 5.0
Value = bytes | str | int
Parts = tuple[Value, ...]


class RedisConnections:
    """At most `size` at a time; more calls than that wait. `translate` makes the caller's error out of one of
    redis-py. An answer that takes longer than `timeout_s` is an error."""

    def __init__(self, url: str, translate: Callable[[Exception], Exception], size: int, timeout_s: float) -> None:
        self._url = url
        self._translate = translate
        self._size = size
        self._timeout_s = timeout_s
        self._client: Redis | RedisCluster | None = None
        self._places = asyncio.Semaphore(size)  # a cluster's client refuses what finds no connection

    @property
    def is_cluster(self) -> bool:
        """Once it is open."""
        return isinstance(self._client, RedisCluster)

    async def open(self) -> None:
        """Connect, so that a wrong address shows now. Raises what `translate` makes of the failure."""
        if self._client is not None:
            return
        try:
            client = Redis.from_pool(BlockingConnectionPool.from_url(self._url, max_connections=self._size, **self._limits(0)))
            self._client = client
            await self._bounded(client.ping)
            if any(str(said.get("cluster_enabled")) == "1" for said in await self.info("cluster")):
                await client.aclose()
                self._client = RedisCluster.from_url(self._url, max_connections=2 * self._size, **self._limits(3))
                await self._bounded(self._client.initialize)
        except BaseException as error:
            await self.close()
            if isinstance(error, ERRORS):
                raise self._translate(error) from error
            raise

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def run(self, script: Script, keys: Parts, values: Parts) -> Any:
        """What the script answers; its keys lie in one slot."""
        answer, _ = await self._run(script, keys, values, 0)
        return answer

    async def run_on_replicas(self, script: Script, keys: Parts, values: Parts, replicas: int) -> tuple[Any, int]:
        """The same, and how many of `replicas` have it too, all in one round trip. Not for a cluster."""
        return await self._run(script, keys, values, replicas)

    async def command(self, *parts: Value) -> Any:
        """The answer to any command that has a key."""
        try:
            return await self._bounded(partial(self._opened().execute_command, *parts))
        except ERRORS as error:
            raise self._translate(error) from error

    async def info(self, section: str) -> list[Mapping[str, Any]]:
        """What the server says of itself, or each primary of a cluster; empty when this user may not ask."""
        return await self._asked("INFO", section)

    async def settings(self, *names: str) -> list[Mapping[str, Any]]:
        """The settings of these names, of the server or of each primary of a cluster; empty when this user may not ask, as on managed
        servers."""
        return await self._asked("CONFIG GET", *names)

    async def _asked(self, command: str, *names: str) -> list[Mapping[str, Any]]:
        client = self._opened()
        targets = [{"target_nodes": node} for node in client.get_primaries()] if isinstance(client, RedisCluster) else [{}]
        try:
            return [await self._bounded(partial(client.execute_command, command, *names, **target)) for target in targets]
        except ResponseError as refused:
            log.info("the server does not answer to %s: %s", command, refused)
            return []
        except ERRORS as error:
            raise self._translate(error) from error

    async def _run(self, script: Script, keys: Parts, values: Parts, replicas: int) -> tuple[Any, int]:
        try:
            try:
                return await self._bounded(partial(self._sent, ("EVALSHA", script.digest, len(keys), *keys, *values), replicas))
            except NoScriptError:  # the server was restarted, or it is another one now
                return await self._bounded(partial(self._sent, ("EVAL", script.text, len(keys), *keys, *values), replicas))
        except ERRORS as error:
            raise self._translate(error) from error

    async def _sent(self, parts: Parts, replicas: int) -> tuple[Any, int]:
        client = self._opened()
        if not replicas or isinstance(client, RedisCluster):
            return await client.execute_command(*parts), 0
        async with client.pipeline(transaction=False) as pipeline:  # waiting counts for the connection that wrote
            pipeline.execute_command(*parts)
            pipeline.execute_command("WAIT", replicas, int(self._timeout_s * 500))
            answer, confirmed = await pipeline.execute()
        return answer, confirmed

    async def _bounded(self, call: Callable[[], Awaitable[T]]) -> T:
        async with asyncio.timeout(CONNECT_S + 2 * self._timeout_s):
            try:
                async with self._places:
                    return await call()
            except ReadOnlyError:  # a replica by now: new connections may find the primary behind the same name
                if isinstance(self._client, Redis):
                    await self._client.connection_pool.disconnect(inuse_connections=False)
                raise

    def _opened(self) -> Redis | RedisCluster:
        if self._client is None:
            raise self._translate(NotConnected("it is closed: open it first"))
        return self._client

    def _limits(self, retries: int) -> dict[str, Any]:
        return {
            "protocol": 2,
            "retry": Retry(NoBackoff(), retries),
            "socket_timeout": self._timeout_s,
            "socket_connect_timeout": CONNECT_S,
        } | ({} if retries else {"timeout": self._timeout_s})
