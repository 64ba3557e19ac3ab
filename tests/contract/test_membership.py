"""The Membership port's contract, sentence by sentence, over every backend.

No test counts on being quick: what must hold is held for `LONG`, and what must run out is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.contract.memberships import BACKENDS, Cluster

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.ports import Member, Membership

LONG = 3600.0
P, Q = Partition(3), Partition(0)
A, B, C = (Member(node, "1.2.3") for node in ("a-1", "b-1", "c-1"))


@pytest.fixture(params=sorted(BACKENDS))
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    made = BACKENDS[request.param](request)
    yield made
    await made.close()


@pytest.fixture
async def membership(cluster: Cluster) -> Membership:
    return await cluster.connect()


async def seen(membership: Membership) -> set[str]:
    """Who is there, as somebody else sees it."""
    members = (await membership.beat(C, LONG)).members
    return set(members) - {C.node}


async def held(membership: Membership) -> dict[Partition, str]:
    """Who holds what, as somebody else sees it."""
    return dict((await membership.beat(C, LONG)).leases)


# --- beating ---------------------------------------------------------------------------------------------


async def test_the_first_member_finds_itself_and_no_leases(membership: Membership) -> None:
    found = await membership.beat(A, LONG)
    assert (dict(found.members), dict(found.leases)) == ({A.node: A}, {})


async def test_members_see_each_other_whole(cluster: Cluster) -> None:
    first, second = await cluster.connect(), await cluster.connect()
    leaving = Member("b-1", "1.3.0", leaving=True)
    await first.beat(A, LONG)
    assert (await second.beat(leaving, LONG)).members == {A.node: A, leaving.node: leaving}
    assert (await first.beat(A, LONG)).members == {A.node: A, leaving.node: leaving}


async def test_a_later_beat_says_what_changed(cluster: Cluster) -> None:
    first, second = await cluster.connect(), await cluster.connect()
    await first.beat(A, LONG)
    await first.beat(A._replace(leaving=True), LONG)
    assert (await second.beat(B, LONG)).members[A.node].leaving


async def test_a_member_that_is_silent_for_its_time_is_gone_and_not_earlier(cluster: Cluster) -> None:
    first, other = await cluster.connect(), await cluster.connect()
    begun = cluster.now()
    await first.beat(A, cluster.short_s)

    async def gone() -> bool:
        return A.node not in await seen(other)

    await cluster.until(gone)
    assert cluster.now() - begun >= cluster.short_s


async def test_a_beat_gives_the_time_that_it_says_from_now_on(cluster: Cluster) -> None:
    first, other = await cluster.connect(), await cluster.connect()
    await first.beat(A, cluster.short_s)
    await first.beat(A, LONG)
    await cluster.pass_time(2 * cluster.short_s)
    assert await seen(other) == {A.node}


async def test_who_was_gone_comes_back_by_a_beat(cluster: Cluster) -> None:
    first, other = await cluster.connect(), await cluster.connect()
    await first.beat(A, cluster.short_s)

    async def gone() -> bool:
        return not await seen(other)

    await cluster.until(gone)
    await first.beat(A, LONG)
    assert await seen(other) == {A.node}


# --- holding ---------------------------------------------------------------------------------------------


async def test_what_nobody_holds_can_be_taken_and_all_see_it(cluster: Cluster) -> None:
    first, other = await cluster.connect(), await cluster.connect()
    await first.beat(A, LONG)
    assert await first.take(P, A.node, LONG)
    assert (await first.beat(A, LONG)).leases == {P: A.node}
    assert await held(other) == {P: A.node}


async def test_what_another_one_holds_cannot_be_taken(cluster: Cluster) -> None:
    first, second = await cluster.connect(), await cluster.connect()
    await first.beat(A, LONG)
    await second.beat(B, LONG)
    assert await first.take(P, A.node, LONG)
    assert not await second.take(P, B.node, LONG)
    assert await held(second) == {P: A.node}


async def test_partitions_are_held_apart(cluster: Cluster) -> None:
    first, second = await cluster.connect(), await cluster.connect()
    await first.beat(A, LONG)
    await second.beat(B, LONG)
    assert await first.take(P, A.node, LONG)
    assert await second.take(Q, B.node, LONG)
    assert await held(first) == {P: A.node, Q: B.node}


async def test_what_is_mine_can_be_taken_again(membership: Membership) -> None:
    await membership.beat(A, LONG)
    assert await membership.take(P, A.node, LONG)
    assert await membership.take(P, A.node, LONG)
    assert await held(membership) == {P: A.node}


async def test_one_of_many_who_take_at_once_holds_it(cluster: Cluster) -> None:
    nodes = [Member(f"n-{number}", "1") for number in range(6)]
    members = {node.node: await cluster.connect() for node in nodes}
    for node in nodes:
        await members[node.node].beat(node, LONG)
    for partition in map(Partition, range(8)):
        took = await asyncio.gather(*(members[node.node].take(partition, node.node, LONG) for node in nodes))
        winner = (await held(members["n-0"]))[partition]
        assert [node.node for node, success in zip(nodes, took, strict=True) if success] == [winner]


async def test_a_silent_members_partition_becomes_free(cluster: Cluster) -> None:
    first, second = await cluster.connect(), await cluster.connect()
    begun = cluster.now()
    await first.beat(A, cluster.short_s)
    assert await first.take(P, A.node, cluster.short_s)
    await second.beat(B, LONG)

    async def took() -> bool:
        return await second.take(P, B.node, LONG)

    await cluster.until(took)
    assert cluster.now() - begun >= cluster.short_s
    assert await held(second) == {P: B.node}


async def test_a_lease_that_ran_out_is_not_listed(cluster: Cluster) -> None:
    first, second = await cluster.connect(), await cluster.connect()
    await first.beat(A, cluster.short_s)
    assert await first.take(P, A.node, cluster.short_s)

    async def free() -> bool:
        return not await held(second)

    await cluster.until(free)


async def test_a_beat_holds_the_leases_as_well(cluster: Cluster) -> None:
    first, second = await cluster.connect(), await cluster.connect()
    await first.beat(A, cluster.short_s)
    assert await first.take(P, A.node, cluster.short_s)
    await first.beat(A, LONG)
    await cluster.pass_time(2 * cluster.short_s)
    await second.beat(B, LONG)
    assert not await second.take(P, B.node, LONG)


async def test_a_beat_does_not_bring_back_what_another_one_took(cluster: Cluster) -> None:
    first, second = await cluster.connect(), await cluster.connect()
    await first.beat(A, cluster.short_s)
    assert await first.take(P, A.node, cluster.short_s)
    await second.beat(B, LONG)

    async def took() -> bool:
        return await second.take(P, B.node, LONG)

    await cluster.until(took)
    assert (await first.beat(A, LONG)).leases == {P: B.node}
    assert not await first.take(P, A.node, LONG)


# --- letting go ------------------------------------------------------------------------------------------


async def test_what_is_released_can_be_taken_at_once(cluster: Cluster) -> None:
    first, second = await cluster.connect(), await cluster.connect()
    await first.beat(A, LONG)
    await second.beat(B, LONG)
    for partition in (P, Q):
        assert await first.take(partition, A.node, LONG)
    await first.release(P, A.node)
    assert await held(second) == {Q: A.node}
    assert await second.take(P, B.node, LONG)


async def test_releasing_what_is_not_mine_does_nothing(cluster: Cluster) -> None:
    first, second = await cluster.connect(), await cluster.connect()
    await first.beat(A, LONG)
    await second.beat(B, LONG)
    assert await first.take(P, A.node, LONG)
    await second.release(P, B.node)
    await second.release(Q, B.node)
    assert await held(second) == {P: A.node}


async def test_who_leaves_is_gone_with_all_that_it_held(cluster: Cluster) -> None:
    first, second = await cluster.connect(), await cluster.connect()
    await first.beat(A, LONG)
    await second.beat(B, LONG)
    assert await first.take(P, A.node, LONG)
    assert await second.take(Q, B.node, LONG)
    await first.leave(A.node)
    found = await second.beat(B, LONG)
    assert (dict(found.members), dict(found.leases)) == ({B.node: B}, {Q: B.node})
    assert await second.take(P, B.node, LONG)


async def test_leaving_is_nothing_for_who_is_not_there(membership: Membership) -> None:
    await membership.beat(A, LONG)
    await membership.leave(B.node)
    assert (await membership.beat(A, LONG)).members == {A.node: A}


# --- connections -----------------------------------------------------------------------------------------


async def test_closing_says_nothing_to_the_others(cluster: Cluster) -> None:
    first, second = await cluster.connect(), await cluster.connect()
    await first.beat(A, LONG)
    assert await first.take(P, A.node, LONG)
    await first.close()
    await first.close()
    assert await seen(second) == {A.node}
    assert await held(second) == {P: A.node}


async def test_a_connection_can_be_opened_anew(cluster: Cluster) -> None:
    membership = await cluster.connect()
    await membership.beat(A, LONG)
    await membership.close()
    await membership.open()
    assert A.node in (await membership.beat(B, LONG)).members
