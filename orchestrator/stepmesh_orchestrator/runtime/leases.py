"""Who holds which task: soft state of one shard, granted afresh after a recovery.

Every attempt in flight belongs to a `Flight` (the frame it travels in). A task that runs long, or again, is claimed: its
`Lease` names the worker. What is claimed dies by its lease; what is not is the broker's, until the broker says that the
frame was acknowledged, or lost.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from stepmesh_broker.protocol.ids import Position, RunId, WorkerId
from stepmesh_broker.protocol.messages import Progress, TaskRef, Verdict

Key = tuple[RunId, int, int]  # run, item, step
LEASE_MS = 6_000
"""How long a worker may be silent about a claimed task; heartbeats come three times as often."""
TIMEOUT_GRACE_S = 2.0
"""A worker enforces an attempt's time limit itself; the shard steps in this much later."""
DETAILS_SHOWN = 200
"""Characters of a heartbeat's details that `stepmesh explain` shows."""
ADOPTED_S = 30.0
"""A frame of an earlier owner whose place in its pool cannot be bounded, because no mark could be published behind it, is sent again after
this time, seconds."""
FORGOTTEN_S = 12.0
"""How long the broker may have handed out all that a pool holds, before what nobody claimed is sent again (seconds): longer than a delivery
that was lost takes to come again (6 s), and than a worker keeps a task before it claims it (4 s), so that nothing is done twice."""


@dataclass(slots=True, eq=False)
class Flight:
    """A frame in a pool. `position` is None until the broker has it. `open`: tasks of it without a result. `dispatch`: how often its
    tasks were published, at most.

    `adopted`: published by an earlier owner of the partition; `position` is then an upper bound, once one is known.
    `done_since`: when the broker was first seen to be done with it; `handed_since`: when it was first seen to have handed out all that the
    pool holds, this frame with it (monotonic s)."""

    pool: str
    position: Position | None
    keys: list[Key]
    dispatch: int = 1
    adopted: bool = False
    open: int = 0
    done_since: float | None = None
    handed_since: float | None = None


@dataclass(slots=True)
class Lease:
    """A claimed task. Times are monotonic seconds; `deadline` is that of the attempt, if it has a limit. `progress`: what was said last.
    `running`: the worker has said that it runs it, and not only asked for leave."""

    worker: WorkerId
    attempt: int
    expires: float
    deadline: float | None
    progress: Progress | None = None
    running: bool = False


