"""One partition at a node of a cluster, from the moment its lease was taken: started, started again after a failure, handed over.

Invariant: of one partition there is never more than one service here, and none once `hand_over` or `drop` returned. It must not know
who else there is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from stepmesh_broker.ending import cancelled
from stepmesh_broker.errors import BrokerUnavailable, InboxTaken
from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.journal.rules import JournalUnavailable
from stepmesh_orchestrator.ports import Clock, StaleOwner, StoreError
from stepmesh_orchestrator.runtime.owners import moving
from stepmesh_orchestrator.runtime.partition import PartitionService

log = logging.getLogger("stepmesh.cluster")
PAUSE_S = (0.5, 30.0)
"""Before a partition that failed is started again: first, and largest (seconds); it doubles between."""
DOUBLINGS = 10
"""Of that pause at most: an outage of hours makes thousands of failures, and no number holds two to the power of those."""
AWAY_S = 2.0
"""The largest such pause while journal, store or broker are away: when they are back, nothing is wrong with the partition."""
GIVE_UP = 5
"""Failures in a row after which there is no hope here."""
STEADY_S = 60.0
"""A partition that ran for so long has recovered: its next failure is its first."""
HAND_OVER_S = 15.0
"""What a partition gets to finish its turn and to let its effects out; then it is ended as by a crash."""
CLEAN_UP_S = 5.0
"""What a start that is broken off gets to leave nothing behind."""

Make = Callable[[Partition, Callable[[BaseException], None]], PartitionService]
Told = Callable[[PartitionService], Awaitable[None]]


class Holding:
    """`make` gives a service that was not started. `opened` and `closed` hear of each that runs, and does no more; what `opened`
    raises is a failure. `failed` hears of failures, before the pause. `failures`: in a row; `problem`: the last one."""

    def __init__(self, partition: Partition, clock: Clock, make: Make, opened: Told, closed: Told, failed: Callable[[], None]) -> None:
        self.partition = partition
        self.failures = 0
        self.problem: BaseException | None = None
        self._fruitless = 0  # failures in a row in which nothing was away
        self._clock = clock
        self._make = make
        self._opened = opened
        self._closed = closed
        self._failed = failed
        self._service: PartitionService | None = None
        self._task = asyncio.create_task(self._run(), name=f"stepmesh partition {partition}")

    @property
    def is_hopeless(self) -> bool:
        """Whether it failed too often to expect anything, and not because something was away."""
        return self._fruitless >= GIVE_UP

    async def hand_over(self) -> None:
        """Finish what is begun, keep a snapshot, end."""
        await self._halt()
        if self._service is None:
            return
        await self._closed(self._service)
        try:
            async with asyncio.timeout(HAND_OVER_S):
                await self._service.stop()
            self._service = None
        except Exception as problem:
            log.warning("partition %d is handed over as by a crash: %s", self.partition, problem)
            await self.drop()

    async def drop(self) -> None:
        """End at once: another process has it."""
        await self._halt()
        service, self._service = self._service, None
        if service is not None:
            await self._end(service)

    async def _halt(self) -> None:
        await cancelled([self._task], CLEAN_UP_S)

    async def _run(self) -> None:
        pause, largest = PAUSE_S
        while True:
            self.problem = await self._live()
            self.failures += 1
            self._fruitless = 0 if is_away(self.problem) else self._fruitless + 1
            if isinstance(self.problem, StaleOwner | InboxTaken):
                log.warning("partition %d was taken by another process: %s", self.partition, self.problem)
            else:
                log.error("partition %d ended and is started again: %s", self.partition, self.problem)
            self._failed()
            longer = pause * 2 ** min(self.failures - 1, DOUBLINGS)
            await self._clock.sleep(min(longer, AWAY_S if is_away(self.problem) else largest))

    async def _live(self) -> BaseException:
        """One life of the service; why it ended."""
        ended: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        service = self._make(self.partition, lambda problem: None if ended.done() else ended.set_result(problem))
        try:
            await service.start()
        except Exception as problem:
            return problem
        self._service = service
        begun = self._clock.monotonic()
        try:
            await self._opened(service)
            why = await ended
        except Exception as problem:  # nobody can be told that it is here
            why = problem
        if self._clock.monotonic() - begun >= STEADY_S:
            self.failures = self._fruitless = 0
        self._service = None
        await self._end(service)
        return why

    async def _end(self, service: PartitionService) -> None:
        """Once begun it is brought to its end: half of a service would go on answering."""
        ending = asyncio.ensure_future(self._ended(service))
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:
            await ending
            raise

    async def _ended(self, service: PartitionService) -> None:
        service.shard.close(moving(self.partition))
        for part in (self._closed(service), service.abort()):
            try:
                await part
            except Exception as problem:
                log.warning("partition %d left something behind: %s", self.partition, problem)


def is_away(problem: BaseException | None) -> bool:
    """Whether something that a partition needs cannot be reached."""
    return isinstance(problem, JournalUnavailable | BrokerUnavailable) or (isinstance(problem, StoreError) and problem.retryable)
