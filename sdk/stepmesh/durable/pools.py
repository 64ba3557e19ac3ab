"""A step that runs in a pool, as the component that a worker of the pool offers.

Invariant: the component's input is the object of bound arguments that the body journaled, and what a step raises means there what it means
in the worker of a body: `Fatal` is not tried again, `RetryAfter` is, after its time.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from inspect import Parameter
from typing import Any

from stepmesh import component
from stepmesh.component import Component
from stepmesh.durable.errors import Fatal, RetryAfter
from stepmesh.durable.steps import Step
from stepmesh.errors import ComponentError, RetryLater
from stepmesh_broker.protocol.messages import ErrorCode


def component_of(step: Step[..., Any]) -> Component:
    """Raises `BadComponent` when its parameters or their types do not work."""
    offered: Any = _translated(step.fn)
    parameters = [one.replace(kind=Parameter.KEYWORD_ONLY) if one.kind in _PLAIN else one for one in step.signature.parameters.values()]
    offered.__signature__ = step.signature.replace(parameters=parameters)
    return component.build(offered, step.path, step.name, timeout=step.timeout_s, heartbeat=step.heartbeat_s)


_PLAIN = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def _translated(function: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            try:
                return await function(*args, **kwargs)
            except (Fatal, RetryAfter) as problem:
                raise _component_error(problem) from problem

        return awaited

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (Fatal, RetryAfter) as problem:
            raise _component_error(problem) from problem

    return called


def _component_error(problem: Fatal | RetryAfter) -> ComponentError:
    if isinstance(problem, RetryAfter):
        return RetryLater(problem.after_s, str(problem))
    return ComponentError(str(problem), code=ErrorCode.WORKER_ERROR)
