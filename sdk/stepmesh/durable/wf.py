"""What the body of a workflow may ask for, beside its steps. Functions of the run that calls them: no object is handed around.

Invariant: each is a command with a name, or follows from the records that the body got; none asks the clock, the network or chance.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from random import Random
from typing import Any, NoReturn, TypeVar, overload
from uuid import UUID

import msgspec

from stepmesh import payloads
from stepmesh.durable.asking import query, update
from stepmesh.durable.callsite import here
from stepmesh.durable.concurrency import detach, first, map, shield, wait
from stepmesh.durable.durations import Duration, seconds
from stepmesh.durable.errors import Continued
from stepmesh.durable.events import promise, wait_for_event
from stepmesh.durable.execution import Execution, State, Turn
from stepmesh.durable.information import info, logger, step
from stepmesh.durable.notes import set, stream, tags
from stepmesh.durable.retrying import NEVER, Retry
from stepmesh.durable.sagas import saga
from stepmesh.durable.scopes import current
from stepmesh.durable.steps import Step, options, running, settling, written
from stepmesh.durable.values import journaled
from stepmesh.durable.workflow import Workflow
from stepmesh_broker.protocol.histories import Kind

__all__ = [
    "call",
    "child",
    "continue_as_new",
    "detach",
    "first",
    "info",
    "logger",
    "map",
    "now",
    "patched",
    "promise",
    "query",
    "random",
    "run",
    "saga",
    "set",
    "shield",
    "side_effect",
    "sleep",
    "sleep_until",
    "step",
    "stream",
    "tags",
    "update",
    "uuid",
    "wait",
    "wait_for_event",
]
T = TypeVar("T")
_decode = payloads.reader(Any)


def run(
    name: str,
    function: Callable[..., Awaitable[T] | T],
    *args: Any,
    retry: Retry = NEVER,
    timeout: Duration | None = None,
    **kwargs: Any,
) -> Coroutine[Any, Any, T]:
    """A function as a step, by this name, without declaring it. Raises `StepFailed`."""
    return Step(function, name, retry=retry, timeout=timeout)(*args, **kwargs)


@overload
def call(component: str, input: Any = None, *, retry: Retry = NEVER, timeout: Duration | None = None) -> Coroutine[Any, Any, Any]: ...
@overload
def call(
    component: Workflow[..., T], input: Any = None, *, retry: Retry = NEVER, timeout: Duration | None = None
) -> Coroutine[Any, Any, T]: ...
def call(
    component: str | Workflow[..., Any], input: Any = None, *, retry: Retry = NEVER, timeout: Duration | None = None
) -> Coroutine[Any, Any, Any]:
    """The output of a component of any pool, as a flow's step would have it, or of another workflow: by its path, or itself, and then
    with the type that it returns. It is a run of its own below this one. Raises `StepFailed`."""
    if isinstance(component, Workflow):
        return _sub(Kind.CALL, component.path, input, retry, timeout, component.read)
    return _sub(Kind.CALL, component, input, retry, timeout)


def child(flow: str, input: Any = None, *, retry: Retry = NEVER, timeout: Duration | None = None) -> Coroutine[Any, Any, Any]:
    """The result of a stored flow, which runs as a run of its own below this one: `flow://` and its id, or its name, `@` and the version
    that its document says; of several such the one that was stored last. Raises `StepFailed`."""
    return _sub(Kind.CHILD, flow, input, retry, timeout)


def _sub(
    kind: Kind, name: str, input: Any, retry: Retry, timeout: Duration | None, read: payloads.Reader = _decode
) -> Coroutine[Any, Any, Any]:
    execution, where = running(f"wf.{kind}({name!r})"), here(2)
    how = options(retry, None if timeout is None else seconds(timeout))

    async def issued() -> Any:
        arguments = journaled(name, input, where, execution.limits.payload_bytes)
        return await execution.issue(kind, name, arguments, settling(name, read), options=how, where=where)

    return execution.expecting(issued(), f"wf.{kind}({name!r})", where)


def sleep(duration: Duration, name: str = "sleep") -> Coroutine[Any, Any, None]:
    """Durable: to the month, over restarts, and without a worker that waits. Raises `BadDuration`."""
    execution, span, where = running("wf.sleep"), seconds(duration), here(2)
    return execution.expecting(_until(execution, lambda: execution.loop.time() + span, name, where), "wf.sleep", where)


def sleep_until(moment: datetime, name: str = "sleep") -> Coroutine[Any, Any, None]:
    """Until a moment; one without a time zone is UTC. At once when it is past."""
    execution, where = running("wf.sleep_until"), here(2)
    when = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return execution.expecting(_until(execution, lambda: when, name, where), "wf.sleep_until", where)


async def _until(execution: Execution, when: Callable[[], float], name: str, where: str) -> None:
    due = msgspec.json.encode({"due_ms": round(when() * 1000)})
    await execution.issue(Kind.TIMER, name, due, lambda future, _: future.set_result(None), where=where)


def now() -> datetime:
    """The time of the last record: it stands still while the body runs, and is the same in a replay."""
    return datetime.fromtimestamp(running("wf.now").loop.time(), UTC)


def random() -> Random:
    """A generator that gives the same numbers in a replay: seeded by the run and by what was drawn before in this task."""
    execution = running("wf.random")
    return Random(f"{execution.run}/{current.get().name('random')}")


def uuid() -> UUID:
    """A version 4 UUID, the same in a replay."""
    return UUID(int=random().getrandbits(128), version=4)


def side_effect(name: str, make: Callable[[], T]) -> T:
    """A small value that the body makes itself, once: `make` is not called in a replay. Anything that may fail or takes time is a step."""
    execution = running(f"wf.side_effect({name!r})")
    value: T = _decode(execution.effect(name, lambda: written(name, make())))
    return value


def patched(name: str) -> bool:
    """True where the new code is to run: in runs that have not got past this place on the old one."""
    return running(f"wf.patched({name!r})").patched(name)


def continue_as_new(input: Any = None) -> NoReturn:
    """End here, and begin anew with this input and an empty history. What is under way is given up; nothing is compensated."""
    execution = running("wf.continue_as_new")
    written("wf.continue_as_new", input)
    execution.stop(Turn(State.CONTINUED, value=input))
    raise Continued
