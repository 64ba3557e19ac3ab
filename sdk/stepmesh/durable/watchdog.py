"""A body that computes instead of waiting, found while it does: the stack of the thread whose turn takes too much CPU time.

Invariant: CPU time counts, not time on the wall, so a machine that stands still or is shared accuses nobody. It can only tell: Python has
no way to stop what runs. It must not know what a body is for.
"""

from __future__ import annotations

import logging
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stepmesh.durable.identity import Identity
from stepmesh.durable.limits import Limits
from stepmesh_broker.errors import StepmeshError

log = logging.getLogger("stepmesh.durable")
_LOOK_S = 0.25
"""Seconds between two looks at bodies that run, or a quarter of the limit if that is less."""
_FRAMES = 8
_OURS = (str(Path(__file__).parent.parent), sysconfig.get_paths()["stdlib"])


class BodyBlocked(StepmeshError):
    """SM-1014: the body keeps the worker's loop to itself."""

    default_code = "SM-1014"


@dataclass
class Watch:
    """One turn. `blocked`: what was found."""

    identity: Identity
    limit_s: float
    thread: int
    clock: int
    began_s: float
    blocked: BodyBlocked | None = None

    def look(self) -> None:
        """From another thread."""
        try:
            spent = time.clock_gettime(self.clock) - self.began_s
        except OSError:  # the thread is gone
            return
        frame = sys._current_frames().get(self.thread)  # pyright: ignore[reportPrivateUsage]  # the documented way to another thread's stack
        if self.blocked is None and spent > self.limit_s and frame is not None:
            self.blocked = _told(self.identity, spent, traceback.extract_stack(frame))
            log.error("%s", self.blocked)


@contextmanager
def watched(identity: Identity, limits: Limits) -> Generator[Watch, None, None]:
    """Around a turn. A line in the log while it goes on, and what was found for whoever drives the body."""
    thread = threading.get_ident()
    clock = time.pthread_getcpuclockid(thread)
    watch = Watch(identity, limits.turn_cpu_s, thread, clock, time.clock_gettime(clock))
    if limits.guard != "off":
        _dog.watch(watch)
    try:
        yield watch
    finally:
        _dog.leave(watch)


class _Dog:
    """One thread per process, which sleeps while no body runs."""

    def __init__(self) -> None:
        self._watches: list[Watch] = []
        self._some = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, watch: Watch) -> None:
        self._watches.append(watch)
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._look, name="stepmesh-watchdog", daemon=True)
            self._thread.start()
        self._some.set()

    def leave(self, watch: Watch) -> None:
        if watch in self._watches:
            self._watches.remove(watch)

    def _look(self) -> None:
        pause = threading.Event()
        while True:
            self._some.wait()
            watches = list(self._watches)
            if not watches:
                self._some.clear()
                if self._watches:  # one came in between
                    self._some.set()
                continue
            pause.wait(min(_LOOK_S, *(watch.limit_s / 4 for watch in watches)))
            for watch in list(self._watches):
                watch.look()


_dog = _Dog()


def _told(identity: Identity, spent: float, stack: traceback.StackSummary) -> BodyBlocked:
    body = [frame for frame in stack if not frame.filename.startswith(_OURS) or "site-packages" in frame.filename] or list(stack)
    inner = body[-1]
    lines = "".join(f"\n    {Path(frame.filename).name}:{frame.lineno} in {frame.name}: {frame.line}" for frame in body[-_FRAMES:])
    return BodyBlocked(
        f"the body of run {identity} keeps the worker to itself: {spent:.1f} s of CPU time without an await, now at "
        f"{Path(inner.filename).name}:{inner.lineno}. Likely cause: a long computation or a synchronous call. It stands at{lines}\n ",
        hint='move it into a step: `await wf.run("name", function)`',
    )
