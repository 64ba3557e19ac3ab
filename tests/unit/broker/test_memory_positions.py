"""A broker in memory begins anew with each process, and a journal on disk remembers how far it read the one before."""

from __future__ import annotations

from stepmesh_broker.memory import MemoryBroker, MemoryBus
from stepmesh_broker.protocol.ids import Namespace, Partition

P = Partition(0)


async def test_an_inbox_of_a_later_process_begins_above_that_of_an_earlier_one() -> None:
    earlier, later = (MemoryBroker(MemoryBus(), Namespace("default")) for _ in range(2))
    await earlier.connect()
    read = [await earlier.post(P, b"%d" % number) for number in range(3)][-1]
    await later.connect()
    await later.post(P, b"new")
    inbox = await later.inbox(P, read)
    assert [entry.data for entry in await inbox.fetch(10, 1.0)] == [b"new"]
