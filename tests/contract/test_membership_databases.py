"""The Membership port over PostgreSQL and Redis: who is there, who holds what, and until when by the server's clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import psycopg
import pytest
from tests.contract.journals.postgres import drop_schema
from tests.contract.journals.redis import drop_keys
from tests.contract.journals.registry import fresh

from stepmesh_broker.protocol.ids import Namespace, Partition
from stepmesh_orchestrator.membership.postgres import PostgresMembership
from stepmesh_orchestrator.membership.redis import RedisMembership
from stepmesh_orchestrator.ports import Member, Members, Membership, MembershipError

LONG, SHORT = 600.0, 0.2
A, B = Member("node-a", "1.0"), Member("node-b", "1.1", leaving=True)
P, OTHER = Partition(3), Partition(4)

Connect = Callable[[], Awaitable[Membership]]


@pytest.fixture(params=["postgres", "redis"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """Another process of one deployment."""
    namespace = Namespace(fresh())
    url = request.getfixturevalue(f"{request.param}_url")
    opened: list[Membership] = []

    async def made() -> Membership:
        opened.append((PostgresMembership if request.param == "postgres" else RedisMembership)(url, namespace))
        await opened[-1].open()
        return opened[-1]

    yield made
    for membership in opened:
        await membership.close()
    (drop_schema if request.param == "postgres" else drop_keys)(url, namespace)


@pytest.fixture
async def membership(connect: Connect) -> Membership:
    return await connect()


async def until(look: Callable[[], Awaitable[Members]], holds: Callable[[Members], bool]) -> Members:
    """What is seen when it holds, which it does by itself."""
    async with asyncio.timeout(20):
        while not holds(seen := await look()):
            await asyncio.sleep(0.02)
    return seen


async def test_a_beat_shows_everybody_with_what_they_say_of_themselves(connect: Connect) -> None:
    first, second = await connect(), await connect()
    assert await first.beat(A, LONG) == Members({"node-a": A}, {})
    assert await second.beat(B, LONG) == Members({"node-a": A, "node-b": B}, {})
    leaving = A._replace(leaving=True, release="2.0")
    assert (await first.beat(leaving, LONG)).members == {"node-a": leaving, "node-b": B}


async def test_who_does_not_beat_is_gone_when_its_time_is_over(connect: Connect) -> None:
    first, second = await connect(), await connect()
    await first.beat(A, SHORT)
    await first.take(P, "node-a", SHORT)
    await until(lambda: second.beat(B, LONG), lambda seen: seen == Members({"node-b": B}, {}))
    assert await first.beat(A, LONG) == Members({"node-a": A, "node-b": B}, {})


async def test_one_of_many_takes_a_partition(connect: Connect) -> None:
    members = [await connect() for _ in range(5)]
    taken = await asyncio.gather(*(member.take(P, f"node-{number}", LONG) for number, member in enumerate(members)))
    assert sum(taken) == 1
    winner = f"node-{taken.index(True)}"
    assert (await members[0].beat(A, LONG)).leases == {P: winner}
    assert await members[0].take(P, winner, LONG)


async def test_a_partition_can_be_taken_when_its_holder_s_time_is_over(connect: Connect) -> None:
    first, second = await connect(), await connect()
    assert await first.take(P, "node-a", SHORT)
    async with asyncio.timeout(20):
        while not await second.take(P, "node-b", LONG):
            await asyncio.sleep(0.02)
    assert not await first.take(P, "node-a", LONG)
    assert (await first.beat(A, LONG)).leases == {P: "node-b"}


async def test_a_beat_holds_what_is_held(membership: Membership) -> None:
    assert await membership.take(P, "node-a", 5)
    await membership.beat(A, LONG)
    assert await membership.take(OTHER, "node-b", SHORT)
    seen = await until(lambda: membership.beat(A, LONG), lambda seen: OTHER not in seen.leases)
    assert seen.leases == {P: "node-a"}


async def test_a_beat_does_not_bring_back_what_was_lost(membership: Membership) -> None:
    assert await membership.take(P, "node-a", SHORT)
    await until(lambda: membership.beat(B, LONG), lambda seen: not seen.leases)
    assert (await membership.beat(A, LONG)).leases == {}


async def test_only_the_holder_releases(membership: Membership) -> None:
    await membership.take(P, "node-a", LONG)
    await membership.release(P, "node-b")
    assert (await membership.beat(A, LONG)).leases == {P: "node-a"}
    await membership.release(P, "node-a")
    await membership.release(P, "node-a")
    assert (await membership.beat(A, LONG)).leases == {}
    assert await membership.take(P, "node-b", LONG)


async def test_who_leaves_is_gone_with_all_that_it_holds(connect: Connect) -> None:
    first, second = await connect(), await connect()
    await first.beat(A, LONG)
    await first.take(P, "node-a", LONG)
    await second.take(OTHER, "node-b", LONG)
    await first.leave("node-a")
    await first.leave("nobody")
    assert await second.beat(B, LONG) == Members({"node-b": B}, {OTHER: "node-b"})


async def test_closing_says_nothing_to_the_others(connect: Connect) -> None:
    first, second = await connect(), await connect()
    await first.beat(A, LONG)
    await first.take(P, "node-a", LONG)
    await first.close()
    await first.close()
    assert await second.beat(B, LONG) == Members({"node-a": A, "node-b": B}, {P: "node-a"})
    with pytest.raises(MembershipError, match="open it first"):
        await first.beat(A, LONG)
    await first.open()
    assert await first.take(P, "node-a", LONG)


async def test_many_beat_leave_and_take_at_once(connect: Connect) -> None:
    members = [(await connect(), Member(f"n{number}", "1")) for number in range(6)]

    async def live(membership: Membership, member: Member) -> None:
        for turn in range(15):
            await membership.beat(member, LONG)
            for partition in range(4):
                if await membership.take(Partition(partition), member.node, LONG):
                    await membership.release(Partition(partition), member.node)
            if turn % 5 == 4:
                await membership.leave(member.node)

    await asyncio.gather(*(live(*one) for one in members))
    assert await members[0][0].beat(A, LONG) == Members({"node-a": A}, {})


async def test_members_that_are_long_gone_are_deleted(postgres_url: str) -> None:
    namespace = Namespace(fresh())
    membership = PostgresMembership(postgres_url, namespace)
    await membership.open()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f'SET search_path TO "stepmesh_{namespace}"'.encode())
        connection.execute("INSERT INTO members VALUES('old', '1', false, now() - interval '61 minutes')")
        connection.execute("INSERT INTO members VALUES('recent', '1', false, now() - interval '59 minutes')")
        assert await membership.beat(A, LONG) == Members({"node-a": A}, {})
        assert connection.execute("SELECT node FROM members ORDER BY node").fetchall() == [("node-a",), ("recent",)]
        connection.execute("UPDATE migrations SET version=99 WHERE part='membership'")
    await membership.close()
    with pytest.raises(MembershipError, match="version 99") as raised:
        await membership.open()
    assert (raised.value.code, raised.value.retryable) == ("SM-4031", False)
    drop_schema(postgres_url, namespace)


@pytest.mark.parametrize(
    "membership",
    [
        PostgresMembership("postgresql://me:secret@127.0.0.1:1/db", Namespace("n")),
        RedisMembership("redis://:secret@127.0.0.1:1/0", Namespace("n")),
    ],
)
async def test_a_server_that_is_not_there_is_named(membership: Membership) -> None:
    with pytest.raises(MembershipError, match=r"127\.0\.0\.1:1/.*cannot be reached") as raised:
        await membership.open()
    assert raised.value.retryable
    assert "secret" not in str(raised.value)
