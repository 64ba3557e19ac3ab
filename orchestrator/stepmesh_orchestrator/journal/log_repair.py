"""Repairing a journal in a broker's log, of which nothing can be altered: an owner says where it stands from now on, and what is bad goes.

Invariant: at every moment the log is damaged as before, or good; broken off, a repair is done once more. A log that cannot forget its end
keeps it: then only the beginning can go. Must not know which broker it is, nor what frames hold.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import NamedTuple

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.journal.framing import ChainWalk
from stepmesh_orchestrator.journal.log_reading import LogReader, Standing
from stepmesh_orchestrator.journal.log_records import encode, owner_record
from stepmesh_orchestrator.journal.record_log import Overtaken, RecordLog
from stepmesh_orchestrator.journal.rules import Head, JournalInUse
from stepmesh_orchestrator.journal.salvage import Kept, Piece
from stepmesh_orchestrator.ports import JournalError


class _Place(NamedTuple):
    """Where the frames lie that stay: from `first` on, before `after`; 0: there are none. `beyond`: there are others above the last one."""

    first: int
    after: int
    beyond: bool


async def pieces(kind: str, log: RecordLog, partition: Partition) -> AsyncIterator[Piece]:
    """The records of a log, as they are."""
    newest = (await log.tail(partition, 1)).entries
    if newest:
        async for entry in log.scan(partition, 1, newest[-1].position):
            yield Piece(kind, entry.position, {"record": entry.data})


async def keep(log: RecordLog, reader: LogReader, partition: Partition, standing: Standing, kept: Kept) -> None:
    """Forget the frames that are not of `kept`. Raises `JournalInUse`, and SM-4221 where the log keeps its end."""
    head = kept.head._replace(epoch=max(kept.head.epoch, standing.head.epoch))
    place = await _place(reader, partition, standing, head)
    if head == standing.head and not place.beyond:
        return
    if (place.beyond or head.sequence != standing.head.sequence) and not log.cuts:
        raise JournalError(
            f"partition {partition} verifies up to frame {head.sequence} of {standing.head.sequence}, and a topic cannot forget its end",
            code="SM-4221",
            hint="nothing was changed; restore the topic from a backup or a mirror, or start anew in another namespace",
        )
    record = owner_record(head._replace(epoch=head.epoch + 1), secrets.randbits(63), "repair")
    try:
        position = await log.append(partition, encode(record), standing.position)
    except Overtaken:
        raise JournalInUse(f"somebody writes to partition {partition}", hint="stop the deployment, then repair") from None
    if place.beyond and place.after:
        await log.cut(partition, place.after, position - 1)
    await log.drop_before(partition, place.first or position)


async def _place(reader: LogReader, partition: Partition, standing: Standing, head: Head) -> _Place:
    cursor = reader.whole(partition)
    walk = ChainWalk(partition, head.trimmed, head.trimmed_chain)
    first = after = 0
    beyond = False
    async with aclosing(cursor.frames(standing.position)) as frames:
        async for located in frames:
            beyond = beyond or located.frame.sequence > head.sequence
            if walk.sequence < head.sequence and not walk.defect(located.frame):
                first = first or located.position
                after = cursor.position
    return _Place(first, after, beyond)
