"""The Store port's contract, sentence by sentence, over every backend; then what only the SQLite file has: schema and errors."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.contract.journals.postgres import drop_schema
from tests.contract.journals.registry import fresh

from stepmesh_broker.protocol.ids import BlobId, FlowId, Namespace, Partition, RunId
from stepmesh_orchestrator.ports import BlobRecord, FlowRecord, ItemRow, RunGone, RunQuery, RunRow, StepRow, Store, StoreError
from stepmesh_orchestrator.store import FolderBlobs, MemoryStore, SqliteStore, StoreCorrupt, StoreUnavailable
from stepmesh_orchestrator.store.migrations import APPLICATION_ID, MIGRATIONS
from stepmesh_orchestrator.store.postgres import PostgresStore

P = Partition(2)
NS = Namespace("team-a")
FLOW = FlowRecord(FlowId("f" * 64), "adder", b'{"steps":[]}', 1000)
BLOB = BlobRecord(BlobId("b" * 64), "binary", b"\x00\xff\x80 raw \x00", "ünïcode.bin", "application/octet-stream")

Reopen = Callable[[], Awaitable[Store]]


@pytest.fixture(params=["memory", "postgres", "sqlite", "folder of blobs"])
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Store, Reopen]]:
    """A store, and how to close it and open it anew."""
    memory = MemoryStore()
    namespace = Namespace(fresh())
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""

    def made() -> Store:
        if request.param == "postgres":
            return PostgresStore(url, namespace)
        if request.param == "sqlite":
            return SqliteStore(tmp_path / "deep" / "store.db")
        return memory if request.param == "memory" else FolderBlobs(memory, tmp_path / "deep" / "blobs")

    stores = [made()]
    await stores[0].open()

    async def reopen() -> Store:
        await stores[-1].close()
        stores.append(made())
        await stores[-1].open()
        return stores[-1]

    yield stores[0], reopen
    await stores[-1].close()
    if url:
        drop_schema(url, namespace)


@pytest.fixture
def store(opened: tuple[Store, Reopen]) -> Store:
    return opened[0]


@pytest.fixture
def reopen(opened: tuple[Store, Reopen]) -> Reopen:
    return opened[1]


def run_row(name: str, created_ms: int = 0, **changes: Any) -> RunRow:
    row = RunRow(
        run=RunId(name), namespace=NS, partition=P, flow=FLOW.id, flow_name="adder", status="running", total=3, completed=1, failed=0,
        cancelled=0, created_ms=created_ms, finished_ms=None, root=RunId(name), parent=None, parent_step=None, created_sequence=1,
        finished_sequence=None,
    )  # fmt: skip
    return msgspec.structs.replace(row, **changes)


def item_row(run: str, item: int, result: bytes = b'{"outcome":"success"}') -> ItemRow:
    steps = [
        StepRow(0, "add", "/math/add", "success", 1, b"42", None, 10, 20),
        StepRow(1, "fail", "/math/fail", "failed", 3, None, b'{"message":"x"}'),
    ]
    return ItemRow(RunId(run), item, "success", result, 30, steps)


async def names(store: Store, **query: Any) -> list[str]:
    return [row.run for row in await store.list_runs(RunQuery(NS)._replace(**query))]


# --- flows and blobs -------------------------------------------------------------------------------------


async def test_a_flow_comes_back_as_it_was_stored(store: Store, reopen: Reopen) -> None:
    await store.put_flow(FLOW)
    assert await store.get_flow(FLOW.id) == FLOW
    assert await (await reopen()).get_flow(FLOW.id) == FLOW


async def test_unknown_things_are_none_or_false(store: Store) -> None:
    assert await store.get_flow(FlowId("0")) is None
    assert await store.get_blob(BlobId("0")) is None
    assert await store.get_run(RunId("0")) is None
    assert await store.get_items(RunId("0")) == []
    assert await store.delete_flow(FlowId("0")) is False
    assert await store.projected(P) == 0


async def test_storing_the_same_again_changes_nothing(store: Store) -> None:
    await store.put_flow(FLOW)
    await store.put_flow(FLOW._replace(name="other", created_ms=2000))
    assert await store.get_flow(FLOW.id) == FLOW
    await store.put_blob(BLOB)
    await store.put_blob(BLOB._replace(filename="other"))
    assert await store.get_blob(BLOB.id) == BLOB


async def test_a_deleted_flow_is_gone_and_may_come_back(store: Store) -> None:
    await store.put_flow(FLOW)
    assert await store.delete_flow(FLOW.id) is True
    assert await store.get_flow(FLOW.id) is None
    assert await store.delete_flow(FLOW.id) is False
    await store.put_flow(FLOW)
    assert await store.get_flow(FLOW.id) == FLOW


async def test_flows_of_a_name_come_newest_first(store: Store) -> None:
    long = "n" * 5_000
    for number, name, at_ms in ((1, "a", 10), (2, "a", 30), (3, "b", 40), (4, "a", 20), (5, "a", 20), (6, long, 1), (7, "", 5)):
        await store.put_flow(FLOW._replace(id=FlowId(str(number) * 64), name=name, created_ms=at_ms))
    found = await store.flows_named("a", 10)
    assert [one.id[0] for one in found] == ["2", "4", "5", "1"]
    assert found[0] == FLOW._replace(id=FlowId("2" * 64), name="a", created_ms=30)
    assert [one.id[0] for one in await store.flows_named("a", 3)] == ["2", "4", "5"]
    assert [one.name for one in await store.flows_named(long, 3)] == [long]
    assert await store.flows_named("none", 3) == []


async def test_a_flow_is_deleted_as_a_blob_too_and_other_blobs_stay(store: Store) -> None:
    flow, data = BlobRecord(BlobId(FLOW.id), "flow", FLOW.document), BlobRecord(BlobId("d" * 64), "data", b"{}")
    for blob in (flow, data):
        await store.put_blob(blob)
    await store.put_flow(FLOW)
    assert await store.delete_flow(FLOW.id) is True
    assert await store.get_blob(flow.id) is None
    await store.put_blob(flow)
    assert await store.delete_flow(FLOW.id) is True
    assert await store.get_blob(flow.id) is None
    assert await store.delete_flow(FlowId(data.id)) is False
    assert await store.get_blob(data.id) == data


@pytest.mark.parametrize("data", [b"", b'{"a":1}', bytes(range(256)) * 20_000])
async def test_blobs_are_binary(store: Store, reopen: Reopen, data: bytes) -> None:
    blob = BlobRecord(BlobId("1"), "binary", data)
    await store.put_blob(blob)
    await store.put_blob(BLOB)
    again = await reopen()
    assert await again.get_blob(blob.id) == blob
    assert await again.get_blob(BLOB.id) == BLOB


# --- the read model --------------------------------------------------------------------------------------


async def test_runs_items_and_position_come_together(store: Store, reopen: Reopen) -> None:
    run, items = run_row("r1", tags={"a": "b"}, run_key="k"), [item_row("r1", 0), item_row("r1", 1)]
    await store.project(P, 7, [run], items)
    for holder in (store, await reopen()):
        if holder is store and not isinstance(store, MemoryStore):
            continue  # it was closed by the reopening
        assert await holder.get_run(run.run) == run
        assert list(await holder.get_items(run.run)) == items
        assert await holder.projected(P) == 7
        assert await holder.projected(Partition(3)) == 0


async def test_projecting_again_replaces_rows(store: Store) -> None:
    await store.project(P, 1, [run_row("r1")], [item_row("r1", 0, b"old")])
    await store.project(P, 2, [run_row("r1", status="completed", completed=3)], [item_row("r1", 0, b"new")])
    found = await store.get_run(RunId("r1"))
    assert found is not None
    assert (found.status, found.completed) == ("completed", 3)
    assert [item.result for item in await store.get_items(RunId("r1"))] == [b"new"]
    assert await names(store, status="running") == []
    assert await names(store, status="completed") == ["r1"]


async def test_a_late_projection_changes_nothing(store: Store) -> None:
    await store.project(P, 5, [run_row("r1", status="completed")], [])
    await store.project(P, 4, [run_row("r1", status="running"), run_row("r2")], [item_row("r1", 0)])
    assert await store.projected(P) == 5
    assert await names(store) == ["r1"]
    assert await names(store, status="completed") == ["r1"]
    assert await store.get_items(RunId("r1")) == []


async def test_one_sequence_may_come_in_parts(store: Store) -> None:
    await store.project(P, 5, [run_row("r1")], [item_row("r1", 0)])
    await store.project(P, 5, [], [item_row("r1", 1)])
    assert [item.item for item in await store.get_items(RunId("r1"))] == [0, 1]


async def test_positions_move_without_rows(store: Store) -> None:
    await store.project(P, 9, [], [])
    await store.project(Partition(3), 4, [], [])
    assert (await store.projected(P), await store.projected(Partition(3))) == (9, 4)


async def test_items_come_in_order_and_in_pages(store: Store) -> None:
    await store.project(P, 1, [run_row("r1")], [item_row("r1", index) for index in (11, 2, 0, 1, 10)])
    await store.project(P, 2, [run_row("r2")], [item_row("r2", 5)])

    async def page(*arguments: int) -> list[int]:
        return [item.item for item in await store.get_items(RunId("r1"), *arguments)]

    assert await page() == [0, 1, 2, 10, 11]
    assert await page(2) == [2, 10, 11]
    assert await page(1, 2) == [1, 2]
    assert await page(12) == []
    assert await page(0, 0) == []


async def test_a_run_that_is_gone_takes_its_sub_runs_and_items_along(store: Store, reopen: Reopen) -> None:
    rows = [run_row("r1"), run_row("below", root="r1", parent="r1", depth=1), run_row("r2")]
    await store.project(P, 1, rows, [item_row("r1", 0), item_row("below", 0), item_row("r2", 0)])
    await store.project(P, 2, [], [], [RunGone(RunId("r1"))])
    again = await reopen()
    assert await again.projected(P) == 2
    assert await again.get_run(RunId("r1")) is None
    assert await again.get_items(RunId("r1")) == []
    assert await again.get_items(RunId("below")) == []
    assert len(await again.get_items(RunId("r2"))) == 1
    assert await names(again) == ["r2"]
    await again.project(P, 3, [], [], [RunGone(RunId("r1"))])
    assert await names(again) == ["r2"]


async def test_a_run_that_came_and_went_in_one_projection_is_gone(store: Store) -> None:
    await store.project(P, 4, [run_row("r1")], [item_row("r1", 0)], [RunGone(RunId("r1"))])
    assert await names(store) == []
    assert await store.get_items(RunId("r1")) == []
    await store.project(P, 3, [run_row("r1")], [], [])
    assert await names(store) == []


# --- listing ---------------------------------------------------------------------------------------------


@pytest.fixture
async def listed(store: Store) -> Store:
    rows = [
        run_row("a", 100),
        run_row("b", 300, status="completed", flow_name="mapper"),
        run_row("c", 200, parent="a", root="a", depth=1),
        run_row("d", 200, parent="a", root="a", status="completed", depth=1),
        run_row("e", 400, parent="c", root="a", depth=2),
        run_row("x", 500, namespace="team-b"),
        run_row("y", 600, namespace="team-b", parent="a", root="a"),
    ]
    await store.project(P, 1, rows, [])
    return store


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, "ebdca"),
        ({"namespace": "team-b"}, "yx"),
        ({"namespace": "nobody"}, ""),
        ({"status": "completed"}, "bd"),
        ({"flow_name": "mapper"}, "b"),
        ({"flow_name": "mapper", "status": "running"}, ""),
        ({"root": "a"}, "edca"),
        ({"root": "b"}, "b"),
        ({"parent": "a"}, "dc"),
        ({"parent": "a", "status": "completed"}, "d"),
        ({"roots_only": True}, "ba"),
        ({"roots_only": True, "status": "running"}, "a"),
        ({"max_depth": 0}, "ba"),
        ({"max_depth": 1}, "bdca"),
        ({"max_depth": 2}, "ebdca"),
        ({"max_depth": 1, "root": "a", "status": "running"}, "ca"),
        ({"max_depth": 1, "limit": 1, "offset": 1}, "d"),
        ({"limit": 2}, "eb"),
        ({"limit": 2, "offset": 1}, "bd"),
        ({"limit": 0}, ""),
        ({"offset": 5}, ""),
        ({"root": "a", "limit": 1, "offset": 2}, "c"),
    ],
)
async def test_runs_are_listed_newest_first_by_filters(listed: Store, query: dict[str, object], expected: str) -> None:
    assert await names(listed, **query) == list(expected)


async def test_a_listing_stops_at_a_hundred_unless_told(store: Store) -> None:
    await store.project(P, 1, [run_row(f"r{index:03}", index) for index in range(101)], [])
    assert await names(store) == [f"r{index:03}" for index in range(100, 0, -1)]
    assert len(await names(store, limit=101)) == 101


# --- the SQLite file -------------------------------------------------------------------------------------


async def test_many_writers_at_once_all_get_their_answer(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    await store.open()
    projections = (store.project(Partition(number), 1, [run_row(f"r{number}")], []) for number in range(150))
    await asyncio.gather(*projections, *(store.put_flow(FLOW) for _ in range(10)))
    assert len(await store.list_runs(RunQuery(NS, limit=1000))) == 150
    await store.close()
    await store.close()


@pytest.mark.parametrize("query", [{}, {"status": "running"}, {"flow_name": "adder"}, {"root": "a"}, {"parent": "a"}])
async def test_every_listing_has_an_index_that_sorts(tmp_path: Path, query: dict[str, str]) -> None:
    store = SqliteStore(tmp_path / "store.db")
    await store.open()
    await store.close()
    where = " AND ".join(f"{column}='x'" for column in {"namespace": "n", **query})
    with closing(sqlite3.connect(tmp_path / "store.db")) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN SELECT row FROM runs WHERE {where} ORDER BY created_ms DESC, run DESC").fetchall()
    assert "USING INDEX" in plan[0][3]
    assert len(plan) == 1  # a second line would be a sort


@pytest.mark.parametrize(
    ("statement", "message"),
    [("INSERT INTO migrations VALUES(99)", "schema 99"), ("PRAGMA application_id=1", "no store")],
)
async def test_another_schema_is_refused(tmp_path: Path, statement: str, message: str) -> None:
    path = tmp_path / "store.db"
    store = SqliteStore(path)
    await store.open()
    await store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)
    with pytest.raises(StoreError, match=message) as raised:
        await store.open()
    assert raised.value.code == "SM-4104"
    assert raised.value.hint


async def test_a_store_of_the_first_release_learns_how_deep_its_runs_are(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    encode = msgspec.msgpack.Encoder().encode
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute("CREATE TABLE migrations(number INTEGER PRIMARY KEY)")
        for statement in MIGRATIONS[0]:
            connection.execute(statement)
        connection.execute("INSERT INTO migrations VALUES(1)")
        for name, parent in (("a", None), ("b", "a"), ("c", "b"), ("lost", "unknown")):
            row = msgspec.to_builtins(run_row(name, parent=parent))[:19]
            values = (name, NS, "running", "adder", name, parent, 0, encode(row))
            connection.execute("INSERT INTO runs VALUES(?,?,?,?,?,?,?,?)", values)
    store = SqliteStore(path)
    await store.open()
    assert await names(store, max_depth=1) == ["lost", "b", "a"]
    found = await store.get_run(RunId("c"))
    assert found is not None
    assert (found.created_at, found.finished_at) == (0, None)
    await store.close()


async def test_what_a_column_says_is_not_kept_twice_and_a_row_that_has_it_twice_is_read(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = SqliteStore(path)
    await store.open()
    run = run_row("a" * 36, 7)
    await store.project(P, 1, [run], [])
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        (rest,) = connection.execute("SELECT row FROM runs").fetchone()
        assert not any(text.encode() in rest for text in (run.run, run.namespace, run.status, run.flow_name))
        assert await store.get_run(run.run) == run
        connection.execute("UPDATE runs SET row=?", (msgspec.msgpack.encode(run),))  # as earlier releases wrote it
    assert await store.get_run(run.run) == run
    assert await store.list_runs(RunQuery(NS)) == [run]
    await store.close()


async def test_a_folder_in_the_file_s_place_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=str(tmp_path)) as raised:
        await SqliteStore(tmp_path).open()
    assert raised.value.code == "SM-4103"


async def test_a_file_that_is_no_database_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"not a database, but long enough to look like one " * 100)
    with pytest.raises(StoreCorrupt, match=r"store\.db"):
        await SqliteStore(path).open()
    assert path.read_bytes().startswith(b"not a database")


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.get_flow(FLOW.id)
    await store.open()
    await store.close()
    with pytest.raises(StoreUnavailable, match="open it first"):
        await store.put_flow(FLOW)


async def test_a_locked_store_says_so_and_works_again_when_released(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = SqliteStore(path, busy_seconds=0.05)
    await store.open()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="another process"):
            await store.put_flow(FLOW)
        other.execute("ROLLBACK")
    await store.put_flow(FLOW)
    assert await store.get_flow(FLOW.id) == FLOW
    await store.close()


# --- a folder of blobs -----------------------------------------------------------------------------------


async def test_a_blob_is_a_file_that_other_programs_can_read(tmp_path: Path) -> None:
    store = FolderBlobs(MemoryStore(), tmp_path)
    await store.open()
    await store.put_blob(BLOB)
    assert (tmp_path / "bb" / BLOB.id).read_bytes() == BLOB.data
    assert sorted(path.name for path in (tmp_path / "bb").iterdir()) == [BLOB.id, f"{BLOB.id}.json"]


@pytest.mark.parametrize("name", ["../secret", "..", "", "a/b", ".", "ä"])
async def test_an_id_never_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("no")
    store = FolderBlobs(MemoryStore(), tmp_path / "blobs")
    await store.open()
    assert await store.get_blob(BlobId(name)) is None


async def test_a_folder_that_cannot_be_made_and_a_blob_that_lost_its_description_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match=r"the folder of blobs .*file"):
        await FolderBlobs(MemoryStore(), tmp_path / "file").open()
    store = FolderBlobs(MemoryStore(), tmp_path / "blobs")
    await store.open()
    await store.put_blob(BLOB)
    (tmp_path / "blobs" / "bb" / f"{BLOB.id}.json").unlink()
    with pytest.raises(StoreCorrupt, match="does not describe its blob"):
        await store.get_blob(BLOB.id)
