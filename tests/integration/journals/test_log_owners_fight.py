"""Two processes that fight for one partition on a real server: one chain, and every append that returned is in it."""

from __future__ import annotations

import asyncio
import random
import uuid

import pytest

from stepmesh_broker.protocol.ids import Namespace, Partition
from stepmesh_orchestrator.journal.jetstream import JetStreamJournal
from stepmesh_orchestrator.journal.kafka import KafkaJournal
from stepmesh_orchestrator.ports import Journal, StaleOwner

P = Partition(1)


def opened(kind: str, request: pytest.FixtureRequest, namespace: Namespace) -> Journal:
    if kind == "kafka":
        return KafkaJournal(request.getfixturevalue("kafka_url"), namespace, 2)
    return JetStreamJournal(request.getfixturevalue("nats_url"), namespace)


async def fight(journal: Journal, dice: random.Random, returned: dict[int, bytes]) -> int:
    """Acquire and append at random; how often this one was driven out."""
    lost = 0
    for _ in range(6):
        ownership = await journal.acquire(P, "owner")
        try:
            for sequence in range(ownership.next_sequence, ownership.next_sequence + dice.randrange(1, 12)):
                payload = b"%d of epoch %d " % (sequence, ownership.epoch) * dice.choice((1, 1, 1, 100_000))
                await journal.append(P, ownership.epoch, sequence, payload)
                assert sequence not in returned
                returned[sequence] = payload
                await asyncio.sleep(dice.uniform(0, 0.003))
        except StaleOwner:
            lost += 1
    return lost


@pytest.mark.parametrize("kind", ["jetstream", "kafka"])
async def test_two_owners_that_fight_leave_one_chain(kind: str, request: pytest.FixtureRequest) -> None:
    lost = 0
    for seed in range(5):
        namespace = Namespace(f"t{uuid.uuid4().hex[:12]}")
        first, second = opened(kind, request, namespace), opened(kind, request, namespace)
        returned: dict[int, bytes] = {}
        try:
            await first.open()
            await second.open()
            lost += sum(
                await asyncio.gather(*(fight(journal, random.Random(seed + n), returned) for n, journal in enumerate((first, second))))
            )
            stored = [frame async for frame in second.read(P)]
        finally:
            await first.close()
            await second.close()
        assert {frame.sequence: frame.payload for frame in stored if frame.sequence in returned} == returned, f"seed {seed}"
        assert [frame.epoch for frame in stored] == sorted(frame.epoch for frame in stored)
    assert lost > 0
