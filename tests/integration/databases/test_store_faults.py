"""A store and memberships whose server goes away and comes back: refused in time, with what can be done, and used again."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from tests.contract.journals.registry import fresh
from tests.contract.test_store import BLOB, FLOW, P, item_row, run_row
from tests.integration.databases.conftest import Server, stopped
from tests.services.postgres import PostgresServer

from stepmesh_broker.protocol.ids import FlowId, Namespace, Partition, RunId
from stepmesh_orchestrator.membership.postgres import PostgresMembership
from stepmesh_orchestrator.membership.redis import RedisMembership
from stepmesh_orchestrator.ports import Member, MembershipError, RunGone
from stepmesh_orchestrator.store import StoreUnavailable
from stepmesh_orchestrator.store.postgres import PostgresStore

A = Member("a", "1")


async def test_a_store_s_server_that_went_and_came_back_is_used_again(own_postgres: PostgresServer) -> None:
    store = PostgresStore(own_postgres.url, Namespace(fresh()), timeout_s=2)
    await store.open()
    await store.put_flow(FLOW)
    await asyncio.to_thread(own_postgres.kill)
    for call in (store.get_flow(FLOW.id), store.put_blob(BLOB), store.project(P, 1, [run_row("r")], [])):
        with pytest.raises(StoreUnavailable) as raised:
            await call
        assert raised.value.retryable
    await asyncio.to_thread(own_postgres.start)
    assert await store.get_flow(FLOW.id) == FLOW
    await store.put_blob(BLOB)
    await store.project(P, 1, [run_row("r")], [item_row("r", 0)])
    assert await store.get_blob(BLOB.id) == BLOB
    assert await store.projected(P) == 1
    await store.close()


async def test_reads_and_projections_outlive_a_connection_that_is_cut_meanwhile(own_postgres: PostgresServer) -> None:
    store = PostgresStore(own_postgres.url, Namespace(fresh()), timeout_s=30)
    await store.open()
    made = "query <> '' AND query NOT LIKE '%set_config%'"  # one that is cut while it is made is an attempt that failed
    cut = f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name='stepmesh' AND {made}".encode()
    cuts = 0
    async with await psycopg.AsyncConnection.connect(own_postgres.url, autocommit=True) as admin:
        for sequence in range(1, 9):
            row = run_row("r", completed=sequence)
            _, ended = await asyncio.gather(store.project(P, sequence, [row], [item_row("r", sequence)]), admin.execute(cut))
            cuts += len(await ended.fetchall())
            found, _ = await asyncio.gather(store.get_run(RunId("r")), admin.execute(cut))
            assert found == row
    assert cuts > 0
    assert [item.item for item in await store.get_items(RunId("r"))] == list(range(1, 9))
    await store.close()


async def test_projections_of_many_partitions_at_once_lose_no_row(own_postgres: PostgresServer) -> None:
    store = PostgresStore(own_postgres.url, Namespace(fresh()))
    await store.open()

    async def project(number: int) -> None:
        for sequence in range(1, 11):
            rows = [run_row(f"p{number}-{index}", completed=sequence) for index in range(20)]
            gone = [RunGone(RunId(f"p{number}-0"))] if sequence == 10 else []
            await store.project(Partition(number), sequence, rows, [item_row(f"p{number}-1", sequence)], gone)

    await asyncio.gather(*(project(number) for number in range(8)))
    for number in range(8):
        assert await store.projected(Partition(number)) == 10
        assert await store.get_run(RunId(f"p{number}-0")) is None
        assert len(await store.get_items(RunId(f"p{number}-1"))) == 10
    assert await store.get_flow(FlowId("none")) is None
    await store.close()


async def test_a_membership_s_server_that_is_away_or_silent_is_told_and_used_again(server: Server) -> None:
    kind = PostgresMembership if isinstance(server, PostgresServer) else RedisMembership
    membership = kind(server.url, Namespace(fresh()), timeout_s=0.5)
    await membership.open()
    assert await membership.take(P, A.node, 600)
    with stopped(server):
        async with asyncio.timeout(20):
            with pytest.raises(MembershipError) as raised:
                await membership.beat(A, 600)
    assert raised.value.retryable
    await asyncio.to_thread(server.kill)
    with pytest.raises(MembershipError):
        await membership.beat(A, 600)
    await asyncio.to_thread(server.start)
    assert (await membership.beat(A, 600)).leases == {P: A.node}
    await membership.close()


async def test_who_cancels_a_call_sees_it_cancelled_and_the_store_goes_on(own_postgres: PostgresServer) -> None:
    namespace = Namespace(fresh())
    store = PostgresStore(own_postgres.url, namespace, timeout_s=20)
    await store.open()
    async with await psycopg.AsyncConnection.connect(own_postgres.url) as other:
        await other.execute(f'LOCK TABLE "stepmesh_{namespace}".flows'.encode())
        call = asyncio.create_task(store.put_flow(FLOW))
        waiting = f"SELECT 1 FROM pg_locks WHERE NOT granted AND relation='\"stepmesh_{namespace}\".flows'::regclass".encode()
        async with asyncio.timeout(20):
            while await (await other.execute(waiting)).fetchone() is None:
                await asyncio.sleep(0.02)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert await store.projected(P) == 0
    await store.put_flow(FLOW)
    assert await store.get_flow(FLOW.id) == FLOW
    await store.close()
