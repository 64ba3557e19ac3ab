"""Keeps what the worker holds: leases for tasks, the ack wait of frames.

Invariants: a task that must be claimed first does not start without a grant; one that already runs is stopped only by a
verdict, never by silence (an orchestrator that is away must not cost work). Claims and heartbeats are one message per
partition. This module must not know how tasks run or how results travel.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from stepmesh.attempt import Attempt, Frame, Why
from stepmesh_broker.errors import BrokerUnavailable, MalformedMessage
from stepmesh_broker.ports import Broker
from stepmesh_broker.protocol import codec, subjects
from stepmesh_broker.protocol.ids import Namespace, Partition, WorkerId
from stepmesh_broker.protocol.messages import Claim, Claimed, Heartbeat, Progress, Verdict

log = logging.getLogger("stepmesh.worker")

_DROPPED = {Verdict.GONE: Why.ELSEWHERE, Verdict.HELD: Why.ELSEWHERE, Verdict.CANCELLED: Why.CANCELLED}


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


class Runs(Protocol):
    """The part of the execution that leases act on."""

    live: set[Attempt]

    def granted(self, attempts: list[Attempt]) -> None:
        """These may start."""
        ...

    def again(self, attempts: list[Attempt]) -> None:
        """These must ask again."""
        ...

    def stop(self, attempt: Attempt, why: Why) -> None:
        """End this one."""
        ...

    def unreserve(self, count: int) -> None:
        """Give back slots that were reserved for asking."""
        ...


class Leases:
    """`waiting`: attempts that ask, or wait to ask again. `frames`: deliveries in hand."""

    def __init__(
        self,
        broker: Broker,
        namespace: Namespace,
        worker: WorkerId,
        runs: Runs,
        timing: Timing,
        on_broken: Callable[[BaseException], None],
    ) -> None:
        self.waiting: set[Attempt] = set()
        self.frames: set[Frame] = set()
        self._broker = broker
        self._namespace = namespace
        self._worker = worker
        self._runs = runs
        self._timing = timing
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._holding = asyncio.Event()
        self._busy: set[Partition] = set()
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

    def ask(self, attempts: list[Attempt]) -> None:
        """Claim attempts of one partition before they start; each has a slot reserved, which is given back with the answer.

        A copy of what runs here already (its frame came again after a pause of this process) is dropped without asking.
        """
        running = {attempt.ref() for attempt in self._runs.live}
        for copy in [attempt for attempt in attempts if attempt.ref() in running]:
            attempts.remove(copy)
            self._runs.stop(copy, Why.ELSEWHERE)
            self._runs.unreserve(1)
        if attempts:
            self.waiting.update(attempts)
            self._spawn(self._ask(attempts))

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

    async def _ask(self, attempts: list[Attempt]) -> None:
        claimed = None
        try:
            claimed = await self._control(attempts[0].frame.header.partition, Claim(self._worker, [attempt.ref() for attempt in attempts]))
        finally:
            granted, again = self._sort(attempts, claimed)
            self._runs.granted(granted)
            self._runs.unreserve(len(attempts))
        if again:
            first, largest = self._timing.ask_again
            delay = min(largest, first * 2 ** min(again[0].asked, 10))
            self._loop.call_later(delay, self._again, again)

    def _sort(self, attempts: list[Attempt], claimed: Claimed | None) -> tuple[list[Attempt], list[Attempt]]:
        granted: list[Attempt] = []
        again: list[Attempt] = []
        verdicts = claimed.verdicts if claimed is not None else [Verdict.NOT_READY] * len(attempts)
        for attempt, verdict in zip(attempts, verdicts, strict=True):
            if verdict in _DROPPED:
                self.waiting.discard(attempt)
                self._runs.stop(attempt, _DROPPED[Verdict(verdict)])
            elif verdict == Verdict.GRANTED and claimed is not None:
                self.waiting.discard(attempt)
                attempt.claim_first = False
                self._lease(attempt, claimed.lease_ms)
                granted.append(attempt)
            else:
                attempt.asked += 1
                again.append(attempt)
        return granted, again

    def _again(self, attempts: list[Attempt]) -> None:
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
        by_partition: defaultdict[Partition, list[Attempt]] = defaultdict(list)
        for attempt in self._runs.live:
            if attempt.why is None:
                by_partition[attempt.frame.header.partition].append(attempt)
        for partition, attempts in by_partition.items():
            claims = [one for one in attempts if not one.lease_s and now >= max(one.renew_at, one.started_at + self._timing.claim_after)]
            leased = [one for one in attempts if one.lease_s]
            beats = leased if any(now >= one.renew_at for one in leased) else []
            if (claims or beats) and partition not in self._busy:
                self._busy.add(partition)
                self._spawn(self._round(partition, claims, beats))

    async def _round(self, partition: Partition, claims: list[Attempt], beats: list[Attempt]) -> None:
        try:
            if claims:
                self._judge(
                    claims, await self._control(partition, Claim(self._worker, [attempt.ref() for attempt in claims], running=True))
                )
            if beats:
                progress = [Progress(attempt.ref(), attempt.progress, attempt.details) for attempt in beats]
                self._judge(beats, await self._control(partition, Heartbeat(self._worker, progress)))
        finally:
            self._busy.discard(partition)

    def _judge(self, attempts: list[Attempt], claimed: Claimed | None) -> None:
        if claimed is None:
            for attempt in attempts:
                attempt.renew_at = self._loop.time() + self._timing.claim_after
            return
        for attempt, verdict in zip(attempts, claimed.verdicts, strict=True):
            if verdict in _DROPPED:
                self._runs.stop(attempt, _DROPPED[Verdict(verdict)])
            elif verdict == Verdict.GRANTED:
                self._lease(attempt, claimed.lease_ms)

    def _lease(self, attempt: Attempt, lease_ms: int) -> None:
        attempt.lease_s = lease_ms / 1000
        attempt.renew_at = self._loop.time() + attempt.lease_s / 3

    async def _control(self, partition: Partition, message: Claim | Heartbeat) -> Claimed | None:
        """The shard's verdicts; None when it does not answer (it restarts, or moves)."""
        try:
            data = await self._broker.request(
                subjects.control(self._namespace, partition), codec.encode(message), self._timing.control_timeout
            )
            answer = codec.decode_answer(data)
        except BrokerUnavailable:
            return None
        except MalformedMessage as problem:
            log.error("partition %d answered a claim with nonsense: %s", partition, problem)
            return None
        if isinstance(answer, Claimed) and len(answer.verdicts) == len(message.tasks):
            return answer
        log.error("partition %d answered a %s with %s", partition, type(message).__name__, answer)
        return None

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work, name="stepmesh lease")
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            self._on_broken(problem)
