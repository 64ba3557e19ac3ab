"""Membership in the logs of brokers: the port's promises, the log's clock, and that the log stays short."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from stepmesh_broker.protocol.ids import Namespace, Partition
from stepmesh_orchestrator.membership import log_membership
from stepmesh_orchestrator.membership.jetstream import JetStreamMembership
from stepmesh_orchestrator.membership.kafka import KafkaMembership
from stepmesh_orchestrator.membership.log_membership import LogMembership
from stepmesh_orchestrator.ports import Member, MembershipError

LONG, SHORT = 3600.0, 0.3
P, Q = Partition(3), Partition(0)
A, B, C = (Member(node, "1.2.3") for node in ("a-1", "b-1", "c-1"))
BACKENDS = ["jetstream", "jetstream-cluster", "kafka", "kafka-cluster"]


class Cluster:
    """One deployment; each member has a connection of its own."""

    def __init__(self, kind: str, url: str) -> None:
        self.kind = kind
        self._url = url
        self._namespace = Namespace(f"t{uuid.uuid4().hex[:12]}")
        self._open: list[LogMembership] = []

    def member(self) -> LogMembership:
        if self.kind.startswith("kafka"):
            return KafkaMembership(self._url, self._namespace)
        return JetStreamMembership(self._url, self._namespace, 3 if self.kind == "jetstream-cluster" else None)

    async def connect(self) -> LogMembership:
        membership = self.member()
        await membership.open()
        self._open.append(membership)
        return membership

    async def close(self) -> None:
        for membership in self._open:
            await membership.close()


@pytest.fixture(params=BACKENDS)
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    fixture = {"jetstream": "nats_url", "jetstream-cluster": "nats_cluster_url", "kafka": "kafka_url", "kafka-cluster": "kafka_cluster_url"}
    made = Cluster(request.param, request.getfixturevalue(fixture[request.param]))
    yield made
    await made.close()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await holds():
            await asyncio.sleep(0.02)


async def test_members_see_each_other_and_what_each_one_holds(cluster: Cluster) -> None:
    first, second = await cluster.connect(), await cluster.connect()
    found = await first.beat(A, LONG)
    assert (dict(found.members), dict(found.leases)) == ({A.node: A}, {})
    leaving = Member(B.node, "1.3.0", leaving=True)
    assert (await second.beat(leaving, LONG)).members == {A.node: A, B.node: leaving}
    assert await first.take(P, A.node, LONG)
    assert not await second.take(P, B.node, LONG)
    assert await second.take(Q, B.node, LONG)
    assert (await first.beat(A, LONG)).leases == {P: A.node, Q: B.node}
    late = await cluster.connect()
    found = await late.beat(C, LONG)
    assert (dict(found.members), dict(found.leases)) == ({A.node: A, B.node: leaving, C.node: C}, {P: A.node, Q: B.node})


async def test_who_is_silent_is_gone_with_what_it_held_and_not_earlier(cluster: Cluster) -> None:
    first, other = await cluster.connect(), await cluster.connect()
    begun = time.monotonic()
    await first.beat(A, SHORT)
    assert await first.take(P, A.node, SHORT)

    async def took() -> bool:
        return await other.take(P, B.node, LONG)

    await until(took)
    assert time.monotonic() - begun >= SHORT
    found = await first.beat(C, LONG)
    assert (dict(found.members), dict(found.leases)) == ({C.node: C}, {P: B.node})
    assert not await first.take(P, A.node, LONG)


async def test_a_beats_time_is_that_of_the_leases_as_well(cluster: Cluster) -> None:
    first, other = await cluster.connect(), await cluster.connect()
    assert await first.take(P, A.node, LONG)
    assert await first.take(Q, B.node, LONG)  # of somebody who never beats
    await first.beat(A, SHORT)

    async def free() -> bool:
        return (await other.beat(C, LONG)).leases == {Q: B.node}

    await until(free)
    assert await other.take(P, C.node, LONG)
    assert not await other.take(Q, C.node, LONG)


async def test_one_of_many_who_take_at_once_holds_it(cluster: Cluster) -> None:
    members = [await cluster.connect() for _ in range(4)]
    for partition in map(Partition, range(8)):
        took = await asyncio.gather(*(member.take(partition, f"n-{number}", LONG) for number, member in enumerate(members)))
        winner = (await members[0].beat(A, LONG)).leases[partition]
        assert [f"n-{number}" for number, success in enumerate(took) if success] == [winner]


async def test_what_is_released_or_left_can_be_taken_at_once(cluster: Cluster) -> None:
    first, second = await cluster.connect(), await cluster.connect()
    await first.beat(A, LONG)
    for partition in (P, Q):
        assert await first.take(partition, A.node, LONG)
    await second.release(P, B.node)
    assert not await second.take(P, B.node, LONG)
    await first.release(P, A.node)
    assert await second.take(P, B.node, LONG)
    await first.leave(A.node)
    found = await second.beat(B, LONG)
    assert (dict(found.members), dict(found.leases)) == ({B.node: B}, {P: B.node})
    assert await second.take(Q, B.node, LONG)


async def test_a_connection_is_closed_quietly_and_opened_anew(cluster: Cluster) -> None:
    first, second = await cluster.connect(), await cluster.connect()
    await first.beat(A, LONG)
    await first.close()
    await first.close()
    with pytest.raises(MembershipError) as raised:
        await first.beat(A, LONG)
    assert raised.value.code == "SM-4200"
    assert A.node in (await second.beat(B, LONG)).members
    await first.open()
    assert B.node in (await first.beat(A, LONG)).members


async def test_the_log_stays_short_and_nobody_is_forgotten(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_membership, "LONG", 10)
    first, slow = await cluster.connect(), await cluster.connect()
    await slow.beat(B, LONG)
    assert await slow.take(Q, B.node, LONG)
    for _ in range(35):
        await first.beat(A, LONG)
    assert len(await first._log.read(1, first._leases.position)) < 15
    expected = ({A.node, B.node, C.node}, {Q: B.node})
    for membership in (slow, await cluster.connect(), first):
        found = await membership.beat(C, LONG)
        assert (set(found.members), dict(found.leases)) == expected


@pytest.mark.parametrize("kind", ["jetstream", "kafka"])
async def test_a_server_that_does_not_answer_is_said(kind: str) -> None:
    url = "nats://127.0.0.1:9" if kind == "jetstream" else "kafka://127.0.0.1:9"
    with pytest.raises(MembershipError) as raised:
        await Cluster(kind, url).connect()
    assert raised.value.retryable
    assert "up" in raised.value.hint
