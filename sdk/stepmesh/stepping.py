"""Drives a component's coroutine by hand, and adopts it into an asyncio task only when it suspends.

A Task per step costs more than a short step itself. So one *carrier* task sends each coroutine its first `None`; most end
there. One that suspends is `Adopted`: the carrier awaits the rest of it, and the worker starts another carrier for what is
still to do. The task that a component saw as `asyncio.current_task()` before it suspended is therefore the very task that
it runs in afterwards: `asyncio.timeout`, `TaskGroup`, anyio and cancellation work as in a task of its own.

The trade, in full: components that end *without ever suspending* share a carrier, one after the other. A task object that
such a component kept for after its end (`current_task()` as a dictionary key, a later `cancel()`) is not its own; a pending
`cancel()` of itself retires the carrier, so that it does not reach the next component. Context variables are each
component's own (PEP 567 context, entered anew at every step of the coroutine).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from contextvars import Context as Variables
from typing import Any


class Adopted:
    """The rest of a coroutine that was started by hand and then suspended.

    `yielded`: what it yielded (a future that an asyncio task must wait for, or None). `variables`: the context it runs in.
    """

    __slots__ = ("_coroutine", "_variables", "_yielded")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], yielded: Any, variables: Variables) -> None:
        self._coroutine = coroutine
        self._yielded = yielded
        self._variables = variables

    def __await__(self) -> Generator[Any, Any, Any]:
        """PEP 380 delegation, but with each step inside the coroutine's own context."""
        coroutine, run, yielded = self._coroutine, self._variables.run, self._yielded
        while True:
            step: Callable[[Any], Any]
            try:
                given = yield yielded
                step = coroutine.send
            except GeneratorExit:
                run(coroutine.close)
                raise
            except BaseException as thrown:
                given, step = thrown, coroutine.throw
            try:
                yielded = run(step, given)
            except StopIteration as stop:
                return stop.value
            finally:
                given = None  # a kept exception would keep its frames alive
