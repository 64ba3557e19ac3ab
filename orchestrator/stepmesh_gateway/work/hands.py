"""Everything that this gateway has in hand, whoever is to run it: leases, time limits, the way home of results.

Invariants: an attempt is here once, and settled exactly once (with a result, dropped, or given back), which settles its part of its
frame; a frame is acknowledged only when every result is durable. This module must not know pools or how tasks are spread.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from stepmesh import outcome
from stepmesh.attempt import Frame, Why
from stepmesh.control import Control
from stepmesh.leases import Leases, Timing
from stepmesh.outbox import Outbox
from stepmesh_broker.ports import Broker
from stepmesh_broker.protocol.ids import Namespace, WorkerId
from stepmesh_broker.protocol.messages import Failure, Result, Task, TaskRef
from stepmesh_gateway.identity import TaskId
from stepmesh_gateway.work.held import Held, without_frame

if TYPE_CHECKING:
    from stepmesh_gateway.work.seat import Seat

log = logging.getLogger("stepmesh.gateway")

COPIES = 1 << 30
"""A gateway's first copy number is below this, by chance: see `TaskId`."""


class Hands:
    """`live`: attempts that a worker has begun; their leases are kept. `payload_bytes`: the largest output."""

    def __init__(
        self,
        broker: Broker,
        namespace: Namespace,
        gateway: WorkerId,
        payload_bytes: int,
        timing: Timing,
        on_broken: Callable[[BaseException], None],
    ) -> None:
        self.by_ref: dict[TaskRef, Held] = {}
        self.live: set[Held] = set()
        self.namespace = namespace
        self.control = Control(broker, namespace, timing.control_timeout)
        self.outbox = Outbox(broker, gateway, lambda: False, self._frame_settled, on_broken)
        self.leases: Leases[Held] = Leases(self.control, _holder, self, timing, on_broken)
        self.payload_bytes = min(payload_bytes, broker.max_message_bytes - 4096)
        self._first_copy = secrets.randbelow(COPIES)
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()

    # --- coming and going ---------------------------------------------------------------------------------------

    def take(self, task: Task, frame: Frame, claim_first: bool) -> Held | None:
        """A task of a frame that came; None when a copy of it is here already (this one is dropped then)."""
        id = TaskId.of(task, frame.header, self._first_copy)
        if id.ref in self.by_ref:
            self.outbox.put(frame, None)
            return None
        held = self.by_ref[id.ref] = Held(id, frame, task, claim_first, self._loop.time())
        return held

    def adopt(self, id: TaskId) -> Held:
        """An attempt that a worker brought with it, and has a lease for."""
        now = self._loop.time()
        frame = without_frame(id, self.namespace, now)
        self.leases.hold(frame)
        held = self.by_ref[id.ref] = Held(id, frame, None, False, now)
        held.sent = True
        return held

    def give(self, held: Held, seat: Seat) -> None:
        """A worker runs this already."""
        seat.brings(held)
        if not held.started_at:
            self.begin(held, limited=False)
        self.live.add(held)
        seat.began()

    def begin(self, held: Held, limited: bool) -> None:
        """Its worker begins it. `limited`: the gateway enforces its time limit."""
        held.started_at = held.heard_at = self._loop.time()
        held.started_us = time.time_ns() // 1000
        self.live.add(held)
        if limited and held.task is not None and held.task.timeout_ms:
            held.timer = self._loop.call_later(held.task.timeout_ms / 1000, self._over_time, held)

    def unbegin(self, held: Held) -> None:
        """Nobody knows whether it runs, and no lease says so."""
        held.started_at = 0.0
        self.live.discard(held)
        self._ended.set()

    def end(self, held: Held, result: Result, posted: Callable[[], None] | None = None) -> None:
        """It ended with this result; `posted` is called when that is durable."""
        self._settle(held, self.checked(held, result), posted)

    def fail(self, held: Held, failure: Failure) -> None:
        """The gateway found that it cannot be done."""
        self._settle(held, self._result(held, failure), None)

    def give_back(self, held: Held) -> None:
        """Somebody else is to run it: its frame goes back to the broker."""
        held.frame.hand_back = True
        self._settle(held, None, None)

    def forget(self, held: Held) -> None:
        """It has a lease of its own; from now on its worker's calls are answered by its shard."""
        self._settle(held, None, None)

    async def idle(self) -> None:
        """Returns when no worker runs anything."""
        while self.live:
            self._ended.clear()
            await self._ended.wait()

    def checked(self, held: Held | None, result: Result) -> Result:
        """A worker's result within the limits, with the times that the gateway knows if the worker told none."""
        output, failure = result.output, result.failure
        if output is not None and len(output) > self.payload_bytes:
            output, failure = outcome.within(output, self.payload_bytes)
        started_us, took_us = result.started_us, result.duration_us
        if not started_us and held is not None and held.started_at:
            started_us, took_us = held.started_us, round((self._loop.time() - held.started_at) * 1e6)
        return Result(result.run, result.item, result.step, result.attempt, output, failure, started_us, took_us)

    # --- what leases tell (stepmesh.leases.Runs) ----------------------------------------------------------------

    def granted(self, attempts: list[Held]) -> None:
        """These were claimed for workers that may run them now."""
        for held in attempts:
            if not held.settled and not held.sent and held.seat is not None:
                held.seat.granted(held)

    def unreserve(self, attempts: list[Held]) -> None:
        """The shards answered. What they neither granted nor refused no longer takes a worker's credit."""
        for held in attempts:
            if held.seat is not None and not held.sent and not held.settled:
                held.seat.unsent(held)

    def again(self, attempts: list[Held]) -> None:
        """These wait for any worker, and ask again."""
        for held in attempts:
            if held.desk is not None:
                held.desk.put_back(held)

    def stop(self, attempt: Held, why: Why) -> None:
        """Nobody wants this one here."""
        if attempt.settled:
            return
        attempt.why = why
        seat = attempt.seat
        self._settle(attempt, None, None)
        if seat is not None:
            seat.stopped(attempt, why)

    # --- ends ---------------------------------------------------------------------------------------------------

    def _over_time(self, held: Held) -> None:
        assert held.task is not None
        failure = outcome.timed_out(held.task.timeout_ms / 1000).failure
        assert failure is not None
        held.why = Why.TIMEOUT
        seat = held.seat
        self.fail(held, failure)
        if seat is not None:
            seat.stopped(held, Why.TIMEOUT)

    def _result(self, held: Held, failure: Failure) -> Result:
        ref = held.id.ref
        took_us = round((self._loop.time() - held.started_at) * 1e6) if held.started_at else 0
        return Result(ref.run, ref.item, ref.step, ref.attempt, None, failure, held.started_us, took_us)

    def _settle(self, held: Held, result: Result | None, posted: Callable[[], None] | None) -> None:
        held.settled = True
        self.by_ref.pop(held.id.ref, None)
        self.live.discard(held)
        self._ended.set()
        if held.timer is not None:
            held.timer.cancel()
        if held.seat is not None:
            held.seat.released(held)
        self.outbox.put(held.frame, result, posted)

    def _frame_settled(self, frame: Frame) -> None:
        self.leases.let_go(frame)


def _holder(held: Held) -> WorkerId:
    return held.holder
