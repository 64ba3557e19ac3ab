"""This process among those that share the partitions: says that it is here, takes what it should hold and nobody holds, hands over what
it should not hold any more.

Invariant: nothing is held here for longer than the time to live after the last beat that was answered. That keeps two owners apart in all
but the worst case, and the journal's epochs do in that one. It must not know what holding a partition takes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from stepmesh_broker.ending import cancelled
from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.core.placement import placement
from stepmesh_orchestrator.ports import Clock, Member, Members, Membership, MembershipError, MembershipFull
from stepmesh_orchestrator.runtime.holding import Holding

log = logging.getLogger("stepmesh.cluster")
TTL_S = 3.0
"""How long a member may be silent before the others take what it holds, seconds."""
HAND_OVERS_AT_ONCE = 2
"""The others go on meanwhile, so each stands still only for its own hand-over."""


class Sharing:
    """`open_one` starts to hold a partition whose lease was taken. `tell` has the other members look at once."""

    def __init__(
        self,
        membership: Membership,
        member: Member,
        ttl_s: float,
        partitions: int,
        clock: Clock,
        open_one: Callable[[Partition], Holding],
        tell: Callable[[], Awaitable[None]],
    ) -> None:
        self.holdings: dict[Partition, Holding] = {}
        self.gave_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._membership = membership
        self._member = member
        self._ttl_s = ttl_s
        self._partitions = partitions
        self._clock = clock
        self._open_one = open_one
        self._tell = tell
        self._seen = Members({}, {})
        self._until = 0.0
        self._wake = asyncio.Event()
        self._moves: dict[Partition, tuple[Holding, asyncio.Task[None]]] = {}
        self._slots = asyncio.Semaphore(HAND_OVERS_AT_ONCE)
        self._tasks: list[asyncio.Task[None]] = []

    def is_held(self) -> bool:
        """Whether what is held here is, as far as time says."""
        return self._clock.monotonic() < self._until

    def owner(self, partition: Partition) -> str:
        """Who held it at the last look; "" for nobody."""
        return self._member.node if partition in self.holdings else self._seen.leases.get(partition, "")

    def look(self) -> None:
        """Beat and look at once."""
        self._wake.set()

    async def join(self) -> None:
        """The first beat and look; then they go on by themselves. Raises `MembershipError`."""
        await self._beat()
        await self._arrange()
        await self._tell()
        self._tasks = [asyncio.create_task(self._beats()), asyncio.create_task(self._watch())]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    async def leave(self) -> None:
        """Take nothing more, hand over everything, and be gone."""
        self._member = self._member._replace(leaving=True)
        self.look()
        while self.holdings or self._moves:
            for partition in tuple(self.holdings):
                self._move(partition, self._handed_over)
            await asyncio.wait([move for _, move in self._moves.values()])
        await self._end()
        try:
            await self._membership.leave(self._member.node)
        except MembershipError as problem:
            log.warning("the others learn of the leave later: %s", problem)
        await self._tell()

    async def abort(self) -> None:
        """End at once, as a crash would; the others learn of it when the time is over."""
        await self._end()
        held = [*self.holdings.values(), *(holding for holding, _ in self._moves.values())]
        self.holdings.clear()
        moves = [move for _, move in self._moves.values()]
        await cancelled(moves)
        await asyncio.gather(*(holding.drop() for holding in held))

    async def _end(self) -> None:
        await cancelled(self._tasks)

    async def _beats(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._ttl_s / 3):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                await self._beat()
                await self._arrange()
            except MembershipError as problem:
                log.warning("who else is there is not known: %s", problem)

    async def _beat(self) -> None:
        """The time to live counts from before the call, so that it is over here before it is over there. That there is no space for a beat
        is an answer too: there is none for anybody who would take what is held here, and its reads go on meanwhile."""
        asked = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._ttl_s / 2):
                self._seen = await self._membership.beat(self._member, self._ttl_s)
        except TimeoutError as silence:
            raise MembershipError(f"a beat was not answered within {self._ttl_s / 2:g} s") from silence
        except MembershipFull:
            self._until = asked + self._ttl_s
            raise
        self._until = asked + self._ttl_s

    async def _watch(self) -> None:
        """Let go of everything when beats were not answered for too long."""
        while True:
            await self._clock.sleep(max(self._until - self._clock.monotonic(), self._ttl_s / 50))
            if not self.is_held() and self.holdings:
                log.error("no beat was answered for %g s: what is held here is given up", self._ttl_s)
                self._drop_all()

    def _drop_all(self) -> None:
        for partition in tuple(self.holdings):
            self._move(partition, self._dropped)

    # --- from what is to what should be ------------------------------------------------------------------------

    async def _arrange(self) -> None:
        leases, me = self._seen.leases, self._member.node
        for partition in [partition for partition in self.holdings if leases.get(partition) != me]:
            log.warning("partition %d is not held here any more", partition)
            self._move(partition, self._dropped)
        placed = placement(self._partitions, [one.node for one in self._seen.members.values() if not one.leaving], leases)
        for partition in tuple(self.holdings):
            if placed.get(partition) != me:
                self._move(partition, self._handed_over)
        for partition in map(Partition, range(self._partitions)):
            if partition not in self.holdings and partition not in self._moves and leases.get(partition) in (None, me):
                await self._take_or_leave(partition, wanted=placed.get(partition) == me)
                if self._clock.monotonic() > self._until - self._ttl_s * 2 / 3:  # the rest after a beat, or what was taken runs out
                    self.look()
                    break
        self._give_up_if_hopeless()

    async def _take_or_leave(self, partition: Partition, *, wanted: bool) -> None:
        """What nobody holds, or what was not released when it should have been."""
        me = self._member.node
        if not wanted or self._member.leaving:
            if partition in self._seen.leases:
                await self._membership.release(partition, me)
        elif await self._membership.take(partition, me, self._ttl_s):
            self.holdings[partition] = self._open_one(partition)

    def _move(self, partition: Partition, how: Callable[[Holding], Awaitable[None]]) -> None:
        holding = self.holdings.pop(partition)
        self._moves[partition] = holding, asyncio.create_task(self._moved(holding, how))

    async def _moved(self, holding: Holding, how: Callable[[Holding], Awaitable[None]]) -> None:
        try:
            await how(holding)
        except MembershipError as problem:
            log.warning("partition %d is free when its time is over: %s", holding.partition, problem)
        finally:
            await holding.drop()  # there is something left only if this was cut short
            del self._moves[holding.partition]
        await self._tell()

    async def _handed_over(self, holding: Holding) -> None:
        async with self._slots:
            await holding.hand_over()
            await self._membership.release(holding.partition, self._member.node)

    async def _dropped(self, holding: Holding) -> None:
        await holding.drop()

    def _give_up_if_hopeless(self) -> None:
        """When nothing here can be held: the others may do better."""
        hopeless = bool(self.holdings) and all(holding.is_hopeless for holding in self.holdings.values())
        if hopeless and not self.gave_up.done():
            problem = next(iter(self.holdings.values())).problem
            self.gave_up.set_exception(problem or RuntimeError("no partition can be held"))

    def _ended(self, task: asyncio.Task[None]) -> None:
        problem = None if task.cancelled() else task.exception()
        if problem is not None and not self.gave_up.done():
            self.gave_up.set_exception(problem)
