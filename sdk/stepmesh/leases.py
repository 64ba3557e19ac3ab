"""Keeps what the worker holds: leases for tasks, the ack wait of frames.

Invariants: a task that must be claimed first does not start without a grant; one that already runs is stopped only by a
verdict, never by silence (an orchestrator that is away must not cost work). Claims and heartbeats are one message per
partition and worker. This module must not know how tasks run or how results travel; a gateway uses it for its workers.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from stepmesh.attempt import Frame, Why
from stepmesh.control import Control
from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.protocol.ids import Partition, WorkerId
from stepmesh_broker.protocol.messages import Claimed, Progress, TaskRef, Verdict

log = logging.getLogger("stepmesh.worker")

DROPPED = {Verdict.GONE: Why.ELSEWHERE, Verdict.HELD: Why.ELSEWHERE, Verdict.CANCELLED: Why.CANCELLED}
"""Verdicts that end an attempt without a result."""


@dataclass(frozen=True, slots=True)
class Timing:
    """All in seconds. `claim_after`: a task that runs longer is claimed. `in_progress`: how often a frame's ack wait is restarted;
    well below the broker's ack wait (6 s). `ask_again`: delay before a claim is repeated, first and largest."""

    tick: float = 0.25
    claim_after: float = 1.0
    in_progress: float = 1.5
    control_timeout: float = 2.0
    ask_again: tuple[float, float] = (0.05, 2.0)
    hello: float = 5.0
    fetch: float = 1.0


class Leased(Protocol):
    """An attempt in somebody's hands. Times are loop times in seconds; `lease_s` is 0 without a lease, `asked` counts claims without
    an answer."""

    frame: Frame
    claim_first: bool
    settled: bool
    why: Why | None
    asked: int
    started_at: float
    renew_at: float
    lease_s: float
    progress: float | None
    details: bytes | None

    def ref(self) -> TaskRef:
        """The attempt's name on the wire."""
        ...


A = TypeVar("A", bound=Leased)


class Runs(Protocol[A]):
    """The part of the execution that leases act on."""

    live: set[A]

    def granted(self, attempts: list[A]) -> None:
        """These may start."""
        ...

    def again(self, attempts: list[A]) -> None:
        """These must ask again."""
        ...

    def stop(self, attempt: A, why: Why) -> None:
        """End this one."""
        ...

    def unreserve(self, attempts: list[A]) -> None:
        """These were asked for: give back the slots that were reserved for that."""
        ...


