"""An asyncio event loop that runs one body to quiescence and no further: no sockets, no threads, no clock of its own.

Invariants: time stands still while the body runs, and is that of the last record that it was given; a timer is a command to whoever drives
the loop; every task gets a scope of its own (scopes.py). Nothing runs but in `drain`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
from asyncio import events
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from contextvars import Context, copy_context
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, TypeVarTuple

from stepmesh.durable.callsite import here
from stepmesh.durable.scopes import Scope, current
from stepmesh_broker.errors import StepmeshError

log = logging.getLogger("stepmesh.durable")
T = TypeVar("T")
_Ts = TypeVarTuple("_Ts")
OnTimer = Callable[["Timer"], None]


class LoopForbidden(StepmeshError):
    """SM-1012: threads, executors, sockets and processes have no place in a body."""

    default_code = "SM-1012"


class SwallowedEnd(StepmeshError):
    """SM-1015: a body that was put away, or that diverged, catches what ends it, or asks for something on its way out."""

    default_code = "SM-1015"

    @classmethod
    def of_body(cls, coroutine: Any) -> SwallowedEnd:
        """No closing ends it."""
        code = coroutine.cr_code
        where = f"{Path(code.co_filename).name}:{code.co_firstlineno}"
        return cls(
            f"`{coroutine.__qualname__}` ({where}) catches what puts it away", hint="catch StepFailed or Exception, not BaseException"
        )

    @classmethod
    def of_command(cls, what: str, where: str, run: str) -> SwallowedEnd:
        """`what` is asked for by a body that runs no more here."""
        return cls(
            f"{what} at {where} is asked for while run {run} is put away, and is not done: it stands in an `except:` or `finally:`",
            hint="catch StepFailed or Exception, and clean up in `async with wf.saga():` or `wf.shield():`",
        )


class Timer(asyncio.TimerHandle):
    """A moment that a body waits for. `scope` is that of the task which asked; `on_cancel` is told when it waits no more. `name`: `sleep`
    of `asyncio.sleep`, `timer` of everything else."""

    __slots__ = ("name", "on_cancel", "scope")

    def __init__(
        self, when: float, callback: Callable[..., object], args: tuple[Any, ...], loop: ReplayLoop, context: Context | None
    ) -> None:
        context = context or copy_context()
        super().__init__(when, callback, args, loop, context)
        self.scope: Scope | None = context.get(current)
        self.on_cancel: Callable[[], None] = _nothing
        self.name = "sleep" if getattr(callback, "__name__", "") == "_set_result_unless_cancelled" else "timer"

    def cancel(self) -> None:
        """It is waited for no more."""
        if not self.cancelled():
            self.on_cancel()
        super().cancel()


def _nothing() -> None:
    pass


def _unheard(_: Timer) -> None:
    pass


def _untold(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    pass


def unlink(future: asyncio.Future[Any] | None) -> None:
    """Nobody hears of its end, and so it holds nobody."""
    if future is not None:
        for callback, *_ in list(future._callbacks or ()):
            future.remove_done_callback(callback)


class ReplayLoop(asyncio.BaseEventLoop):
    """`on_timer` hears of every timer that is set; `now`: seconds since 1970, as journaled. `policy`: what becomes of a body that asks
    something which a replay would answer otherwise (guards.py)."""

    def __init__(self, on_timer: OnTimer, on_trouble: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self.policy: Literal["error", "warn", "off"] = "error"
        self._on_timer = on_timer
        self._todo: deque[asyncio.Handle] = deque()
        self._halted = False
        self._contexts: dict[asyncio.Task[Any], Context] = {}
        self.now = 0.0
        self.set_task_factory(self._scoped)
        self.set_exception_handler(lambda _, context: on_trouble(context))

    def drain(self) -> None:
        """Run what is ready, and what that makes ready, until nothing is, or `halt`. May be called inside another running loop."""
        self.within(self._drained)

    def _drained(self) -> None:
        todo = self._todo
        while todo and not self._halted:
            handle = todo.popleft()
            if not handle.cancelled():
                handle._run()

    def halt(self) -> None:
        """Run nothing more, ever: what is left of the body stays where it is."""
        self._halted = True

    @property
    def halted(self) -> bool:
        """Whether `halt` was called."""
        return self._halted

    def time(self) -> float:
        """Of the last record, in seconds since 1970."""
        return self.now

    def call_soon(self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None) -> asyncio.Handle:
        """In this drain."""
        handle = asyncio.Handle(callback, args, self, context)
        self._todo.append(handle)
        return handle

    def call_at(self, when: float, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None) -> asyncio.TimerHandle:
        """A durable timer."""
        timer = Timer(when, callback, args, self, context)
        self._on_timer(timer)
        return timer

    def call_later(
        self, delay: float, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """A durable timer, from the time of the last record on."""
        return self.call_at(self.now + delay, callback, *args, context=context)

    def fire(self, timer: Timer) -> None:
        """The moment has come."""
        if not timer.cancelled():
            self._todo.append(timer)

    def within(self, ask: Callable[[], T]) -> T:
        """Call it as the body would be called, so that guards see it; nothing else runs meanwhile."""
        return _with_loop(self, ask)

    def outside(self, make: Callable[[], T]) -> T:
        """Call it as what a replay does not do again: it may ask clocks and chance."""
        return _with_loop(None, make)

    def alive(self) -> list[asyncio.Task[Any]]:
        """Tasks that are not done, in the order in which they were made."""
        return [task for task in self._contexts if not task.done()]

    def abandon(self) -> None:
        """Close what is left of the body; `halt` came before. Each coroutine ends within the context of its task: what its `finally` blocks
        ask for finds the body that it belongs to, and waits there for ever. Then task and future let go of each other, so that no collector
        is needed: a worker puts away thousands, and its collector seldom comes."""
        left = [(task, context) for task, context in self._contexts.items() if not task.done()]
        for task, context in left:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is not lost, it is in the journal
            context.run(_close, task.get_coro())
        for task, _ in left:
            unlink(task)
            unlink(task._fut_waiter)  # type: ignore[attr-defined]  # what it waits for, and what is to wake it
        self._contexts.clear()
        self._todo.clear()
        self._on_timer = _unheard
        self.set_exception_handler(_untold)
        self.set_task_factory(None)
        self.close()

    def _scoped(self, loop: asyncio.AbstractEventLoop, coroutine: Any, *, context: Context | None = None) -> asyncio.Task[Any]:
        """A task whose context has a scope of its own, numbered where it was made."""
        parent = current.get(None)
        context = copy_context() if context is None else context.copy()
        context.run(current.set, Scope() if parent is None else parent.child())
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, context=context)
        self._contexts[task] = context
        task.add_done_callback(self._contexts.pop)
        return task

    def get_debug(self) -> bool:
        """Never: debug mode asks the real clock."""
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Nothing is kept here."""

    def _write_to_self(self) -> None:
        """Nobody sleeps."""


