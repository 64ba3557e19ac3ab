"""With the read model written elsewhere a deployment writes none of it, and its readers see what they did."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

import pytest
from tests.simulation.deployment_world import World
from tests.simulation.virtual_loop import LoopTimeClock, run_virtual
from tests.unit.projector.recorded import PARTITION, read_model, recorded

from stepmesh.errors import StepmeshError
from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.core.flow.routing import default_router
from stepmesh_orchestrator.journal.memory import MemoryJournal
from stepmesh_orchestrator.node import Node, NodeSettings
from stepmesh_orchestrator.ports import StoreError
from stepmesh_orchestrator.runtime.external_projector import MAX_BEHIND, PATIENCE_S, ExternalProjector
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.partition import Ports
from stepmesh_orchestrator.runtime.projector import STALE_AFTER_S, Projector
from stepmesh_orchestrator.store.memory import MemoryStore
from stepmesh_projector.fold import Fold
from stepmesh_projector.windows import Windows

FLOW = {"steps": [{"id": "a", "component": "/cpu/echo", "input": {"$input": "$"}}], "output": {"$step": "a"}}


class ProjectedElsewhere(World):
    """`checkpoint`: that the projector has kept."""

    checkpoint: int | None = None
    max_behind = MAX_BEHIND

    async def kept(self, partition: Partition) -> int | None:
        return self.checkpoint

    async def start_node(self) -> Node:
        external = partial(ExternalProjector, kept=self.kept, max_behind=self.max_behind)
        ports = Ports(await self.connection(), self.journal, self.store, self.clock, projector=external)
        self.node = Node(ports, NodeSettings())
        await self.node.start()
        return self.node

    async def follow(self) -> None:
        """What a projector does."""
        projector = Projector(self.store, PARTITION)
        writing = asyncio.ensure_future(projector.run())
        fold = Fold.begin(PARTITION, FlowRegistry(self.store, self.clock), default_router(), Windows(10_000, lambda place: None))
        try:
            while True:
                async for frame in self.journal.read(PARTITION, after=fold.sequence):
                    projector.pass_on(frame.sequence, await fold.take(frame.sequence, frame.payload))
                await asyncio.sleep(0.2)
        finally:
            writing.cancel()


async def never(partition: Partition) -> int | None:
    return None


def test_who_reads_waits_for_the_projector() -> None:
    async def work() -> None:
        world = ProjectedElsewhere(MemoryJournal())
        await world.start_node()
        await world.start_worker()
        client = await world.client()
        following = asyncio.ensure_future(world.follow())
        handles = [await client.submit(FLOW, [number]) for number in range(20)]
        for handle in handles:
            await handle.wait(timeout=100)
            assert (await client.get_run(handle.id)).summary.status == "completed"
        assert len(await read_model(world.store)) == 20
        following.cancel()
        await world.close()

    run_virtual(work())


async def test_a_reader_is_not_kept_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    def late() -> list[float]:
        async def work() -> list[float]:
            projector, clock, took = ExternalProjector(MemoryStore(), PARTITION, never), LoopTimeClock(), []
            for _ in range(2):
                begun = clock.monotonic()
                await projector.reached(1)
                took.append(clock.monotonic() - begun)
            return took

        return run_virtual(work())

    with caplog.at_level(logging.WARNING):
        assert await asyncio.to_thread(late) == [pytest.approx(PATIENCE_S), pytest.approx(STALE_AFTER_S)]
    assert "does a projector run?" in caplog.text


async def test_it_writes_nothing() -> None:
    store = MemoryStore()
    projector = ExternalProjector(store, PARTITION, never)
    rows = [run for run, _ in await read_model(recorded().store)]
    projector.put(1, list(rows))
    assert projector.waiting == 0
    assert await store.projected(PARTITION) == 0


async def test_before_the_first_checkpoint_there_is_no_snapshot_and_nothing_is_released(caplog: pytest.LogCaptureFixture) -> None:
    projector = ExternalProjector(MemoryStore(), PARTITION, never)
    with caplog.at_level(logging.INFO):
        assert not await projector.caught_up(9)
    assert await projector.released(9) == 0
    assert "no snapshot after frame 9 of partition 0: no checkpoint of a projector is known" in caplog.text


async def test_the_journal_is_released_up_to_the_checkpoint_as_it_is_now() -> None:
    world = ProjectedElsewhere(MemoryJournal())
    projector = ExternalProjector(MemoryStore(), PARTITION, world.kept)
    for checkpoint, released in ((4, 4), (9, 9), (12, 9), (None, 0)):
        world.checkpoint = checkpoint
        assert await projector.caught_up(9) is (checkpoint is not None)
        assert await projector.released(9) == released


async def test_while_the_database_is_away_nothing_is_released_and_no_snapshot_taken() -> None:
    async def away(partition: Partition) -> int | None:
        raise StoreError("it is away")

    projector = ExternalProjector(MemoryStore(), PARTITION, away)
    assert not await projector.caught_up(9)
    assert await projector.released(9) == 0


async def test_new_runs_are_refused_one_frame_above_the_limit_and_taken_at_it() -> None:
    async def five(partition: Partition) -> int | None:
        return 5

    projector = ExternalProjector(MemoryStore(), PARTITION, five, max_behind=10)
    assert projector.refusal(1_000) is None, "it has not looked yet"
    await projector.released(1)
    assert projector.refusal(15) is None
    refused = projector.refusal(16)
    assert refused is not None
    assert (refused.code, "11 frames behind partition 0" in refused.message) == ("SM-7320", True)


def test_a_deployment_takes_no_new_run_while_projectors_are_away_and_runs_that_live_go_on() -> None:
    async def work() -> None:
        world = ProjectedElsewhere(MemoryJournal())
        world.max_behind = 3
        await world.start_node()
        client = await world.client()
        handles = [await client.submit(FLOW, [1]) for _ in range(4)]
        assert world.node is not None
        while world.node.partitions[0].shard.projector.refusal(4) is None:
            await asyncio.sleep(1)
        with pytest.raises(StepmeshError, match="no new run is accepted") as refused:
            await client.submit(FLOW, [2])
        assert refused.value.code == "SM-7320"
        await world.start_worker()
        following = asyncio.ensure_future(world.follow())
        for handle in handles:
            await handle.wait(timeout=100)
        world.checkpoint = 1_000
        await asyncio.sleep(10)
        await (await client.submit(FLOW, [2])).wait(timeout=100)
        following.cancel()
        await world.close()

    run_virtual(work())
