"""A step: an ordinary function with side effects, whose result is journaled, and which is called like the function that it is.

Invariant: what stands in the journal are the arguments as they are bound to the signature, so that `f(1)` and `f(x=1)` are one. Where a
step runs (in the worker of the body, or as a component of a pool) is its own affair and no matter to a replay.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import typing
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar, cast

import msgspec

from stepmesh import payloads
from stepmesh.durable.arguments import Given, kept
from stepmesh.durable.attempts import Plan, in_step
from stepmesh.durable.callsite import here
from stepmesh.durable.durations import Duration, positive, seconds
from stepmesh.durable.errors import OutsideRun, StepFailed
from stepmesh.durable.execution import Execution, Settle, executing
from stepmesh.durable.limits import Limits
from stepmesh.durable.retrying import NEVER, Retry
from stepmesh.durable.values import journaled, same_again
from stepmesh_broker.protocol.histories import Kind, Settled

P = ParamSpec("P")
R = TypeVar("R")


class _Arguments(NamedTuple):
    """Of one call: by name, and as the function takes them."""

    values: dict[str, Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Step(Generic[P, R]):
    """`fn`: the function itself, for calls without a journal. `pool`: where it runs; "" = in the worker of the body. `timeout`: of one
    attempt; `heartbeat`: how long one may be silent. `path`: of the component that it is in its pool. `idempotent`: doing it again does no
    harm."""

    def __init__(
        self,
        fn: Callable[P, Awaitable[R] | R],
        name: str = "",
        pool: str = "",
        *,
        retry: Retry = NEVER,
        timeout: Duration | None = None,
        heartbeat: Duration | None = None,
        path: str = "",
        idempotent: bool = False,
    ) -> None:
        self.fn = fn
        self.name = name or str(getattr(fn, "__name__", "step"))
        self.pool = pool
        self.retry = retry
        self.timeout_s = None if timeout is None else seconds(timeout)
        self.heartbeat_s = None if heartbeat is None else positive(heartbeat)
        self.path = path or f"/{self.name}"
        self.idempotent = idempotent
        self._is_async = inspect.iscoroutinefunction(fn)
        self._options = options(retry, self.timeout_s)
        self.signature = inspect.signature(fn)
        self._names = _positional(self.signature)
        self._read = payloads.reader(returns(fn))
        functools.update_wrapper(self, fn)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Its result, from the journal or by doing it; it begins when it is awaited. Raises `StepFailed`, `OutsideRun`."""
        execution = running(f"the step `{self.name}`", f"to call the function by itself: `{self.name}.fn(…)`")
        named = self._named(args, kwargs)
        where = here(2)
        return execution.expecting(self._issued(execution, named, where), f"the step `{self.name}`", where)

    def _named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Arguments:
        if (
            self._names is not None and not kwargs and len(args) == len(self._names)
        ):  # most calls, and binding takes as long as the rest of a call
            return _Arguments(dict(zip(self._names, args, strict=True)), args, kwargs)
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return _Arguments(dict(bound.arguments), bound.args, bound.kwargs)

    async def _issued(self, execution: Execution, named: _Arguments, where: str) -> R:
        arguments = journaled(self.name, named.values, where, execution.limits.payload_bytes)
        settle = settling(self.name, self._read)
        if self.pool:
            called = f"/{self.pool}{self.path}"
            return cast(R, await execution.issue(Kind.CALL, called, arguments, settle, options=self._options, where=where))
        work = functools.partial(self._work, kept(named.args, named.kwargs), where, execution.limits)
        plan = Plan(work, self.retry, self.timeout_s, self._is_async, self.heartbeat_s, self.idempotent)
        return cast(R, await execution.issue(Kind.STEP, self.name, arguments, settle, plan=plan, options=self._options, where=where))

    def _work(self, given: Callable[[], Given], where: str, limits: Limits) -> Awaitable[bytes] | bytes:
        args, kwargs = given()
        done = self.fn(*args, **kwargs)
        if inspect.isawaitable(done):
            return self._awaited(done, where, limits)
        return self._result(done, where, limits)

    async def _awaited(self, done: Awaitable[R], where: str, limits: Limits) -> bytes:
        return self._result(await done, where, limits)

    def _result(self, value: Any, where: str, limits: Limits) -> bytes:
        data = journaled(self.name, value, where, limits.payload_bytes)
        if limits.round_trip:
            same_again(self.name, where, value, self._read(data))
        return data


def _positional(signature: inspect.Signature) -> tuple[str, ...] | None:
    """The names of its parameters, if each of them may be given by its place."""
    kinds = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    return tuple(signature.parameters) if all(one.kind in kinds for one in signature.parameters.values()) else None


def options(retry: Retry, timeout_s: float | None) -> bytes:
    """Of a command, as JSON; empty when there are none."""
    told: dict[str, Any] = {} if retry is NEVER else {"retry": retry.options()}
    if timeout_s is not None:
        told["timeout_ms"] = round(timeout_s * 1000)
    return msgspec.json.encode(told) if told else b""


def running(what: str, hint: str = "") -> Execution:
    """The body that runs now. Raises `OutsideRun` where none does."""
    execution = executing.get(None)
    if execution is None:
        raise OutsideRun.of(what, here(2), in_step=in_step.get(None) is not None, hint=hint)
    return execution


def settling(name: str, read: Callable[[bytes], Any]) -> Settle:
    """Into the future goes the value, or `StepFailed`; what reading the value raises, when it does not fit its type."""

    def settle(future: asyncio.Future[Any], record: Settled) -> None:
        if record.failure is not None:
            future.set_exception(StepFailed(name, record.attempt, record.failure))
            return
        try:
            future.set_result(read(record.value))
        except Exception as problem:
            future.set_exception(problem)

    return settle


def written(name: str, value: Any) -> bytes:
    """JSON text of what a body hands over. Raises `NotSerialisable`, `PayloadTooLarge`."""
    return journaled(name, value, here(2), running(f"`{name}`").limits.payload_bytes)


def returns(function: Callable[..., Any]) -> Any:
    """The type that it says it returns; any, when it does not say so."""
    try:
        return typing.get_type_hints(function, include_extras=True).get("return", Any)
    except NameError:  # a type of somewhere else: the value stays JSON-like data
        return Any
