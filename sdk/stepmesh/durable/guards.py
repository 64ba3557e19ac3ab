"""What a body must not do, caught where it does it: clocks, chance, files, sockets, processes, and waits without an order.

Functions of the standard library are put behind wrappers, once per process, that look whether a body runs; elsewhere they cost one look. An
audit hook sees the rest (it cannot be taken away again, so it too is set once). Neither sees `datetime.now()`, which is a method of a C
type, nor a function that was imported by name before: lint and replay do (docs/adr/0012).

Invariant: what is caught is told with file and line, as an error in the body or as a warning in the log, as the worker wants it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import os
import random
import secrets
import sys
import time
import uuid
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any, Literal

from stepmesh.durable.callsite import here
from stepmesh.durable.loop import ReplayLoop
from stepmesh_broker.errors import StepmeshError

log = logging.getLogger("stepmesh.durable")
Policy = Literal["error", "warn", "off"]
_CLOCKS = ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns")
_CHANCE = (
    "random", "uniform", "randint", "randrange", "choice", "choices", "shuffle", "sample", "getrandbits", "randbytes",
    "gauss", "normalvariate", "triangular", "betavariate", "expovariate", "gammavariate", "lognormvariate",
    "vonmisesvariate", "paretovariate", "weibullvariate",
)  # fmt: skip
_SECRETS = ("token_bytes", "token_hex", "token_urlsafe", "randbelow", "randbits", "choice")
_EVENTS = {
    "open": "a file", "os.listdir": "a folder", "os.scandir": "a folder", "socket.connect": "the network", "socket.bind": "the network",
    "socket.getaddrinfo": "the network", "subprocess.Popen": "a process", "os.system": "a process", "os.exec": "a process",
    "os.posix_spawn": "a process", "sqlite3.connect": "a database",
}  # fmt: skip
"""What the audit hook looks at."""
_LIBRARY = ("logging", "asyncio", "importlib", "linecache", "tokenize", "traceback", "warnings")
"""Modules that read clocks and files for their own sake: a log line is not a decision."""


class Undetermined(StepmeshError):
    """SM-1010: a clock or chance was asked in a body; a replay would get another answer."""

    default_code = "SM-1010"


class Outward(StepmeshError):
    """SM-1011: a file, the network, a process or a database was used in a body; a replay would do it again."""

    default_code = "SM-1011"


class Unordered(StepmeshError):
    """SM-1013: a wait whose answer has no order."""

    default_code = "SM-1013"


def guarded() -> None:
    """Put the guards up, once per process."""
    global _up
    if _up:
        return
    _up = True
    for name in _CLOCKS:
        _wrap(time, name, Undetermined, "use wf.now()")
    _wrap(time, "sleep", Undetermined, "use `await wf.sleep(…)`")
    for name in _CHANCE:
        _wrap(random, name, Undetermined, "use wf.random()")
    for name in ("uuid1", "uuid4"):
        _wrap(uuid, name, Undetermined, "use wf.uuid()")
    _wrap(os, "urandom", Undetermined, "use wf.random()")
    for name in _SECRETS:
        _wrap(secrets, name, Undetermined, "make it in a step")
    _wrap(asyncio, "wait", Unordered, "use wf.wait(…), which keeps the order, or wf.first(…)")
    _wrap(asyncio, "as_completed", Unordered, "use wf.first(…), or wf.map(…)")
    sys.addaudithook(_audited)


_up = False


def _wrap(module: ModuleType, name: str, problem: type[StepmeshError], hint: str) -> None:
    original: Callable[..., Any] = getattr(module, name)
    called = f"{module.__name__}.{name}()"

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        loop = asyncio._get_running_loop()
        if type(loop) is ReplayLoop and not _is_library(inspect.currentframe()):
            why = "gives its answer in no order" if problem is Unordered else "changes on replay"
            _caught(loop, problem(f"`{called}` at {here(2)} {why}", hint=hint))
        return original(*args, **kwargs)

    setattr(module, name, wrapper)


def _audited(event: str, _: tuple[Any, ...]) -> None:
    what = _EVENTS.get(event)
    if what is None:
        return
    loop = asyncio._get_running_loop()
    if type(loop) is not ReplayLoop or _is_library(inspect.currentframe()):
        return
    _caught(loop, Outward(f"{what} is used in a workflow at {here(2)}", hint='move it into a step: `await wf.run("name", function)`'))


def _is_library(guard: FrameType | None) -> bool:
    """Whether it is such a module that called what stands in the frame `guard`."""
    caller = guard and guard.f_back
    return caller is not None and str(caller.f_globals.get("__name__", "")).partition(".")[0] in _LIBRARY


def _caught(loop: ReplayLoop, problem: StepmeshError) -> None:
    if loop.policy == "error":
        raise problem
    if loop.policy == "warn" and problem.message not in _told:
        _told.add(problem.message)
        log.warning("%s", problem)


_told: set[str] = set()
"""What was warned of: once for each place, however often its bodies are replayed."""
