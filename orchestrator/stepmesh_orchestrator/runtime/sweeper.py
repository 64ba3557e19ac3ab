"""The second look: leases that ran out, tasks that nobody has any more. Whoever holds a ready step, the journal knows that it is ready.

Once a second. A claimed task whose worker is silent fails as UNREACHABLE (its budget decides what follows); an unclaimed task whose
frame the broker is done with, has lost with its streams, or forgot, is published again; one that waited longer than its plugin allows
fails.
"""

from __future__ import annotations

import logging

from stepmesh_broker.errors import StepmeshError
from stepmesh_broker.ports import PoolDepth
from stepmesh_broker.protocol.ids import Pool, Position
from stepmesh_broker.protocol.messages import ErrorCode, Failure, Task, TaskRef
from stepmesh_orchestrator.core.commands import AskAgain, FailAttempt, ServeKeys
from stepmesh_orchestrator.core.decide.results import in_flight
from stepmesh_orchestrator.core.rebuild import task_again
from stepmesh_orchestrator.ports import Clock
from stepmesh_orchestrator.runtime import windows
from stepmesh_orchestrator.runtime.leases import LEASE_MS, Flight, Key
from stepmesh_orchestrator.runtime.queue_limits import nobody_came
from stepmesh_orchestrator.runtime.shard import Shard

log = logging.getLogger("stepmesh.sweeper")
EVERY_S = 1.0
REMIND_S = 30.0
"""How long a lost word of who held a permit keeps others waiting, seconds."""
GRACE_S = 2.0
"""How long results may take to arrive after their frame was acknowledged, seconds."""


class Sweeper:
    """One shard's sweeper."""

    def __init__(self, shard: Shard, clock: Clock, incarnation: str) -> None:
        self._shard = shard
        self._clock = clock
        self._incarnation = incarnation
        self.redispatched = 0
        self._keys_reminded = clock.monotonic()

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
        incarnation = await dispatcher.broker.incarnation()
        dispatcher.presence.forget_silent()
        self._remind_keys()
        places = self._shard.session.places
        if places is not None:
            windows.fit(places, dispatcher.presence, dispatcher.paces)
            if places.vacant:
                self._shard.post(ServeKeys(key=""))
        reborn, self._incarnation = incarnation != self._incarnation, incarnation
        if reborn:
            self._shard.post(AskAgain())
        for pool in list(dispatcher.leases.by_pool):
            self._look_for_lost(pool, PoolDepth(0, 0, Position(0)) if reborn else await dispatcher.broker.depth(Pool(pool)), reborn)
        self._end_waits()
        self._expire()  # last: what fails now is not looked for above before its failure was decided on

    def _remind_keys(self) -> None:
        """While somebody waits for a full key of this partition, ask now and then after its holders: their word may have been lost."""
        now = self._clock.monotonic()
        if now >= self._keys_reminded + REMIND_S:
            self._keys_reminded = now
            permits = self._shard.session.state.permits
            if permits.doubted or any(found.is_full() for found in permits.keys.values()):
                self._shard.post(ServeKeys(again=True, full=True))

    def _look_for_lost(self, pool: str, depth: PoolDepth, reborn: bool) -> None:
        leases = self._shard.dispatcher.leases
        idle = depth.ready == 0 and depth.in_flight == 0
        flights = leases.lost(pool, depth.floor, idle, self._clock.monotonic(), 0.0 if reborn else GRACE_S, depth.ready == 0)
        self._again([key for flight in flights for key in leases.open_keys(flight)])

    def resend(self, keys: list[Key]) -> None:
        """Publish these attempts again, now."""
        self._again(keys)

    def adopt(self, keys: list[Key], pool: str) -> None:
        """Attempts from before a recovery that are with the broker or a worker: watch them as one frame that ends where a mark lies."""
        flight = Flight(pool, None, keys, adopted=True)
        self._shard.dispatcher.leases.launch(flight)
        self._shard.dispatcher.mark(flight)

    def _expire(self) -> None:
        leases, now = self._shard.dispatcher.leases, self._clock.monotonic()
        if now >= leases.recovered_until:
            leases.recovered.clear()
        for key, lease, late in leases.expired(now):
            del leases.held[key]
            if late:
                leases.land(key)
                failure = Failure(ErrorCode.TIMEOUT, "the attempt is over its time limit and its worker did not end it")
            else:  # stays in flight until it is sent again, or parked in the dead letters of its pool
                failure = Failure(ErrorCode.UNREACHABLE, f"worker {lease.worker} was silent for {LEASE_MS / 1000:.0f} s")
            self._shard.post(FailAttempt(TaskRef(*key, lease.attempt), failure))

    def _end_waits(self) -> None:
        """Give up what nobody came for in time. Soon after a recovery a worker may have it that was not heard yet."""
        shard, leases, now_ms = self._shard, self._shard.dispatcher.leases, self._clock.now_ms()
        for wait in shard.queue_limits.due(now_ms):
            task = wait.task
            key = (task.run, task.item, task.step)
            if in_flight(shard.session, *key, task.attempt) is None:
                continue
            if key in leases.held:  # if it comes back to the queue, it may wait as long again
                shard.queue_limits.put(wait, now_ms + wait.waits_ms)
            elif key in leases.recovered:
                shard.queue_limits.put(wait, now_ms + LEASE_MS)
            else:
                leases.land(key)
                shard.post(FailAttempt(task, nobody_came(wait)))

    def _again(self, keys: list[Key]) -> None:
        shard, leases = self._shard, self._shard.dispatcher.leases
        pools: dict[str, list[Task]] = {}
        for run, index, step in keys:
            live = shard.session.state.runs.get(run)
            attempt = live.items[index].attempt(step) if live is not None and index in live.items else 0
            item = in_flight(shard.session, run, index, step, attempt)
            if item is None:
                leases.land((run, index, step))
                continue
            made = task_again(shard.session, item, step, leases.dispatched((run, index, step)) + 1)
            if isinstance(made, Failure):
                leases.land((run, index, step))
                shard.post(FailAttempt(TaskRef(run, index, step, attempt), made))
            else:
                pools.setdefault(made[0], []).append(made[1])
        for pool, tasks in pools.items():
            self.redispatched += len(tasks)
            shard.dispatcher.again(pool, tasks, shard.sequence)