def _with_loop(loop: asyncio.AbstractEventLoop | None, call: Callable[[], T]) -> T:
    outer, hooks = events._get_running_loop(), sys.get_asyncgen_hooks()
    events._set_running_loop(loop)
    if loop is not None:
        sys.set_asyncgen_hooks(None, _forget)  # else those of a body would be the outer loop's, which ends them in tasks of its own
    try:
        return call()
    finally:
        events._set_running_loop(outer)
        sys.set_asyncgen_hooks(*hooks)


def _forget(generator: AsyncGenerator[Any, Any]) -> None:
    """Nobody has it any more: it is closed like a body that is put away, and waits for nothing."""
    with suppress(BaseException):
        generator.aclose().send(None)


def _close(coroutine: Any) -> None:
    for _ in range(_CLOSINGS):
        with suppress(BaseException):  # whatever a finally block raises is nobody's any more
            coroutine.close()
        if inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED:
            return
    _stubborn.append(coroutine)
    log.warning("%s", SwallowedEnd.of_body(coroutine))


_CLOSINGS = 8
"""One for each `finally` that waits for something, and some more."""
_stubborn: list[Any] = []
"""Bodies that no closing ends. Kept: the collector would close them anew, in no context, and they would spin."""
_FORBIDDEN = {
    "threads": ("call_soon_threadsafe", "run_in_executor", "set_default_executor"),
    "the network": (
        "add_reader", "add_writer", "remove_reader", "remove_writer", "getaddrinfo", "getnameinfo", "create_connection", "create_server",
        "create_datagram_endpoint", "create_unix_connection", "create_unix_server", "connect_accepted_socket", "start_tls", "sock_recv",
        "sock_recv_into", "sock_sendall", "sock_connect", "sock_accept", "sock_sendfile", "sendfile", "connect_read_pipe",
        "connect_write_pipe",
    ),
    "processes": ("subprocess_exec", "subprocess_shell", "add_signal_handler", "remove_signal_handler"),
    "a loop within the loop": ("run_forever", "run_until_complete"),
}  # fmt: skip
"""What of an event loop has no place in a body."""


def _forbid(method: str, what: str) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise LoopForbidden(
            f"{what}: {method} is not available in a workflow ({here(2)})",
            hint='move it into a step: `await wf.run("name", function)`',
        )

    setattr(ReplayLoop, method, refuse)


for _what, _methods in _FORBIDDEN.items():
    for _method in _methods:
        _forbid(_method, _what)
