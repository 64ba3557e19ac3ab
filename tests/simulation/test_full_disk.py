"""Row F1 in virtual time: journal, read model and flow store without space. Nothing leaves before it is durable, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from tests.simulation.deployment_world import World, until
from tests.simulation.test_crash_every_write import FLOW, expected
from tests.simulation.test_sub_runs_and_cancel import Deployment, flow, up
from tests.simulation.virtual_loop import run_virtual

from stepmesh.errors import RequestRefused
from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.core.rows import ItemRow, RunGone, RunRow
from stepmesh_orchestrator.journal.memory import MemoryJournal
from stepmesh_orchestrator.ports import FlowRecord, JournalFull, Snapshot, StoreError
from stepmesh_orchestrator.store.memory import MemoryStore
from stepmesh_orchestrator.store.sqlite import StoreFull


class Disk:
    """`full`: no append finds space. `appends`: tries while it is full."""

    def __init__(self) -> None:
        self.full = False
        self.appends = 0

    def __call__(self, partition: int, sequence: int) -> None:
        if self.full:
            self.appends += 1
            raise JournalFull("no space is left", hint="free some space; no restart is needed")


class SmallStore(MemoryStore):
    """A store that `problem` keeps from writing."""

    problem: StoreError | None = None

    async def put_flow(self, flow: FlowRecord) -> None:
        self._check()
        await super().put_flow(flow)

    async def project(
        self, partition: Partition, sequence: int, runs: Sequence[RunRow], items: Sequence[ItemRow], gone: Sequence[RunGone] = ()
    ) -> None:
        self._check()
        await super().project(partition, sequence, runs, items, gone)

    def _check(self) -> None:
        if self.problem is not None:
            raise self.problem


def deployment(disk: Disk) -> Deployment:
    return Deployment(MemoryJournal(before_append=disk))


def test_what_is_in_the_turn_waits_and_what_comes_later_is_refused_until_there_is_space() -> None:
    async def main() -> None:
        disk = Disk()
        world = deployment(disk)
        client = await up(world)
        stored = await client.store_flow(flow("echo"))
        disk.full = True
        held = asyncio.create_task(client.submit(stored, ["held"], run_key="held"))
        await until(lambda: disk.appends)
        with pytest.raises(RequestRefused, match="no space is left") as refused:
            await client.submit(stored, ["refused"])
        assert (refused.value.code, refused.value.hint) == ("SM-4003", "free some space; no restart is needed")
        await asyncio.sleep(300)
        assert world.executions.total() == 0, "nothing left before it was durable"
        assert not held.done()
        assert 290 < disk.appends < 330, "a look each second"
        disk.full = False
        handle = await held
        assert await handle.result(timeout=30) == "held"
        assert await client.run(stored, "after", timeout=30) == "after"
        assert len(await client.list_runs()) == 2
        await world.close()
        await world.audit()

    run_virtual(main())


def test_submissions_that_waited_behind_the_full_turn_are_refused_and_a_repeated_one_is_not() -> None:
    async def main() -> None:
        disk = Disk()
        world = deployment(disk)
        client = await up(world, workers=0)
        stored = await client.store_flow(flow("echo"))
        disk.full = True
        held = [asyncio.create_task(client.submit(stored, [n])) for n in range(20)]
        await asyncio.sleep(30)  # each request is repeated after ten seconds, with its run id
        disk.full = False
        answers = await asyncio.gather(*held, return_exceptions=True)
        accepted = [answer for answer in answers if not isinstance(answer, BaseException)]
        refused = [answer for answer in answers if isinstance(answer, RequestRefused)]
        assert accepted
        assert len(accepted) + len(refused) == 20
        await world.start_worker()
        for handle in accepted:
            await handle.wait(timeout=30)
        assert {run.run for run in await client.list_runs()} == {handle.id for handle in accepted}, "what was refused does not exist"
        await world.close()
        await world.audit()

    run_virtual(main())


def test_reads_are_answered_and_running_work_goes_on_afterwards() -> None:
    async def main() -> None:
        disk = Disk()
        world = deployment(disk)
        client = await up(world)
        handle = await client.submit(FLOW, [{"n": 7}])
        await until(lambda: world.executions)
        disk.full = True
        await asyncio.sleep(20)
        assert (await handle.info()).summary.status == "running"
        assert await client.explain(handle.id)
        assert [run.run for run in await client.list_runs(roots_only=True)] == [handle.id]
        disk.full = False
        assert await handle.result(timeout=60) == expected(7)
        assert max(world.executions.values()) == 1, "leases were renewed all the time"
        await world.close()
        await world.audit()

    run_virtual(main())


def test_a_component_that_starts_a_sub_run_waits_for_space() -> None:
    async def main() -> None:
        disk = Disk()
        world = deployment(disk)
        store = world.store = SmallStore()
        client = await up(world)
        stored = await client.store_flow(flow("late_delegate"))
        for number in range(2):
            handle = await client.submit(stored, [number])
            await until(lambda number=number: world.started("p") == number + 1)
            disk.full = not number
            store.problem = StoreFull("no space is left for the store") if number else None
            await asyncio.sleep(120)
            disk.full, store.problem = False, None
            assert await handle.result(timeout=30) == number
        await world.close()
        await world.audit()

    run_virtual(main())


def test_a_stop_does_not_wait_for_space_and_the_next_life_has_what_was_accepted() -> None:
    async def main() -> None:
        disk = Disk()
        world = deployment(disk)
        client = await up(world, workers=0)
        accepted = await client.submit(flow("echo"), [1])
        disk.full = True
        held = asyncio.create_task(client.submit(flow("echo"), [2], run_key="held"))
        await until(lambda: disk.appends)
        assert world.node is not None
        await world.node.stop()
        disk.full = False
        await world.start_node()
        await world.start_worker()
        assert await accepted.result(timeout=60) == 1
        assert await (await held).result(timeout=60) == 2
        await world.close()
        await world.audit()

    run_virtual(main())


def test_a_snapshot_that_finds_no_space_is_left_out() -> None:
    class NoRoom(MemoryJournal):
        async def save_snapshot(self, partition: Partition, epoch: int, snapshot: Snapshot) -> None:
            raise JournalFull("no space is left")

    async def main() -> None:
        world = Deployment(NoRoom())
        client = await up(world)
        assert await client.run(flow("echo"), 1, timeout=30) == 1
        await world.shard.snapshot()
        assert await client.run(flow("echo"), 2, timeout=30) == 2
        await world.close()
        await world.audit()

    run_virtual(main())


def test_a_flow_that_a_step_needs_is_stored_when_the_store_has_space_again() -> None:
    own = {"steps": [{"id": "own", "component": "/cpu/echo", "input": {"$input": "$"}}], "output": {"$step": "own"}}
    step = {"id": "e", "component": "/builtin/eval", "input": {"flow": {"$literal": own}, "input": 5}}
    needing = {"steps": [step], "output": {"$step": "e", "path": "$.result.result"}}

    async def main() -> None:
        world = Deployment()
        store = world.store = SmallStore()
        client = await up(world)
        stored = await client.store_flow(needing)
        store.problem = StoreFull("no space is left for the store")
        handle = await client.submit(stored, [1])
        await asyncio.sleep(60)
        assert (await handle.info()).summary.status == "running"
        store.problem = None
        assert await handle.result(timeout=30) == 5
        await world.close()
        await world.audit()

    run_virtual(main())


def test_readers_do_not_wait_for_a_store_without_space() -> None:
    async def main() -> None:
        world = Deployment()
        store = world.store = SmallStore()
        client = await up(world)
        stored = await client.store_flow(flow("echo"))
        await client.run(stored, "before", timeout=30)
        store.problem = StoreFull("no space is left for the store")
        handle = await client.submit(stored, ["x"])
        await until(lambda: world.started("p") == 2)
        asked = world.clock.monotonic()
        assert len(await client.list_runs()) >= 1
        assert world.clock.monotonic() - asked < 5
        store.problem = None
        assert await handle.result(timeout=30) == "x"
        await world.close()
        await world.audit()

    run_virtual(main())


def test_a_broken_store_ends_the_node_with_its_error() -> None:
    async def main() -> None:
        world = Deployment()
        store = world.store = SmallStore()
        client = await up(world)
        stored = await client.store_flow(flow("echo"))
        store.problem = StoreError("the disk failed")
        await client.submit(stored, ["x"])
        node: Any = world.node
        with pytest.raises(StoreError, match="the disk failed"):
            await asyncio.wait_for(node.ended, 30)
        await node.abort()
        world.node = None
        await World.close(world)

    run_virtual(main())
