"""Waiting for what comes from outside: events by name and key, and promises that somebody settles who was given their token.

Invariant: an event is a value of JSON that fits its type; a token follows from the run and the command, so that a replay hands out the
same one. Where events are kept until somebody waits for them is the engine's affair.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any, Generic, Literal, Self, TypeVar

import msgspec

from stepmesh import payloads
from stepmesh.durable.callsite import here
from stepmesh.durable.durations import Duration, seconds
from stepmesh.durable.execution import Execution
from stepmesh.durable.steps import running, settling
from stepmesh_broker.protocol.histories import Kind

T = TypeVar("T")
Since = Literal["run-start"] | Duration | None
"""The oldest event that counts: since the run began, since so long ago, or any that is kept (None)."""
_reader = functools.cache(payloads.reader)


class Event(msgspec.Struct, kw_only=True):
    """What others send. Declare its fields in a subclass, whose name is the event's: `class Approval(Event): approved: bool`."""

    @classmethod
    def wait(cls, *, key: str = "", timeout: Duration | None = None, since: Since = "run-start") -> Coroutine[Any, Any, Self]:
        """The next one for `key`; one that came before the wait counts, once. Raises `TimeoutError`, and `InvalidInput` when its payload
        does not fit."""
        return wait_for_event(cls.__name__, key, timeout=timeout, since=since, type=cls)

    @classmethod
    async def subscribe(cls, *, key: str = "", timeout: Duration | None = None, since: Since = "run-start") -> AsyncGenerator[Self, None]:
        """One after the other, without end; `timeout` is for each."""
        while True:
            yield await cls.wait(key=key, timeout=timeout, since=since)


def wait_for_event(
    name: str, key: str = "", *, timeout: Duration | None = None, since: Since = "run-start", type: Any = Any
) -> Coroutine[Any, Any, Any]:
    """The payload of the next event `name` for `key`, read as `type`. Raises `TimeoutError`, `InvalidInput`."""
    execution = running(f"waiting for {name}")
    where = here(2)
    arguments = msgspec.json.encode({"key": key})
    asked = functools.partial(
        execution.issue, Kind.EVENT, name, arguments, settling(name, _reader(type)), options=_since(since, execution), where=where
    )
    return execution.expecting(_within(asked, timeout, f"no {name} for {key!r}"), f"the wait for {name}", where)


async def _within(ask: Callable[[], asyncio.Future[T]], timeout: Duration | None, what: str) -> T:
    limit = asyncio.timeout(None if timeout is None else seconds(timeout))
    try:
        async with limit:
            return await ask()
    except TimeoutError:
        if not limit.expired():
            raise
        raise TimeoutError(f"{what} within {timeout}") from None


def _since(since: Since, execution: Execution) -> bytes:
    """Nothing said: since the run began, which the orchestrator knows better."""
    if since == "run-start":
        return b""
    since_ms = 0 if since is None else round((execution.loop.time() - seconds(since)) * 1000)
    return msgspec.json.encode({"since_ms": since_ms})


class Promise(Generic[T]):
    """A value that somebody gives who has the `token`. Await it as often as you like."""

    def __init__(self, token: str, future: asyncio.Future[T]) -> None:
        self.token = token
        self._future = future

    def __await__(self) -> Generator[Any, None, T]:
        return asyncio.shield(self._future).__await__()


def promise(type: Callable[..., T] | Any = Any, *, timeout: Duration | None = None) -> Promise[T]:
    """One whose value is read as `type`. It waits from now on: awaiting it raises `TimeoutError` when `timeout` is over."""
    execution = running("wf.promise")
    name = "promise" if type is Any else str(getattr(type, "__name__", type))
    limit_s = None if timeout is None else seconds(timeout)
    options = b"" if limit_s is None else msgspec.json.encode({"timeout_ms": round(limit_s * 1000)})
    id, future = execution.command(Kind.PROMISE, name, b"{}", settling(name, _reader(type)), options=options)
    if limit_s is not None:
        timer = execution.loop.call_later(limit_s, _expire, future, f"nobody settled {name} within {timeout}")
        future.add_done_callback(lambda _: timer.cancel())
    return Promise(execution.token_of(id), future)


def _expire(future: asyncio.Future[Any], text: str) -> None:
    if not future.done():
        future.set_exception(TimeoutError(text))
