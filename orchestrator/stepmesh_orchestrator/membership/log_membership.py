"""The Membership port over a broker's log: say it, then read what the log says up to there. Two round trips a call.

Invariant: an answer is the state at this call's own record, the same for all who read that far. Whoever finds the log long writes a summary
and forgets what it stands for. Must not know which broker it is.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.membership.lease_log import Act, Deed, Leases, Told, encode
from stepmesh_orchestrator.ports import Member, Members, MembershipError

LONG = 512
"""Records after which a log is shortened."""
_ATTEMPTS = 20
"""To be heard, while others shorten the log."""
_PAUSE_S = 0.01


class MemberLog(Protocol):
    """A log of one partition, positions from 1 on without gaps. Every call raises `MembershipError`."""

    async def open(self) -> None:
        """Connect or create."""
        ...

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        ...

    async def append(self, data: bytes) -> int:
        """Add a record; its position."""
        ...

    async def read(self, first: int, last: int) -> list[Told]:
        """The records from `first` to `last`, of which the oldest may be forgotten."""
        ...

    async def drop_before(self, position: int) -> None:
        """Forget the records below a position."""
        ...


class LogMembership:
    """What both logs share."""

    def __init__(self, log: MemberLog) -> None:
        self._log = log
        self._leases = Leases()
        self._alone = asyncio.Lock()

    async def open(self) -> None:
        """See the port."""
        await self._log.open()
        self._leases = Leases()

    async def close(self) -> None:
        """See the port."""
        await self._log.close()

    async def beat(self, member: Member, ttl_s: float) -> Members:
        """See the port."""
        leases = await self._tell(Deed(Act.BEAT, member.node, ttl_s, release=member.release, leaving=member.leaving))
        if leases.position - leases.base >= LONG:
            await self._shorten()
        return leases.members()

    async def take(self, partition: Partition, node: str, ttl_s: float) -> bool:
        """See the port."""
        return (await self._tell(Deed(Act.TAKE, node, ttl_s, partition))).holds(partition, node)

    async def release(self, partition: Partition, node: str) -> None:
        """See the port."""
        await self._tell(Deed(Act.RELEASE, node, partition=partition))

    async def leave(self, node: str) -> None:
        """See the port."""
        await self._tell(Deed(Act.LEAVE, node))

    async def _tell(self, deed: Deed) -> Leases:
        """Add a record; the state right after it."""
        async with self._alone:
            for _ in range(_ATTEMPTS):
                position = await self._log.append(encode(deed))
                if await self._follow(position):
                    return self._leases
                await asyncio.sleep(_PAUSE_S)
        raise MembershipError(
            "the log of the members lacks its oldest records, and no summary stands for them",
            code="SM-4231",
            hint="does somebody else remove them? Stop the orchestrators, then delete the members' topic or stream: nothing in it lasts",
        )

    async def _follow(self, position: int) -> bool:
        """Go on to the record at a position; False when it is forgotten already, so that it must be said again."""
        first = self._leases.position + 1
        told = await self._log.read(first, position)
        if told and told[0].position == first:
            for record in told:
                self._leases.hear(record)
        else:  # the records that come next are forgotten
            leases = Leases.told_by(await self._log.read(1, position))
            if leases is None or leases.position != position:
                return False
            self._leases = leases
        return self._leases.position == position

    async def _shorten(self) -> None:
        async with self._alone:
            through = self._leases.position
            await self._log.append(encode(self._leases.summary()))
            await self._log.drop_before(through + 1)
            self._leases.base = through
