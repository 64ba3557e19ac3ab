"""Runs tasks: what is ready, what is under way, how each ends.

Invariants: at most `concurrency` attempts hold a slot; each attempt is settled exactly once (with a result, or dropped);
whatever a component raises ends its own attempt only. Async components are driven by carriers (see stepping.py), sync ones
run in threads. This module must not know how results travel, how leases are got, or when the worker stops.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Protocol

from stepmesh import failures, outcome
from stepmesh.attempt import Attempt, Frame, Why
from stepmesh.component import Component, Components
from stepmesh.context import Context, Services, enter
from stepmesh.durable.live_bodies import MOST_BODIES, MOST_BYTES, LiveBodies
from stepmesh.durable.telling import Turns
from stepmesh.errors import StuckTask
from stepmesh.instrument import Instrument
from stepmesh.outcome import Outcome
from stepmesh.requests import Requests
from stepmesh.slots import Slots
from stepmesh.stepping import Adopted
from stepmesh_broker.protocol.messages import ErrorCode, Result

log = logging.getLogger("stepmesh.worker")

SLICE_S = 0.005
"""How long a carrier works before it lets the event loop look at sockets and timers, in seconds."""
PARKED_THREADS = 256
"""Threads beyond `concurrency`, for sync components that wait for sub-runs."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`payload_bytes`: largest output. `cancel_grace_s`: seconds from the stop signal until a task counts as stuck.
    `live_functions`, `live_bytes`: of durable functions that are kept alive while they wait, and their histories."""

    concurrency: int
    payload_bytes: int
    cancel_grace_s: float
    live_functions: int = MOST_BODIES
    live_bytes: int = MOST_BYTES


class Surroundings(Protocol):
    """What the worker does for its execution. `leaving`: set when it is to begin nothing more."""

    leaving: asyncio.Event

    def settled(self, attempt: Attempt, result: Result | None) -> None:
        """Take the end of an attempt: its result, or None when nobody wants one."""
        ...

    def ask(self, attempts: list[Attempt]) -> None:
        """Get leases for attempts of one partition; each has a slot reserved. See `Execution.granted` and `Execution.again`."""
        ...

    def changed(self) -> None:
        """There may be room for more frames."""
        ...

    def broken(self, problem: BaseException) -> None:
        """The machinery itself failed."""
        ...

    def turns(self) -> Turns | None:
        """The way for turns of durable functions; None where there is none."""
        ...


class Execution:
    """`ready`: attempts that wait for a slot, in order. `live`: attempts that suspended or run in a thread. `bodies`: of durable
    functions that idle."""

    def __init__(
        self, components: Components, limits: Limits, requests: Requests, around: Surroundings, instrument: Instrument | None
    ) -> None:
        self.ready: deque[Attempt] = deque()
        self.live: set[Attempt] = set()
        self.slots = Slots(limits.concurrency, self._freed)
        self.closed = False
        self.bodies = LiveBodies(limits.live_functions, limits.live_bytes)
        self.quick = False  # the newest task ended without suspending
        self._components = components
        self._limits = limits
        self._around = around
        self._instrument = instrument
        self._loop = asyncio.get_running_loop()
        self._services = Services(requests, self.slots.parked, self._loop, around.turns, self.bodies, around.leaving)
        self._threads = ThreadPoolExecutor(limits.concurrency + PARKED_THREADS, "stepmesh-component")
        self._carriers: set[asyncio.Task[None]] = set()
        self._carrying = False

    def accept(self, frame: Frame, claim_all: bool) -> None:
        """Take a frame's tasks. `claim_all`: each is claimed before it starts."""
        self.take([Attempt(task, frame, claim_all or task.claim_first) for task in frame.header.tasks])

    def take(self, attempts: Iterable[Attempt]) -> None:
        """Take attempts one by one, as a gateway sends them."""
        self.ready.extend(attempts)
        self.go()

    def granted(self, attempts: list[Attempt]) -> None:
        """These have their lease: they start before all others."""
        self.ready.extendleft(reversed(attempts))
        self.go()

    def again(self, attempts: list[Attempt]) -> None:
        """These must ask again."""
        self.ready.extend(attempts)
        self.go()

    def limit_payload(self, payload_bytes: int) -> None:
        """Whoever takes the results takes no larger ones than that."""
        self._limits = replace(self._limits, payload_bytes=min(payload_bytes, self._limits.payload_bytes))

    def busy(self) -> bool:
        """Whether tasks are about to start."""
        return bool(self.ready) and self.slots.free > 0

    def go(self) -> None:
        """Have a carrier start what can start."""
        if self.ready and self.slots.free > 0 and not self._carrying and not self.closed:
            self._carrying = True
            carrier = self._loop.create_task(self._carry(), name="stepmesh component")
            self._carriers.add(carrier)
            carrier.add_done_callback(self._carried)

    def _freed(self) -> None:
        self.go()
        self._around.changed()

    def stop(self, attempt: Attempt, why: Why) -> None:
        """Tell an attempt to stop. It is settled when it ended, or after the grace period; its slot is free when it ended."""
        if attempt.why is not None or attempt.settled:
            return
        attempt.why = why
        if not attempt.live:
            self._settle(attempt, None)
            return
        if attempt.timer is not None:
            attempt.timer.cancel()
        attempt.timer = self._loop.call_later(self._limits.cancel_grace_s, self._stuck, attempt)
        if attempt.stopped is not None:
            attempt.stopped.set()
        for unblock in tuple(attempt.blocked or ()):
            unblock()
        if attempt.runner is not None:
            attempt.runner.cancel()

    def give_up(self, attempt: Attempt) -> None:
        """Settle an attempt that was told to stop, without waiting for its end."""
        self._settle_stopped(attempt)

    def unreserve(self, attempts: list[Attempt]) -> None:
        """Give back the slots that were reserved while these asked."""
        self.slots.unreserve(len(attempts))

    def close(self) -> None:
        """Start nothing more; threads that still run are left to end by themselves."""
        self.closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.bodies.close()

    # --- carriers -----------------------------------------------------------------------------------------------

    async def _carry(self) -> None:
        """Start attempts one after the other; see one that suspends through to its end, while another carrier goes on."""
        carrier = asyncio.current_task()
        assert carrier is not None
        clock = self._loop.time
        until = clock() + SLICE_S
        while (attempt := self._next()) is not None:
            rest = self._start(attempt)
            self.quick = not attempt.live and rest is None
            if rest is not None:
                self._carrying = False
                self._hold(attempt, carrier)
                self.go()
                if not self.ready:
                    self._around.changed()  # more may be taken beside the one that waits
                await self._see_through(attempt, rest)
                if self._carrying or carrier.cancelling():
                    return
                self._carrying = True
            elif carrier.cancelling():  # the component cancelled the task that it ran in
                break
            if clock() > until:
                self._around.changed()
                await asyncio.sleep(0)
                until = clock() + SLICE_S
        self._carrying = False
        self._around.changed()

    def _carried(self, carrier: asyncio.Task[None]) -> None:
        self._carriers.discard(carrier)
        if not carrier.cancelled() and (problem := carrier.exception()) is not None:
            self._around.broken(problem)
        self.go()

    def _next(self) -> Attempt | None:
        while self.ready and self.slots.free > 0 and not self.closed:
            attempt = self.ready.popleft()
            if attempt.settled:
                continue
            if not self._needs_claim(attempt):
                return attempt
            self._ask_first(attempt)
        return None

    def _needs_claim(self, attempt: Attempt) -> bool:
        return attempt.claim_first or (not attempt.lease_s and attempt.frame.in_doubt(self._loop.time()))

    def _ask_first(self, first: Attempt) -> None:
        """Ask for the lease of `first`, and of what follows it and needs one from the same partition, as far as there are slots."""
        asking = [first]
        partition = first.frame.header.partition
        while self.ready and len(asking) < self.slots.free:
            follower = self.ready[0]
            if not self._needs_claim(follower) or follower.settled or follower.frame.header.partition != partition:
                break
            asking.append(self.ready.popleft())
        self.slots.reserve(len(asking))
        self._around.ask(asking)

    # --- one attempt --------------------------------------------------------------------------------------------

    def _start(self, attempt: Attempt) -> Adopted | None:
        """Run the attempt up to its first suspension. None when it ended or went to a thread, else the rest of it."""
        component = self._components.get(attempt.task.component) or self._matching(attempt)
        attempt.started_us = time.time_ns() // 1000
        attempt.started_ns = time.perf_counter_ns()
        if component is None:
            text = self._components.unknown(attempt.task.component)
            self._finish(attempt, Outcome(None, failures.of(ErrorCode.COMPONENT_NOT_FOUND, text)))
            return None
        attempt.component = component
        variables = copy_context()
        context = Context(attempt, self._services)
        if not component.is_async:
            self._hold(attempt, None)
            future = self._loop.run_in_executor(self._threads, lambda: variables.run(self._in_thread, attempt, component, context))
            future.add_done_callback(partial(self._thread_ended, attempt))
            return None
        try:
            step = variables.run(self._first_step, attempt, component, context)
        except BaseException as problem:
            self._finish(attempt, outcome.raised(problem))
            return None
        if isinstance(step, _Suspended):
            return Adopted(step.coroutine, step.yielded, variables)
        self._finish(attempt, outcome.returned(step, self._limits.payload_bytes))
        return None

    def _matching(self, attempt: Attempt) -> Component | None:
        found = self._components.match(attempt.task.component)
        if found is None:
            return None
        component, attempt.captured = found
        return component

    def _first_step(self, attempt: Attempt, component: Component, context: Context) -> Any:
        """What the component returned, or `_Suspended`."""
        enter(context)
        if self._instrument is not None:
            attempt.token = self._instrument.start(context)
        value = None if component.read is None else component.read(attempt.task.input)
        coroutine = component.invoke(value, context)
        try:
            return _Suspended(coroutine, coroutine.send(None))
        except StopIteration as stop:
            return stop.value

    def _in_thread(self, attempt: Attempt, component: Component, context: Context) -> Outcome:
        enter(context)
        try:
            if self._instrument is not None:
                attempt.token = self._instrument.start(context)
            value = None if component.read is None else component.read(attempt.task.input)
            return outcome.returned(component.invoke(value, context), self._limits.payload_bytes)
        except BaseException as problem:
            return outcome.raised(problem)

    def _thread_ended(self, attempt: Attempt, future: asyncio.Future[Outcome]) -> None:
        self._release(attempt)
        if future.cancelled():  # never started: the worker closed
            self._finish(attempt, Outcome(None, None))
        elif (problem := future.exception()) is not None:
            self._around.broken(problem)
        else:
            self._finish(attempt, future.result())
        self._around.changed()

    async def _see_through(self, attempt: Attempt, rest: Adopted) -> None:
        try:
            end = outcome.returned(await rest, self._limits.payload_bytes)
        except BaseException as problem:
            end = outcome.raised(problem)
        self._release(attempt)
        self._finish(attempt, end)

    # --- under way, and the end ---------------------------------------------------------------------------------

    def _hold(self, attempt: Attempt, runner: asyncio.Task[None] | None) -> None:
        attempt.live = True
        attempt.runner = runner
        attempt.started_at = self._loop.time()
        self.live.add(attempt)
        self.slots.hold(attempt)
        limit_s = attempt.limit_s()
        if limit_s is not None:
            attempt.timer = self._loop.call_later(limit_s, self.stop, attempt, Why.TIMEOUT)
        if attempt.component is not None and attempt.component.heartbeat_s is not None:
            attempt.heard_at = attempt.started_at
            self._listen(attempt, attempt.component.heartbeat_s)

    def _listen(self, attempt: Attempt, within_s: float) -> None:
        """End it when it is silent for so long; while it waits for sub-runs it may be."""
        now = self._loop.time()
        left = attempt.heard_at + within_s - now if attempt.holds_slot and not attempt.parked else within_s
        if left > 0:
            attempt.listener = self._loop.call_later(left, self._listen, attempt, within_s)
        else:
            self.stop(attempt, Why.SILENT)

    def _release(self, attempt: Attempt) -> None:
        attempt.live = False
        attempt.runner = None
        for timer in (attempt.timer, attempt.listener):
            if timer is not None:
                timer.cancel()
        self.live.discard(attempt)
        self.slots.release(attempt)

    def _finish(self, attempt: Attempt, end: Outcome) -> None:
        if attempt.why is not None:
            self._settle_stopped(attempt)
            return
        task = attempt.task
        took_us = (time.perf_counter_ns() - attempt.started_ns) // 1000
        self._settle(attempt, Result(task.run, task.item, task.step, task.attempt, end.output, end.failure, attempt.started_us, took_us))

    def _settle_stopped(self, attempt: Attempt) -> None:
        if attempt.why is Why.SILENT:
            end = outcome.silent(None if attempt.component is None else attempt.component.heartbeat_s)
        elif attempt.why is Why.TIMEOUT:
            end = outcome.timed_out(attempt.limit_s())
        else:
            self._settle(attempt, None)
            return
        task, failure = attempt.task, end.failure
        took_us = (time.perf_counter_ns() - attempt.started_ns) // 1000
        self._settle(attempt, Result(task.run, task.item, task.step, task.attempt, None, failure, attempt.started_us, took_us))

    def _settle(self, attempt: Attempt, result: Result | None) -> None:
        if attempt.settled:
            return
        attempt.settled = True
        if attempt.why is Why.LEAVING:
            attempt.frame.hand_back = True
        if self._instrument is not None and attempt.started_us:
            self._instrument.finish(attempt.token, result)
        self._around.settled(attempt, result)

    def _stuck(self, attempt: Attempt) -> None:
        task = attempt.task
        grace_s = self._limits.cancel_grace_s
        what = f"step {task.step_id} of run {task.run} (component {task.component}) goes on {grace_s:g} s after it was told to stop"
        log.error("%s", StuckTask(what, hint="look at context.cancelled in long loops; its slot is free again when it ends"))
        self._settle_stopped(attempt)


class _Suspended(NamedTuple):
    coroutine: Any
    yielded: Any
