"""The projector: rows in order, positions that never run ahead, a store that fails is waited for, readers get what they ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest
from tests.unit.orchestrator.runtime.lab import run_id, until, virtual

from stepmesh_broker.protocol.ids import FlowId, Namespace, Partition
from stepmesh_orchestrator.ports import ItemRow, RunGone, RunRow, StoreError
from stepmesh_orchestrator.runtime.projector import STALE_AFTER_S, Projector
from stepmesh_orchestrator.store.memory import MemoryStore

P = Partition(0)


class Busy(StoreError):
    retryable = True


class Shelf(MemoryStore):
    """Notes what it is told to write; fails and waits as told."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[tuple[int, int, int]] = []
        self.troubles: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def project(
        self, partition: Partition, sequence: int, runs: Sequence[RunRow], items: Sequence[ItemRow], gone: Sequence[RunGone] = ()
    ) -> None:
        await self.gate.wait()
        if self.troubles:
            raise self.troubles.pop(0)
        self.writes.append((sequence, len(runs), len(items)))
        await super().project(partition, sequence, runs, items, gone)


def row(number: int = 1, completed: int = 0) -> RunRow:
    run = run_id(number)
    return RunRow(
        run, Namespace("default"), P, FlowId("f"), "flow", "running", 1, completed, 0, 0, 0, None, run, None, None, 1, None
    )  # fmt: skip


def item(index: int) -> ItemRow:
    return ItemRow(run_id(), index, "success", b"{}", 0, [])


def started() -> tuple[Shelf, Projector, asyncio.Task[None]]:
    store = Shelf()
    projector = Projector(store, P)
    return store, projector, asyncio.create_task(projector.run())


@virtual
async def test_turns_that_wait_share_a_write_and_the_last_row_of_a_run_counts() -> None:
    store, projector, _ = started()
    projector.put(1, [row(1, 0), item(0)])
    projector.put(2, [row(1, 1), item(1)])
    projector.put(5, [row(2, 0)])
    assert projector.waiting == 5
    await projector.reached(5)
    assert store.writes == [(5, 2, 2)]
    assert (projector.sequence, projector.waiting) == (5, 0)
    found = await store.get_run(run_id(1))
    assert found is not None
    assert found.completed == 1


@virtual
async def test_a_write_is_bounded_but_holds_whole_turns() -> None:
    store, projector, _ = started()
    projector.put(1, [item(index) for index in range(1_999)])
    projector.put(2, [item(index) for index in range(1_999, 2_001)])
    projector.put(3, [item(2_001)])
    await projector.reached(3)
    assert store.writes == [(2, 0, 2_001), (3, 0, 1)]


@virtual
async def test_who_reads_waits_for_its_own_turn_and_for_no_later_one() -> None:
    store, projector, _ = started()
    store.gate.clear()
    projector.put(3, [row()])
    early = asyncio.create_task(projector.reached(2))
    reader = asyncio.create_task(projector.reached(3))
    await asyncio.sleep(100)
    assert (early.done(), reader.done()) == (True, False), "nothing of the first two turns is missing; the third is not there"
    store.gate.set()
    await reader
    assert projector.sequence == 3


@virtual
async def test_turns_without_rows_keep_nobody_waiting() -> None:
    _, projector, _ = started()
    projector.put(1, [])
    await asyncio.wait_for(projector.reached(1_000), 1)
    assert projector.waiting == 0


@virtual
async def test_a_reader_of_a_turn_without_rows_waits_for_those_before_it() -> None:
    store, projector, _ = started()
    store.gate.clear()
    projector.put(3, [row()])
    reader = asyncio.create_task(projector.reached(4))
    await asyncio.sleep(1)
    assert not reader.done()
    store.gate.set()
    await reader


@virtual
async def test_a_store_that_fails_is_tried_again_and_the_position_waits_with_the_rows() -> None:
    store, projector, _ = started()
    store.troubles = [Busy("locked"), Busy("locked")]
    projector.put(1, [row()])
    projector.put(2, [row(2)])
    await until(lambda: len(store.troubles) == 1)
    assert projector.sequence == 0
    assert await store.projected(P) == 0
    await until(lambda: projector.sequence == 2)
    assert store.writes == [(2, 2, 0)]


@virtual
async def test_readers_are_not_held_up_by_a_store_that_cannot_be_written() -> None:
    store, projector, _ = started()
    store.troubles = [Busy("full") for _ in range(100)]
    projector.put(1, [row()])
    await until(lambda: len(store.troubles) < 100)
    clock = asyncio.get_running_loop().time
    began = clock()
    await projector.reached(1)
    assert clock() - began == pytest.approx(STALE_AFTER_S, abs=0.01)


@virtual
async def test_a_store_that_is_broken_ends_the_projector() -> None:
    store, projector, running = started()
    store.troubles = [StoreError("damaged")]
    projector.put(1, [row()])
    with pytest.raises(StoreError):
        await running


@virtual
async def test_the_position_is_read_at_the_start() -> None:
    store = MemoryStore()
    await store.project(P, 7, [msgspec.structs.replace(row(), completed=1)], [])
    projector = Projector(store, P)
    assert await projector.position() == 7
    assert projector.sequence == 7


@virtual
async def test_nobody_waits_for_rows_that_nobody_writes_any_more() -> None:
    store, projector, task = started()
    store.gate.clear()
    projector.put(1, [row()])
    waiting = asyncio.create_task(projector.reached(1))
    await asyncio.sleep(1)
    assert not waiting.done()
    task.cancel()
    projector.close()
    await waiting
    await projector.reached(1)


@virtual
async def test_a_run_that_has_the_id_of_one_that_was_deleted_is_written_after_that_is_gone() -> None:
    store, projector, _ = started()
    projector.put(1, [row(1, 1), item(0), RunGone(run_id(1)), row(1, 0)])
    projector.put(2, [row(2, 0), row(1, 1), item(0)])
    store.troubles = [Busy("once")]
    await projector.reached(2)
    assert [sequence for sequence, _, _ in store.writes] == [0, 2], "what is not written yet is not said to be"
    found = await store.get_run(run_id(1))
    assert found is not None
    assert found.completed == 1
    assert len(await store.get_items(run_id(1))) == 1
    await store.project(P, 2, [], [], [RunGone(run_id(1))])
    assert await store.get_run(run_id(1)) is None
