"""The Membership port in memory: one object that all members of a simulated cluster share.

Time is the given clock's, so that a simulation decides when somebody's time is over. Nothing runs out by itself: what is over is
left out when somebody looks.
"""

from __future__ import annotations

from typing import NamedTuple

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.ports import Clock, Member, Members


class _Present(NamedTuple):
    member: Member
    until: float


class _Lease(NamedTuple):
    node: str
    until: float


class MemoryMembership:
    """Survives its members, not the process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._present: dict[str, _Present] = {}
        self._leases: dict[Partition, _Lease] = {}

    async def open(self) -> None:
        """See the port."""

    async def close(self) -> None:
        """See the port. Who is there stays, for the others."""

    async def beat(self, member: Member, ttl_s: float) -> Members:
        """See the port."""
        until = self._forget() + ttl_s
        self._present[member.node] = _Present(member, until)
        for partition, lease in self._leases.items():
            if lease.node == member.node:
                self._leases[partition] = lease._replace(until=until)
        return Members(
            {node: present.member for node, present in self._present.items()},
            {partition: lease.node for partition, lease in self._leases.items()},
        )

    async def take(self, partition: Partition, node: str, ttl_s: float) -> bool:
        """See the port."""
        now = self._forget()
        held = self._leases.get(partition)
        if held is not None and held.node != node:
            return False
        self._leases[partition] = _Lease(node, now + ttl_s)
        return True

    async def release(self, partition: Partition, node: str) -> None:
        """See the port."""
        held = self._leases.get(partition)
        if held is not None and held.node == node:
            del self._leases[partition]

    async def leave(self, node: str) -> None:
        """See the port."""
        self._present.pop(node, None)
        self._leases = {partition: lease for partition, lease in self._leases.items() if lease.node != node}

    def _forget(self) -> float:
        """Drop what is over; the time now."""
        now = self._clock.monotonic()
        self._present = {node: present for node, present in self._present.items() if present.until > now}
        self._leases = {partition: lease for partition, lease in self._leases.items() if lease.until > now}
        return now