@dataclass(slots=True)
class Leases:
    """All attempts in flight of one shard."""

    flights: dict[Key, Flight] = field(default_factory=dict)
    by_pool: dict[str, deque[Flight]] = field(default_factory=dict)
    held: dict[Key, Lease] = field(default_factory=dict)
    recovered: set[Key] = field(default_factory=set)  # their worker may not have been heard yet
    recovered_until: float = 0.0

    def launch(self, flight: Flight) -> None:
        """The frame is about to be published."""
        flight.open = len(flight.keys)
        flights = self.flights
        for key in flight.keys:
            older = flights.get(key)
            if older is not None:
                older.open -= 1
            flights[key] = flight
        self.by_pool.setdefault(flight.pool, deque()).append(flight)

    def land(self, key: Key) -> str | None:
        """The attempt is over: forget it. The pool that it was in, if it was in flight."""
        flight = self.flights.pop(key, None)
        if self.held:
            self.held.pop(key, None)
        if self.recovered:
            self.recovered.discard(key)
        if flight is None:
            return None
        flight.open -= 1
        return flight.pool

    def claim(self, task: TaskRef, worker: WorkerId, now: float, timeout_ms: int, *, running: bool = False) -> Verdict:
        """A worker wants the task, which is in flight with this attempt. Soon after a recovery only the one that runs it gets it. Who asks
        again for leave, because the answer was lost, gets it again; who runs it already was sent a copy, and does not get that."""
        key = (task.run, task.item, task.step)
        lease = self.held.get(key)
        if lease is not None and lease.attempt == task.attempt:
            if lease.worker != worker or (lease.running and not running):
                # Also when it ran out: the sweeper fails the attempt, so that a task that kills workers is counted.
                return Verdict.HELD
        elif not running and key in self.recovered and now < self.recovered_until:
            return Verdict.NOT_READY
        self._grant(key, task, worker, now, timeout_ms).running = running
        return Verdict.GRANTED

    def renew(self, progress: Progress, worker: WorkerId, now: float, timeout_ms: int) -> Verdict:
        """A worker says that it runs the task, which is in flight with this attempt."""
        task = progress.task
        key = (task.run, task.item, task.step)
        lease = self.held.get(key)
        if lease is None or lease.attempt != task.attempt:
            lease = self._grant(key, task, worker, now, timeout_ms)
        elif lease.worker != worker:
            return Verdict.HELD
        lease.expires = now + LEASE_MS / 1000
        lease.progress = progress
        lease.running = True
        return Verdict.GRANTED

    def expired(self, now: float) -> list[tuple[Key, Lease, bool]]:
        """Claimed tasks whose worker is silent, or whose attempt is over time (True)."""
        found: list[tuple[Key, Lease, bool]] = []
        for key, lease in self.held.items():
            if lease.deadline is not None and lease.deadline < now:
                found.append((key, lease, True))
            elif lease.expires < now:
                found.append((key, lease, False))
        return found

    def excuse(self, now: float) -> None:
        """The broker is away, so nobody can be heard: silence proves nothing. Every lease starts anew."""
        for lease in self.held.values():
            lease.expires = max(lease.expires, now + LEASE_MS / 1000)

    def lost(self, pool: str, floor: Position, idle: bool, now: float, grace_s: float, handed_out: bool = False) -> list[Flight]:
        """Frames that the broker is done with (acknowledged, or `idle`: it holds nothing) for `grace_s`, with open unclaimed tasks; and
        those behind one that is long in hand, when the broker has `handed_out` all that it holds for `FORGOTTEN_S`. They are taken out;
        the caller sends their tasks again."""
        flights = self.by_pool.get(pool, ())
        bound = next((flight.position for flight in flights if flight.position is not None), None)
        kept: deque[Flight] = deque()
        lost: list[Flight] = []
        for flight in flights:
            if flight.open <= 0:
                continue
            if flight.adopted and flight.position is None:
                flight.position = bound  # what was published later lies behind it
            if _in_broker(flight, floor, idle):
                flight.done_since = None
                forgotten = _is_forgotten(flight, handed_out, now)
                (lost if forgotten and self.open_keys(flight) else kept).append(flight)
                continue
            flight.done_since = now if flight.done_since is None else flight.done_since
            patience = ADOPTED_S if flight.position is None and not idle else grace_s
            waited = now - flight.done_since >= patience
            (lost if waited and self.open_keys(flight) else kept).append(flight)
        if kept:
            self.by_pool[pool] = kept
        else:
            self.by_pool.pop(pool, None)
        return lost

    def drop(self, flight: Flight) -> list[Key]:
        """The frame was never published and never will be: its tasks that are still its own, each forgotten."""
        dropped = [key for key in flight.keys if self.flights.get(key) is flight]
        for key in dropped:
            self.land(key)
        flights = self.by_pool.get(flight.pool)
        if flights is not None and flight in flights:
            flights.remove(flight)
            if not flights:
                del self.by_pool[flight.pool]
        return dropped

    def dispatched(self, key: Key) -> int:
        """How often the attempt in flight was published, as far as this owner knows; at least once."""
        flight = self.flights.get(key)
        return 1 if flight is None else flight.dispatch

    def open_keys(self, flight: Flight) -> list[Key]:
        """Tasks of the frame that are still its own and not claimed."""
        return [key for key in flight.keys if self.flights.get(key) is flight and key not in self.held]

    def _grant(self, key: Key, task: TaskRef, worker: WorkerId, now: float, timeout_ms: int) -> Lease:
        deadline = now + timeout_ms / 1000 + TIMEOUT_GRACE_S if timeout_ms else None
        lease = self.held[key] = Lease(worker, task.attempt, now + LEASE_MS / 1000, deadline)
        self.recovered.discard(key)
        return lease


def _is_forgotten(flight: Flight, handed_out: bool, now: float) -> bool:
    """Whether it is with nobody, as far as can be told: a task that waits for another one would hold the floor below it for ever."""
    if not handed_out or flight.position is None:
        flight.handed_since = None
        return False
    flight.handed_since = now if flight.handed_since is None else flight.handed_since
    return now - flight.handed_since >= FORGOTTEN_S


def _in_broker(flight: Flight, floor: Position, idle: bool) -> bool:
    """Whether the broker may still hand the frame out, or this side has yet to publish it."""
    if flight.position is None:
        return not flight.adopted
    return not idle and flight.position > floor
