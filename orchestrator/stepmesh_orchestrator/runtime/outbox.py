"""Task frames on their way to pools, and letters on their way to inboxes: published in the order of their turns, all that several turns
caused at once.

Invariant: every effect of the turns up to `confirmed` is known to be published, or to be impossible to publish. The broker being away
stops the outbox, never loses from it; the backlog is bounded by the shard, which takes nothing new while it is full. What leaves late is
claimed before it is begun: this process may have stood still, and another one owns the partition and sent the tasks itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from stepmesh_broker.errors import BrokerUnavailable, StepmeshError
from stepmesh_broker.ports import Broker
from stepmesh_broker.protocol.codec import encode
from stepmesh_broker.protocol.ids import Partition, Pool
from stepmesh_broker.protocol.messages import TaskFrame
from stepmesh_orchestrator.ports import Clock
from stepmesh_orchestrator.runtime.leases import Flight

log = logging.getLogger("stepmesh.outbox")
_MAX_AT_ONCE = 256
_RETRY_S = 0.25
LATE_S = 1.0
"""A frame that leaves so long after its turn is late, in seconds."""


@dataclass(frozen=True, slots=True)
class Departure:
    """A frame to publish because of the turn `sequence`, which the journal was given at `since` (monotonic, seconds). It is in the journal
    from some moment after that, and a next owner may know it, whenever this process heard so."""

    sequence: int
    frame: TaskFrame
    message_id: str
    flight: Flight
    since: float

    def leaving(self, now: float) -> TaskFrame:
        """The frame as it leaves now."""
        if now - self.since <= LATE_S:
            return self.frame
        return msgspec.structs.replace(self.frame, tasks=[msgspec.structs.replace(task, claim_first=True) for task in self.frame.tasks])

    async def publish(self, broker: Broker, now: float) -> None:
        """Add the frame to its pool."""
        self.flight.position = await broker.publish_tasks(Pool(self.frame.pool), encode(self.leaving(now)), self.message_id)


@dataclass(frozen=True, slots=True)
class Mailing:
    """A message for the inbox of a partition, because of the turn `sequence`."""

    sequence: int
    partition: Partition
    data: bytes

    async def publish(self, broker: Broker, now: float) -> None:
        """Add it to the inbox. Whoever reads it there takes a second copy as it takes the first."""
        await broker.post(self.partition, self.data)


Refuse = Callable[[Departure, StepmeshError], list[Departure]]
"""Told of a frame that the broker will never take; gives what is to be published in its place."""


class Outbox:
    """One shard's publisher."""

    def __init__(self, broker: Broker, confirmed: int, refuse: Refuse, clock: Clock) -> None:
        self._broker = broker
        self._clock = clock
        self._refuse = refuse
        self._queue: deque[Departure | Mailing] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._moved = asyncio.Event()
        self._latest = confirmed
        self.confirmed = confirmed
        self.departed = 0  # the last turn that had anything to publish
        self.published = 0  # frames

    def __len__(self) -> int:
        """What is not published yet."""
        return len(self._queue)

    def put(self, sequence: int, departures: Sequence[Departure | Mailing]) -> None:
        """The turn `sequence` is durable and causes these."""
        self._latest = sequence
        if departures:
            self.departed = sequence
            self._queue.extend(departures)
            self._idle.clear()
            self._wake.set()
        elif not self._queue:
            self.confirmed = sequence

    def mark(self, departure: Departure) -> None:
        """Publish something that no turn has caused."""
        self._queue.append(departure)
        self._idle.clear()
        self._wake.set()

    async def drained(self) -> None:
        """Until everything is published."""
        await self._idle.wait()

    async def below(self, frames: int) -> None:
        """Until fewer than `frames` wait."""
        while len(self._queue) >= frames:
            self._moved.clear()
            await self._moved.wait()

    async def run(self) -> None:
        """Publish for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                batch = [self._queue[index] for index in range(min(len(self._queue), _MAX_AT_ONCE))]
                await self._publish(batch)
                for _ in batch:
                    self._queue.popleft()
                self.confirmed = self._queue[0].sequence - 1 if self._queue else self._latest
                self._moved.set()
            self._idle.set()

    async def _publish(self, batch: list[Departure | Mailing]) -> None:
        while batch:
            outcomes = await asyncio.gather(*map(self._publish_one, batch), return_exceptions=True)
            left: list[Departure | Mailing] = []
            away = False
            for departure, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, BrokerUnavailable):
                    away = True
                    left.append(departure)
                elif isinstance(outcome, StepmeshError):
                    left.extend(self._refused(departure, outcome))
                elif outcome is not None:
                    raise outcome
            batch = left
            if away:
                await asyncio.sleep(_RETRY_S)

    def _refused(self, departure: Departure | Mailing, problem: StepmeshError) -> list[Departure]:
        if isinstance(departure, Departure):
            return self._refuse(departure, problem)
        log.error("SM-5219 partition %d is not told something, for its inbox never takes it: %s", departure.partition, problem)
        return []

    async def _publish_one(self, departure: Departure | Mailing) -> None:
        await departure.publish(self._broker, self._clock.monotonic())
        self.published += 1
