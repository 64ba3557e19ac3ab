"""Journals on a server that is killed, away, silent or fought over: what was acknowledged is there, and nothing else is in between."""

from __future__ import annotations

import asyncio
import random

import pytest
from tests.integration.databases.conftest import Journals, stopped

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.journal import JournalUnavailable
from stepmesh_orchestrator.journal.inspect import verify
from stepmesh_orchestrator.ports import Journal, Ownership, Snapshot, StaleOwner

P = Partition(0)
PARTITIONS = [Partition(number) for number in range(4)]
FEW = 8


async def payloads(journal: Journal, partition: Partition = P) -> list[bytes]:
    return [frame.payload async for frame in journal.read(partition)]


async def append_until_it_fails(journal: Journal, partition: Partition, acknowledged: list[bytes], enough: asyncio.Event) -> None:
    """A new owner, that goes on from what it finds; `enough` when it was answered a few frames."""
    ownership = await journal.acquire(partition, "owner")
    sequence = ownership.next_sequence
    acknowledged[:] = await payloads(journal, partition)
    while True:
        payload = b"%d of epoch %d " % (sequence, ownership.epoch) + bytes(2000)
        try:
            await journal.append(partition, ownership.epoch, sequence, payload)
        except JournalUnavailable:
            return
        acknowledged.append(payload)
        sequence += 1
        if sequence >= ownership.next_sequence + FEW:
            enough.set()


async def test_what_was_acknowledged_survives_kill_9_again_and_again(journals: Journals) -> None:
    journal = await journals.connect()
    acknowledged: dict[Partition, list[bytes]] = {partition: [] for partition in PARTITIONS}
    for _ in range(3):
        enough = {partition: asyncio.Event() for partition in PARTITIONS}
        appending = [
            asyncio.create_task(append_until_it_fails(journal, partition, acknowledged[partition], enough[partition]))
            for partition in PARTITIONS
        ]
        await asyncio.wait_for(asyncio.gather(*(event.wait() for event in enough.values())), 60)
        await asyncio.to_thread(journals.server.kill)
        await asyncio.wait_for(asyncio.gather(*appending), 60)
        await asyncio.to_thread(journals.server.start)
        for partition in PARTITIONS:
            found = await payloads(journal, partition)
            assert found[: len(acknowledged[partition])] == acknowledged[partition]
            assert len(found) <= len(acknowledged[partition]) + 1  # the last one was under way
            assert (await verify(journal, partition)).good


async def test_a_server_that_went_and_came_back_is_used_again(journals: Journals) -> None:
    journal = await journals.connect()
    old = await journal.acquire(P, "a")
    await journal.append(P, old.epoch, 1, b"one")
    await journal.save_snapshot(P, old.epoch, Snapshot(1, b"state"))
    await asyncio.to_thread(journals.server.stop)
    with pytest.raises(JournalUnavailable):
        await journal.append(P, old.epoch, 2, b"lost")
    with pytest.raises(JournalUnavailable):
        await payloads(journal)
    with pytest.raises(JournalUnavailable):
        await journal.acquire(P, "b")
    await asyncio.to_thread(journals.server.start)
    assert await payloads(journal) == [b"one"]
    new = await journal.acquire(P, "a")
    assert new == Ownership(old.epoch + 1, 2, old.journal_id)
    await journal.append(P, new.epoch, 2, b"two")
    assert [snapshot.payload for snapshot in await journal.snapshots(P)] == [b"state"]
    with pytest.raises(StaleOwner):
        await journal.append(P, old.epoch, 3, b"stale")
    assert await payloads(journal) == [b"one", b"two"]


async def test_connections_that_died_while_they_were_idle_cost_no_call(journals: Journals) -> None:
    journal = await journals.connect()
    owners = {partition: await journal.acquire(partition, "a") for partition in PARTITIONS}
    await asyncio.gather(*(journal.append(partition, owners[partition].epoch, 1, b"one") for partition in PARTITIONS))
    await asyncio.to_thread(journals.server.kill)
    await asyncio.to_thread(journals.server.start)
    await asyncio.gather(*(journal.append(partition, owners[partition].epoch, 2, b"two") for partition in PARTITIONS))
    assert [await payloads(journal, partition) for partition in PARTITIONS] == [[b"one", b"two"]] * len(PARTITIONS)


async def test_a_silent_server_is_given_up_and_used_again_when_it_speaks(journals: Journals) -> None:
    journal = await journals.connect(timeout_s=0.5)
    owner = await journal.acquire(P, "a")
    with stopped(journals.server):
        async with asyncio.timeout(30):
            with pytest.raises(JournalUnavailable):
                await journal.append(P, owner.epoch, 1, b"perhaps")
            with pytest.raises(JournalUnavailable):
                await journal.acquire(P, "b")

    async def acquired() -> Ownership | None:
        try:
            return await journal.acquire(P, "b")
        except JournalUnavailable:  # what the silent server was asked before may still hold the partition
            return None

    async with asyncio.timeout(30):
        while (successor := await acquired()) is None:
            await asyncio.sleep(0.05)
    found = await payloads(journal)
    assert found in ([], [b"perhaps"])
    assert successor.next_sequence == len(found) + 1
    with pytest.raises(StaleOwner):
        await journal.append(P, owner.epoch, successor.next_sequence, b"stale")
    await journal.append(P, successor.epoch, successor.next_sequence, b"goes on")
    assert await payloads(journal) == [*found, b"goes on"]


class Owner:
    """One process that believes to own the partition, until it is told otherwise."""

    def __init__(self, name: str, journal: Journal, kept: dict[int, bytes]) -> None:
        self.name = name
        self.journal = journal
        self.kept = kept
        self.epoch = 0
        self.next = 1
        self.counts = {"acquired": 0, "appended": 0, "fenced": 0}

    async def acquire(self) -> None:
        ownership = await self.journal.acquire(P, self.name)
        self.epoch, self.next = ownership.epoch, ownership.next_sequence
        self.counts["acquired"] += 1

    async def append(self) -> None:
        sequence, payload = self.next, f"{self.name}, epoch {self.epoch}, frame {self.next}".encode()
        try:
            await self.journal.append(P, self.epoch, sequence, payload)
        except StaleOwner:
            self.counts["fenced"] += 1
            return
        assert sequence not in self.kept, "two frames with one sequence were answered"
        self.kept[sequence] = payload
        self.next = sequence + 1
        self.counts["appended"] += 1


@pytest.mark.parametrize("seed", range(3))
async def test_two_owners_that_fight_make_one_chain(journals: Journals, seed: int) -> None:
    chance = random.Random(seed)
    kept: dict[int, bytes] = {}
    owners = [Owner(name, await journals.connect(), kept) for name in ("left", "right")]
    for _ in range(60):
        steps = [chance.choice([owner.append, owner.append, owner.append, owner.acquire]) for owner in owners]
        for _ in range(chance.randrange(3)):
            await steps[0]()
        await asyncio.gather(*(step() for step in steps))
    assert all(min(owner.counts.values()) > 0 for owner in owners), [owner.counts for owner in owners]
    for owner in owners:
        assert await payloads(owner.journal) == [kept[sequence] for sequence in range(1, len(kept) + 1)]
    assert (await verify(owners[0].journal, P)).good