class Leases(Generic[A]):
    """`waiting`: attempts that ask, or wait to ask again. `frames`: deliveries in hand. `worker_of`: in whose name an attempt is held."""

    def __init__(
        self,
        control: Control,
        worker_of: Callable[[A], WorkerId],
        runs: Runs[A],
        timing: Timing,
        on_broken: Callable[[BaseException], None],
    ) -> None:
        self.waiting: set[A] = set()
        self.frames: set[Frame] = set()
        self._control = control
        self._worker_of = worker_of
        self._runs = runs
        self._timing = timing
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._holding = asyncio.Event()
        self._busy: set[tuple[WorkerId, Partition]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def hold(self, frame: Frame) -> None:
        """Keep a delivery alive from now on."""
        self.frames.add(frame)
        self._holding.set()

    def let_go(self, frame: Frame) -> None:
        """The delivery is settled."""
        self.frames.discard(frame)
        if not self.frames:
            self._holding.clear()

    def ask(self, attempts: list[A]) -> None:
        """Claim attempts of one worker and partition before they start; each has a slot reserved, which is given back with the answer.

        A copy of what runs here already (its frame came again after a pause of this process) is dropped without asking.
        """
        running = {attempt.ref() for attempt in self._runs.live}
        for copy in [attempt for attempt in attempts if attempt.ref() in running]:
            attempts.remove(copy)
            self._runs.stop(copy, Why.ELSEWHERE)
            self._runs.unreserve([copy])
        if attempts:
            self.waiting.update(attempts)
            self._spawn(self._ask(attempts))

    def lease(self, attempt: A, lease_ms: int) -> None:
        """It was granted."""
        attempt.lease_s = lease_ms / 1000
        attempt.renew_at = self._loop.time() + attempt.lease_s / 3

    async def keep(self) -> None:
        """Restart ack waits, claim what runs long, renew leases; until cancelled."""
        while True:
            await self._holding.wait()
            await asyncio.sleep(self._timing.tick)
            now = self._loop.time()
            await self._touch(now)
            self._renew(now)

    def close(self) -> None:
        """Ask no more."""
        for task in self._tasks:
            task.cancel()

    # --- before a task starts -----------------------------------------------------------------------------------

    async def _ask(self, attempts: list[A]) -> None:
        claimed = None
        try:
            one, refs = attempts[0], [attempt.ref() for attempt in attempts]
            claimed = await self._control.claim(one.frame.header.partition, self._worker_of(one), refs)
        finally:
            granted, again = self._sort(attempts, claimed)
            self._runs.granted(granted)
            self._runs.unreserve(attempts)
        if again:
            first, largest = self._timing.ask_again
            delay = min(largest, first * 2 ** min(again[0].asked, 10))
            self._loop.call_later(delay, self._again, again)

    def _sort(self, attempts: list[A], claimed: Claimed | None) -> tuple[list[A], list[A]]:
        granted: list[A] = []
        again: list[A] = []
        verdicts = claimed.verdicts if claimed is not None else [Verdict.NOT_READY] * len(attempts)
        for attempt, verdict in zip(attempts, verdicts, strict=True):
            if verdict in DROPPED:
                self.waiting.discard(attempt)
                self._runs.stop(attempt, DROPPED[Verdict(verdict)])
            elif verdict == Verdict.GRANTED and claimed is not None:
                self.waiting.discard(attempt)
                attempt.claim_first = False
                self.lease(attempt, claimed.lease_ms)
                granted.append(attempt)
            else:
                attempt.asked += 1
                again.append(attempt)
        return granted, again

    def _again(self, attempts: list[A]) -> None:
        self.waiting.difference_update(attempts)
        self._runs.again([attempt for attempt in attempts if not attempt.settled])

    # --- while tasks run ----------------------------------------------------------------------------------------

    async def _touch(self, now: float) -> None:
        for frame in tuple(self.frames):
            if now - frame.touched >= self._timing.in_progress and frame.left:
                frame.touched = now
                try:
                    await frame.delivery.in_progress()
                    frame.keep(now)
                except BrokerUnavailable as problem:
                    log.info("a frame could not be kept and may come twice: %s", problem)

    def _renew(self, now: float) -> None:
        places: defaultdict[tuple[WorkerId, Partition], list[A]] = defaultdict(list)
        for attempt in self._runs.live:
            if attempt.why is None:
                places[self._worker_of(attempt), attempt.frame.header.partition].append(attempt)
        for place, attempts in places.items():
            claims = [one for one in attempts if not one.lease_s and now >= max(one.renew_at, one.started_at + self._timing.claim_after)]
            leased = [one for one in attempts if one.lease_s]
            beats = leased if any(now >= one.renew_at for one in leased) else []
            if (claims or beats) and place not in self._busy:
                self._busy.add(place)
                self._spawn(self._round(place, claims, beats))

    async def _round(self, place: tuple[WorkerId, Partition], claims: list[A], beats: list[A]) -> None:
        worker, partition = place
        try:
            if claims:
                refs = [attempt.ref() for attempt in claims]
                self._judge(claims, await self._control.claim(partition, worker, refs, running=True))
            if beats:
                progress = [Progress(attempt.ref(), attempt.progress, attempt.details) for attempt in beats]
                self._judge(beats, await self._control.beat(partition, worker, progress))
        finally:
            self._busy.discard(place)

    def _judge(self, attempts: list[A], claimed: Claimed | None) -> None:
        if claimed is None:
            for attempt in attempts:
                attempt.renew_at = self._loop.time() + self._timing.claim_after
            return
        for attempt, verdict in zip(attempts, claimed.verdicts, strict=True):
            if verdict in DROPPED:
                self._runs.stop(attempt, DROPPED[Verdict(verdict)])
            elif verdict == Verdict.GRANTED:
                self.lease(attempt, claimed.lease_ms)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work, name="stepmesh lease")
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            self._on_broken(problem)
