"""With the read model written elsewhere a deployment writes none of it, and its readers see what they did."""

from __future__ import annotations

import asyncio
import logging

import pytest
from tests.simulation.deployment_world import World
from tests.simulation.virtual_loop import LoopTimeClock, run_virtual
from tests.unit.projector.recorded import PARTITION, read_model, recorded

from stepmesh_orchestrator.core.flow.routing import default_router
from stepmesh_orchestrator.journal.memory import MemoryJournal
from stepmesh_orchestrator.node import Node, NodeSettings
from stepmesh_orchestrator.runtime.external_projector import PATIENCE_S, ExternalProjector
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.partition import Ports
from stepmesh_orchestrator.runtime.projector import STALE_AFTER_S, Projector
from stepmesh_orchestrator.store.memory import MemoryStore
from stepmesh_projector.fold import Fold
from stepmesh_projector.windows import Windows

FLOW = {"steps": [{"id": "a", "component": "/cpu/echo", "input": {"$input": "$"}}], "output": {"$step": "a"}}


class ProjectedElsewhere(World):
    async def start_node(self) -> Node:
        ports = Ports(await self.connection(), self.journal, self.store, self.clock, projector=ExternalProjector)
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
            projector, clock, took = ExternalProjector(MemoryStore(), PARTITION), LoopTimeClock(), []
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
    projector = ExternalProjector(store, PARTITION)
    rows = [run for run, _ in await read_model(recorded().store)]
    projector.put(1, list(rows))
    assert projector.waiting == 0
    assert await store.projected(PARTITION) == 0
