"""Who is there and who holds what, told by a log: records in one order, each with the time at which the log took it.

The log arbitrates: all members go through the same records with the same times, so all come to the same state, and a partition is held by
whose `take` was the first that found it free. The time is that of the log's own clock; "now" is the time of the newest record. A
summary of the state lets the records before it be forgotten. Pure; must not know which log it is.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.ports import Member, Members


class Act(enum.IntEnum):
    """What a member does."""

    BEAT = 0
    TAKE = 1
    RELEASE = 2
    LEAVE = 3
    SUMMARY = 4


class Present(NamedTuple):
    """A member and when it will be gone, in the log's time."""

    member: Member
    until: float


class Lease(NamedTuple):
    """Who holds a partition, and until when."""

    node: str
    until: float


class Summary(msgspec.Struct, array_like=True, frozen=True):
    """The state after the record at `through`."""

    through: int
    now: float
    present: dict[str, Present]
    leases: dict[int, Lease]


class Deed(msgspec.Struct, array_like=True, frozen=True, omit_defaults=True):
    """A record: the member `node` does `act`."""

    act: Act
    node: str = ""
    ttl_s: float = 0.0
    partition: int = 0
    release: str = ""
    leaving: bool = False
    summary: Summary | None = None


class Told(NamedTuple):
    """A record's place, the log's time there, and what it says."""

    position: int
    at_s: float
    data: bytes


encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Deed).decode


class Leases:
    """The state after the record at `position`; `base` is where the log begins, as far as it is known: after the record there."""

    def __init__(self) -> None:
        self.position = 0
        self.base = 0
        self._now = 0.0
        self._present: dict[str, Present] = {}
        self._leases: dict[int, Lease] = {}

    def hear(self, told: Told) -> None:
        """The next record. What cannot be read says nothing."""
        self.position = told.position
        self._now = max(self._now, told.at_s)
        self._forget()
        try:
            deed = _decode(told.data)
        except msgspec.DecodeError:
            return
        if deed.act is Act.BEAT:
            self._beat(Member(deed.node, deed.release, deed.leaving), self._now + deed.ttl_s)
        elif deed.act is Act.TAKE and self._holder(deed.partition) in ("", deed.node):
            self._leases[deed.partition] = Lease(deed.node, self._now + deed.ttl_s)
        elif deed.act is Act.RELEASE and self._holder(deed.partition) == deed.node:
            del self._leases[deed.partition]
        elif deed.act is Act.LEAVE:
            self._present.pop(deed.node, None)
            self._leases = {partition: lease for partition, lease in self._leases.items() if lease.node != deed.node}

    def members(self) -> Members:
        """Who is there now."""
        present = {node: found.member for node, found in self._present.items()}
        return Members(present, {Partition(partition): lease.node for partition, lease in self._leases.items()})

    def holds(self, partition: Partition, node: str) -> bool:
        """Whether it is the holder now."""
        return self._holder(partition) == node

    def summary(self) -> Deed:
        """What stands for all records up to here."""
        return Deed(Act.SUMMARY, summary=Summary(self.position, self._now, dict(self._present), dict(self._leases)))

    @classmethod
    def told_by(cls, records: Sequence[Told]) -> Leases | None:
        """The state after all records of a log; None when its oldest ones are forgotten and no summary stands for them."""
        leases = cls()
        summaries = [found for told in records if (found := _summary(told.data)) is not None]
        if summaries:  # two members may shorten at once, and the one that read less write last
            leases._begin_at(max(summaries, key=lambda summary: summary.through))
        leases.base = records[0].position - 1 if records else 0
        if leases.base > leases.position:
            return None
        for told in records:
            if told.position > leases.position:
                leases.hear(told)
        return leases

    def _begin_at(self, summary: Summary) -> None:
        self.position, self._now = summary.through, summary.now
        self._present, self._leases = dict(summary.present), dict(summary.leases)

    def _beat(self, member: Member, until: float) -> None:
        self._present[member.node] = Present(member, until)
        for partition, lease in self._leases.items():
            if lease.node == member.node:
                self._leases[partition] = lease._replace(until=until)

    def _holder(self, partition: int) -> str:
        lease = self._leases.get(partition)
        return lease.node if lease else ""

    def _forget(self) -> None:
        """A time is over when the clock is past it: it may be coarse."""
        self._present = {node: found for node, found in self._present.items() if found.until >= self._now}
        self._leases = {partition: lease for partition, lease in self._leases.items() if lease.until >= self._now}


def _summary(data: bytes) -> Summary | None:
    try:
        return _decode(data).summary
    except msgspec.DecodeError:
        return None
