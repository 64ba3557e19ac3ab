"""The small surface: a workflow with an id, whose body takes `step`, `sleep` and `wait_for_event`, and needs to know nothing else.

Thin over `wf` and `App`: the same steps, timers and events, with names instead of decorators. Invariant: nothing happens here that a body
could not ask `wf` for.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from stepmesh.durable import wf
from stepmesh.durable.app import App
from stepmesh.durable.durations import Duration
from stepmesh.durable.errors import BadWorkflow
from stepmesh.durable.events import wait_for_event
from stepmesh.durable.retrying import NEVER, Retry
from stepmesh.durable.workflow import Workflow

T = TypeVar("T")
Body = Callable[..., Coroutine[Any, Any, Any]]
app = App("workflows")
"""The app of workflows for which none is named."""


class Steps:
    """`step` of a body."""

    def run(
        self, name: str, function: Callable[[], Awaitable[T] | T], *, retry: Retry = NEVER, timeout: Duration | None = None
    ) -> Coroutine[Any, Any, T]:
        """What `function` gives, once: it is not called again when the run is resumed. Raises `StepFailed`."""
        return wf.run(name, function, retry=retry, timeout=timeout)


def _sleep(name: str, duration: Duration) -> Coroutine[Any, Any, None]:
    return wf.sleep(duration, name)


def _wait_for_event(name: str, *, timeout: Duration | None = None, key: str = "") -> Coroutine[Any, Any, Any]:
    return wait_for_event(name, key, timeout=timeout)


_TOOLS: dict[str, Any] = {"step": Steps(), "sleep": _sleep, "wait_for_event": _wait_for_event}
"""What a body may take, by the name of its parameter. Another parameter takes the run's input."""


def workflow(id: str, *, version: int | str = 1, within: App = app) -> Callable[[Body], Workflow[..., Any]]:
    """`@workflow("my-workflow")` over `async def body(step, sleep, wait_for_event)`; a body names what it wants, and `input`."""
    return lambda body: create_workflow(id, body, version=version, within=within)


def create_workflow(id: str, body: Body, *, version: int | str = 1, within: App = app) -> Workflow[..., Any]:
    """A workflow of this body. Raises `BadWorkflow`."""
    if not inspect.iscoroutinefunction(body):
        raise BadWorkflow(f"the body of the workflow {id!r} is not an `async def`", hint="write `async def body(step, sleep):`")
    parameters = inspect.signature(body).parameters.values()
    tools = {one.name: _TOOLS[one.name] for one in parameters if one.name in _TOOLS}

    @functools.wraps(body)
    async def given(*args: Any, **kwargs: Any) -> Any:
        return await body(*args, **kwargs, **tools)

    rest = [one for one in parameters if one.name not in _TOOLS]
    made: Any = given
    made.__signature__ = inspect.signature(body).replace(parameters=rest)
    return within.workflow(name=id, version=version)(made)
