"""The second look: leases that ran out, tasks that nobody has any more. Whoever holds a ready step, the journal knows that it is ready.

Once a second. A claimed task whose worker is silent fails as UNREACHABLE (its budget decides what follows); an unclaimed task whose
frame the broker is done with, or has lost with its streams, is published again.
"""

from __future__ import annotations

import logging

from stepmesh_broker.errors import StepmeshError
from stepmesh_broker.ports import PoolDepth
from stepmesh_broker.protocol.ids import Pool, Position
from stepmesh_broker.protocol.messages import ErrorCode, Failure, Task, TaskRef
from stepmesh_orchestrator.core.commands import FailAttempt
from stepmesh_orchestrator.core.decide.results import in_flight
from stepmesh_orchestrator.core.rebuild import task_again
from stepmesh_orchestrator.ports import Clock
from stepmesh_orchestrator.runtime.leases import LEASE_MS, Flight, Key
from stepmesh_orchestrator.runtime.shard import Shard

log = logging.getLogger("stepmesh.sweeper")
EVERY_S = 1.0
GRACE_S = 2.0
"""How long results may take to arrive after their frame was acknowledged, seconds."""


class Sweeper:
    """One shard's sweeper."""

    def __init__(self, shard: Shard, clock: Clock, incarnation: str) -> None:
        self._shard = shard
        self._clock = clock
        self._incarnation = incarnation
        self._dispatches: dict[Key, int] = {}
        self.redispatched = 0

    async def run(self) -> None:
        """Sweep for ever; a broker that is away is asked again next time."""
        while True:
            await self._clock.sleep(EVERY_S)
            try:
                await self.sweep()
            except StepmeshError as problem:
                log.info("sweeping later: %s", problem)
                self._shard.dispatcher.leases.excuse(self._clock.monotonic())

    async def sweep(self) -> None:
        """One look at everything in flight."""
        dispatcher = self._shard.dispatcher
        leases = dispatcher.leases
        incarnation = await dispatcher.broker.incarnation()
        reborn, self._incarnation = incarnation != self._incarnation, incarnation
        for pool in list(leases.by_pool):
            depth = await dispatcher.broker.depth(Pool(pool)) if not reborn else PoolDepth(0, 0, Position(0))
            idle = reborn or (depth.ready == 0 and depth.in_flight == 0 and not len(dispatcher.outbox))
            flights = leases.lost(pool, depth.floor, idle, self._clock.monotonic(), 0.0 if reborn else GRACE_S)
            self._again([key for flight in flights for key in leases.open_keys(flight)])
        self._expire()

    def resend(self, keys: list[Key]) -> None:
        """Publish these attempts again, now."""
        self._again(keys)

    def adopt(self, keys: list[Key], pool: str) -> None:
        """Attempts from before a recovery that are with the broker or a worker: watch them as one frame, published before all others."""
        self._shard.dispatcher.leases.launch(Flight(pool, None, keys, adopted=True))

    def _expire(self) -> None:
        leases = self._shard.dispatcher.leases
        for key, lease, late in leases.expired(self._clock.monotonic()):
            del leases.held[key]
            task = TaskRef(*key, lease.attempt)
            if late:
                failure = Failure(ErrorCode.TIMEOUT, "the attempt is over its time limit and its worker did not end it")
            else:
                failure = Failure(ErrorCode.UNREACHABLE, f"worker {lease.worker} was silent for {LEASE_MS / 1000:.0f} s")
            self._shard.post(FailAttempt(task, failure))  # the flight stays: it knows the pool, should the task be parked

    def _again(self, keys: list[Key]) -> None:
        shard = self._shard
        pools: dict[str, list[Task]] = {}
        for run, index, step in keys:
            live = shard.session.state.runs.get(run)
            attempt = live.items[index].attempt(step) if live is not None and index in live.items else 0
            item = in_flight(shard.session, run, index, step, attempt)
            if item is None:
                shard.dispatcher.leases.land((run, index, step))
                continue
            dispatch = self._dispatches[run, index, step] = self._dispatches.get((run, index, step), 1) + 1
            made = task_again(shard.session, item, step, dispatch)
            if made is not None:
                pools.setdefault(made[0], []).append(made[1])
        for pool, tasks in pools.items():
            self.redispatched += len(tasks)
            shard.dispatcher.again(pool, tasks, shard.sequence)
        if len(self._dispatches) > 100_000:
            self._dispatches.clear()
