"""What a journal needs of a broker's log: records per partition, in one order, each at a position that grows.

Two logs keep it: a JetStream stream, which refuses a record that does not follow the one its writer knows, and a Kafka topic, which takes
it and tells where it lies. Positions begin at 1; 0 is before the first. Must not know what records hold.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple, Protocol

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.ports import JournalError


class AppendUncertain(JournalError):
    """No answer in time: whether the record is in the log, only who reads it after becoming the owner knows."""

    default_code = "SM-4020"


class Overtaken(Exception):
    """Something lies between the record and the one it was to follow. `position`: where it lies nevertheless; None: it was refused."""

    def __init__(self, position: int | None) -> None:
        super().__init__(position)
        self.position = position


class Entry(NamedTuple):
    """Bytes at a position."""

    position: int
    data: bytes


class Tail(NamedTuple):
    """The newest entries, in order. `whole`: the first of them is the log's first."""

    entries: Sequence[Entry]
    whole: bool


class RecordLog(Protocol):
    """Every call raises `JournalError`; `JournalUnavailable` when the broker does not answer."""

    @property
    def refuses(self) -> bool:
        """Whether an entry that does not follow `after` is refused, so that every entry counts."""
        ...

    @property
    def cuts(self) -> bool:
        """Whether it can forget entries after which others lie."""
        ...

    @property
    def max_entry_bytes(self) -> int:
        """The largest entry; known once the connection is open."""
        ...

    async def tail(self, partition: Partition, count: int) -> Tail:
        """About the newest `count` entries, one at least when there is any. Sees all that was appended before the call."""
        ...

    async def at(self, partition: Partition, position: int) -> Entry | None:
        """The first entry at or above a position."""
        ...

    def scan(self, partition: Partition, first: int, last: int) -> AsyncIterator[Entry]:
        """The entries from `first` to `last`, fetched in batches as they are wanted."""
        ...

    async def append(self, partition: Partition, data: bytes, after: int | None) -> int:
        """Add an entry right after the one at `after` (None: wherever); its position. Raises `Overtaken`, `JournalFull` when nothing was
        kept for want of space, `AppendUncertain` when it may be there or not."""
        ...

    async def drop_before(self, partition: Partition, position: int) -> None:
        """Forget the entries below a position."""
        ...

    async def cut(self, partition: Partition, first: int, last: int) -> None:
        """Forget the entries from `first` to `last`, the newest first. Only where `cuts`."""
        ...

    async def partitions(self) -> Sequence[Partition]:
        """Those that ever had an entry, in order."""
        ...
