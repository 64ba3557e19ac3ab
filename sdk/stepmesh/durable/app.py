"""An app: workflows and steps by their names, and the decorators that declare them.

Invariant: a name stands for one thing within an app, and an app's name is the first part of its components' paths.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, Protocol, TypeVar, Unpack, overload

from stepmesh.component import Components
from stepmesh.durable.checkpoints import EACH
from stepmesh.durable.durations import Duration
from stepmesh.durable.errors import BadWorkflow
from stepmesh.durable.events import Event
from stepmesh.durable.flow_control import FlowControl
from stepmesh.durable.hosting import hosted
from stepmesh.durable.lifetimes import AS_LONG_AS_IT_TAKES, Lifetime, OnFailure
from stepmesh.durable.limits import USUAL, Limits
from stepmesh.durable.pools import component_of
from stepmesh.durable.retrying import NEVER, Retry
from stepmesh.durable.steps import Step
from stepmesh.durable.workflow import Guard, Workflow
from stepmesh.worker import Worker

P = ParamSpec("P")
R = TypeVar("R")
_NAME = re.compile(r"[A-Za-z0-9_.~-]+")


class DeclareStep(Protocol):
    """What `@app.step(…)` is: a decorator of an `async def`, or a `def`."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Step[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Step[P, R]: ...


class App:
    """`guard`: what becomes of workflows in which lint finds something: an error, a line in the log, or nothing."""

    Event = Event

    def __init__(self, name: str, *, guard: Guard = "error") -> None:
        _checked("app", name)
        self.name = name
        self.guard: Guard = guard
        self.steps: dict[str, Step[..., Any]] = {}
        self.workflows: dict[str, Workflow[..., Any]] = {}

    @overload
    def step(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Step[P, R]: ...
    @overload
    def step(self, function: Callable[P, R], /) -> Step[P, R]: ...
    @overload
    def step(
        self,
        /,
        *,
        name: str = "",
        retry: Retry = NEVER,
        timeout: Duration | None = None,
        heartbeat: Duration | None = None,
        pool: str = "",
        idempotent: bool = False,
    ) -> DeclareStep: ...
    def step(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str = "",
        retry: Retry = NEVER,
        timeout: Duration | None = None,
        heartbeat: Duration | None = None,
        pool: str = "",
        idempotent: bool = False,
    ) -> Any:
        """A function as a step: `@app.step` or `@app.step(retry=Retry(max=5), timeout="30s")`.

        `timeout`: of one attempt. `heartbeat`: one that does not call `wf.step().heartbeat()` for so long is ended. `pool`: the pool whose
        workers do it (`app.components(pool)` offers it there); without one it runs where the body runs. `idempotent`: doing it
        again with the same arguments does no harm, so its result may be journaled later (`checkpoint` of the workflow). Raises
        `BadWorkflow`, `BadDuration`."""

        def declare(given: Callable[..., Any]) -> Step[..., Any]:
            called = name or given.__name__
            made: Step[..., Any] = Step(
                given, called, pool, retry=retry, timeout=timeout, heartbeat=heartbeat, path=f"/{self.name}/{called}", idempotent=idempotent
            )
            self._add(self.steps, "step", made)
            return made

        return declare if function is None else declare(function)

    @overload
    def workflow(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...
    @overload
    def workflow(
        self,
        /,
        *,
        name: str = "",
        version: int | str = 1,
        guard: Guard | None = None,
        timeout: Duration | None = None,
        on_failure: OnFailure | None = None,
        checkpoint: str = EACH,
        **control: Unpack[FlowControl],
    ) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Workflow[P, R]]: ...
    def workflow(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str = "",
        version: int | str = 1,
        guard: Guard | None = None,
        timeout: Duration | None = None,
        on_failure: OnFailure | None = None,
        checkpoint: str = EACH,
        **control: Unpack[FlowControl],
    ) -> Any:
        """An `async def` as a workflow: `@app.workflow` or `@app.workflow(version=3)`. `timeout`, `on_failure`: see `Lifetime`.
        `checkpoint`: `"each"` result of a step is journaled before the body has it; `"batch:50ms"`: those of idempotent ones so long later
        at most. `control`: of its runs, see `FlowControl`. Raises `BadWorkflow`, `BadComponent`, `BadDuration`."""
        lifetime = AS_LONG_AS_IT_TAKES if timeout is None and on_failure is None else Lifetime(timeout, on_failure)

        def declare(given: Callable[..., Any]) -> Workflow[..., Any]:
            called = name or given.__name__
            path, guarded = f"/{self.name}/{called}", guard or self.guard
            made: Workflow[..., Any] = Workflow(
                given, path, called, version=version, guard=guarded, control=control, lifetime=lifetime, checkpoint=checkpoint
            )
            self._add(self.workflows, "workflow", made)
            return made

        return declare if function is None else declare(function)

    def worker(self, pool: str = "", *, limits: Limits = USUAL, **settings: Any) -> Worker:
        """A worker of a pool with what the app has for it. Without a pool: the one that has the app's name, with the workflows, so that a
        flow calls them by their paths. `settings`: as of `Worker`."""
        worker = Worker(pool or self.name, **settings)
        worker.include(self.components(pool, limits=limits))
        return worker

    def components(self, pool: str = "", *, limits: Limits = USUAL) -> Components:
        """The steps of a pool, for its workers: `worker.include(app.components("gpu"))`; without one the workflows, whose local steps need
        no offer."""
        offered = Components()
        if not pool:
            for workflow in self.workflows.values():
                offered.add(hosted(workflow, f"/{workflow.name}", limits))
            return offered
        for step in self.steps.values():
            if step.pool == pool:
                offered.add(component_of(step))
        return offered

    def _add(self, known: dict[str, Any], what: str, made: Step[..., Any] | Workflow[..., Any]) -> None:
        _checked(what, made.name)
        if made.name in {**self.steps, **self.workflows}:
            raise BadWorkflow(
                f"`{made.name}` is declared twice in the app `{self.name}`", hint=f'give one of them another name: `@app.{what}(name="…")`'
            )
        known[made.name] = made


def _checked(what: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise BadWorkflow(f"the {what} name {name!r} does not work", hint="letters, digits, '_', '-', '.' and '~'")
