"""A step: an ordinary function with side effects, whose result is journaled, and which is called like the function that it is.

Invariant: what stands in the journal are the arguments as they are bound to the signature, so that `f(1)` and `f(x=1)` are one. Where a
step runs (in the worker of the body, or as a component of a pool) is its own affair and no matter to a replay.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import typing
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Generic, ParamSpec, TypeVar, cast

from stepmesh import payloads
from stepmesh.durable.callsite import here
from stepmesh.durable.errors import OutsideRun, StepFailed
from stepmesh.durable.execution import Execution, Settle, executing
from stepmesh.durable.values import NotSerialisable
from stepmesh_broker.protocol.histories import Kind, Settled

P = ParamSpec("P")
R = TypeVar("R")
in_step: ContextVar[str] = ContextVar("stepmesh_step")
"""The id of the local step that runs; unset elsewhere."""


class Step(Generic[P, R]):
    """`fn`: the function itself, for calls without a journal. `pool`: where it runs; "" = in the worker of the body."""

    def __init__(self, fn: Callable[P, Awaitable[R] | R], name: str = "", pool: str = "") -> None:
        self.fn = fn
        self.name = name or str(getattr(fn, "__name__", "step"))
        self.pool = pool
        self._signature = inspect.signature(fn)
        self._read = payloads.reader(_returns(fn))
        functools.update_wrapper(self, fn)

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Its result, from the journal or by doing it. Raises `StepFailed`, `OutsideRun`."""
        execution = running(f"the step `{self.name}`", f"to call the function by itself: `{self.name}.fn(…)`")
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = written(self.name, dict(bound.arguments))
        settle = settling(self.name, self._read)
        if self.pool:
            return cast(R, await execution.issue(Kind.CALL, f"/{self.pool}/{self.name}", arguments, settle))

        async def work() -> bytes:
            done = self.fn(*bound.args, **bound.kwargs)
            return written(self.name, await done if inspect.isawaitable(done) else done)

        return cast(R, await execution.issue(Kind.STEP, self.name, arguments, settle, work=work))


def running(what: str, hint: str = "") -> Execution:
    """The body that runs now. Raises `OutsideRun` where none does."""
    execution = executing.get(None)
    if execution is None:
        raise OutsideRun.of(what, here(2), in_step=in_step.get(None) is not None, hint=hint)
    return execution


def settling(name: str, read: Callable[[bytes], Any]) -> Settle:
    """Into the future goes the value, or `StepFailed`."""

    def settle(future: asyncio.Future[Any], record: Settled) -> None:
        if record.failure is not None:
            future.set_exception(StepFailed(name, record.attempt, record.failure))
        else:
            future.set_result(read(record.value))

    return settle


def written(name: str, value: Any) -> bytes:
    """JSON text. Raises `NotSerialisable`."""
    try:
        return payloads.write(value)
    except payloads.NotJson as problem:
        raise NotSerialisable.of(name, problem, here(2)) from problem


def _returns(function: Callable[..., Any]) -> Any:
    try:
        return typing.get_type_hints(function, include_extras=True).get("return", Any)
    except NameError:  # a type of somewhere else: the value stays JSON-like data
        return Any
