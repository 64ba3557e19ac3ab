"""What only the store in PostgreSQL has: a schema that several open at once, indexes, characters that a database's text cannot hold."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator

import psycopg
import pytest
from tests.contract.journals.postgres import drop_schema
from tests.contract.journals.registry import fresh
from tests.contract.test_store import BLOB, FLOW, NS, P, item_row, run_row

from stepmesh_broker.protocol.ids import FlowId, Namespace, RunId
from stepmesh_orchestrator.ports import RunGone, RunQuery, StoreError
from stepmesh_orchestrator.store import StoreUnavailable
from stepmesh_orchestrator.store.postgres import PostgresStore, listing


@pytest.fixture
async def namespace(postgres_url: str) -> AsyncIterator[Namespace]:
    made = Namespace(fresh())
    yield made
    drop_schema(postgres_url, made)


async def test_several_that_open_at_once_make_one_schema(postgres_url: str, namespace: Namespace) -> None:
    stores = [PostgresStore(postgres_url, namespace) for _ in range(8)]
    await asyncio.gather(*(store.open() for store in stores))
    await asyncio.gather(*(store.put_flow(FLOW) for store in stores))
    assert await stores[-1].get_flow(FLOW.id) == FLOW
    await asyncio.gather(*(store.close() for store in stores))


async def test_the_tables_of_a_newer_release_are_refused(postgres_url: str, namespace: Namespace) -> None:
    store = PostgresStore(postgres_url, namespace)
    await store.open()
    await store.close()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f'UPDATE "stepmesh_{namespace}".migrations SET version=99'.encode())
    with pytest.raises(StoreError, match="version 99") as raised:
        await store.open()
    assert raised.value.code == "SM-4110"
    assert raised.value.hint


async def test_a_database_that_cannot_hold_every_character_is_refused(postgres_url: str, namespace: Namespace) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        database = f"latin_{namespace}"
        connection.execute(f"CREATE DATABASE {database} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0".encode())
        try:
            with pytest.raises(StoreError, match="LATIN1") as raised:
                await PostgresStore(postgres_url.rpartition("/")[0] + f"/{database}", namespace).open()
            assert raised.value.code == "SM-4111"
        finally:
            connection.execute(f"DROP DATABASE {database}".encode())


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (RunQuery(NS), "runs_newest"),
        (RunQuery(NS, max_depth=1), "runs_newest"),
        (RunQuery(NS, roots_only=True), "runs_newest_root"),
        (RunQuery(NS, status="s7"), "runs_status"),
        (RunQuery(NS, flow_name="f7"), "runs_flow"),
        (RunQuery(NS, root=RunId("r0070")), "runs_root"),
        (RunQuery(NS, parent=RunId("r0070")), "runs_parent"),
    ],
)
async def test_every_listing_has_an_index_that_sorts(postgres_url: str, namespace: Namespace, query: RunQuery, index: str) -> None:
    store = PostgresStore(postgres_url, namespace)
    await store.open()
    rows = [
        run_row(f"r{number:04}", number, root=f"r{number // 10 * 10:04}", parent=f"r{number // 10 * 10:04}", status=f"s{number % 90}",
                flow_name=f"f{number % 90}")
        for number in range(3000)
    ]  # fmt: skip
    await store.project(P, 1, rows, [])
    await store.close()
    select, values = listing(query)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f'SET search_path TO "stepmesh_{namespace}"'.encode())
        connection.execute("ANALYZE runs")
        for other in ("seqscan", "bitmapscan", "sort"):
            connection.execute(f"SET enable_{other}=off".encode())
        plan = "\n".join(row[0] for row in connection.execute("EXPLAIN " + select, values).fetchall())
    assert re.search(rf"Index Scan Backward using {index} ", plan), plan
    assert "Sort" not in plan


LONG_NAMES = ["".join(random.Random(seed).choices("abcdefghij0123456789", k=length)) for seed, length in enumerate((1000, 1001, 100_000))]


@pytest.mark.parametrize(
    "name",
    [*LONG_NAMES, "é" * 501, "nul\0in", "\x1a", "\x1a0", "\x1a1\0\x1a", "ünï\U0001f600"],
    ids=lambda name: f"{name[:9]!a} {len(name)}",
)
async def test_names_may_have_any_character_and_any_length(postgres_url: str, namespace: Namespace, name: str) -> None:
    store = PostgresStore(postgres_url, namespace)
    await store.open()
    await store.put_flow(FLOW._replace(name=name))
    found = await store.get_flow(FLOW.id)
    assert found is not None
    assert found.name == name
    blob = BLOB._replace(filename=name, content_type=name)
    await store.put_blob(blob)
    assert await store.get_blob(BLOB.id) == blob
    run = run_row(name, flow_name=name, root=name, parent=name)
    await store.project(P, 1, [run], [item_row(name, 1)])
    await store.project(P, 1, [run_row("other", flow_name=name + "!", root=name + "!", parent=name[:-1])], [])
    for query in (RunQuery(NS, flow_name=name), RunQuery(NS, root=RunId(name)), RunQuery(NS, parent=RunId(name))):
        assert list(await store.list_runs(query)) == [run]
    assert list(await store.get_items(RunId(name))) == [item_row(name, 1)]
    await store.project(P, 2, [], [], [RunGone(RunId(name))])
    assert await store.get_run(RunId(name)) is None
    assert await store.delete_flow(FlowId(name)) is False
    await store.close()


async def test_rows_that_come_twice_in_one_projection_count_once_the_last_one(postgres_url: str, namespace: Namespace) -> None:
    store = PostgresStore(postgres_url, namespace)
    await store.open()
    await store.project(P, 1, [run_row("r"), run_row("r", status="completed")], [item_row("r", 0, b"old"), item_row("r", 0, b"new")])
    found = await store.get_run(RunId("r"))
    assert found is not None
    assert found.status == "completed"
    assert [item.result for item in await store.get_items(RunId("r"))] == [b"new"]
    await store.close()


async def test_a_statement_that_takes_too_long_fails_and_the_store_goes_on(postgres_url: str, namespace: Namespace) -> None:
    store = PostgresStore(postgres_url, namespace, timeout_s=0.5)
    await store.open()
    with psycopg.connect(postgres_url) as connection:
        connection.execute(f'LOCK TABLE "stepmesh_{namespace}".flows'.encode())
        with pytest.raises(StoreUnavailable) as raised:
            await store.put_flow(FLOW)
        assert raised.value.retryable
    await store.put_flow(FLOW)
    assert await store.get_flow(FLOW.id) == FLOW
    await store.close()
