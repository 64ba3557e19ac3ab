"""A whole deployment in one virtual-time loop: orchestrator, workers, broker, journal. Parts crash and come back; what is durable stays."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.simulation.virtual_loop import LoopTimeClock

from stepmesh import Context, Worker
from stepmesh.client import Client
from stepmesh_broker.memory import MemoryBroker, MemoryBus
from stepmesh_broker.ports import Broker
from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.core import events as ev
from stepmesh_orchestrator.core.events import decode_turn
from stepmesh_orchestrator.core.snapshot import state_hash
from stepmesh_orchestrator.journal.memory import MemoryJournal
from stepmesh_orchestrator.node import Node, NodeSettings
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.partition import Ports
from stepmesh_orchestrator.runtime.projector import Projector
from stepmesh_orchestrator.runtime.recovery import recover
from stepmesh_orchestrator.store.memory import MemoryStore

OUTCOMES = (ev.StepSucceeded, ev.StepFailed, ev.StepDefaulted, ev.StepSkipped)


class Crash(Exception):
    """Raised by a fault hook: the process dies here."""


class World:
    """`wrap` puts something (a fault injector) around each broker connection. `executions` is the ledger: what workers really ran."""

    def __init__(self, journal: MemoryJournal | None = None, wrap: Callable[[Broker], Broker] = lambda broker: broker) -> None:
        self.bus = MemoryBus()
        self.journal = journal or MemoryJournal()
        self.store = MemoryStore()
        self.clock = LoopTimeClock()
        self.wrap = wrap
        self.node: Node | None = None
        self.workers: list[tuple[Worker, asyncio.Task[None]]] = []
        self.executions: Counter[tuple[str, int, str, int]] = Counter()
        self.restarts = 0

    async def connection(self) -> Broker:
        broker = self.wrap(MemoryBroker(self.bus, "default"))
        await broker.connect()
        return broker

    async def start_node(self) -> Node:
        ports = Ports(await self.connection(), self.journal, self.store, self.clock)
        self.node = Node(ports, NodeSettings())
        await self.node.start()
        return self.node

    async def keep_node_alive(self) -> None:
        """Restart the orchestrator whenever it dies, also while it recovers."""
        while True:
            node = None
            try:
                node = await self.start_node()
                await asyncio.shield(node.ended)
            except Crash:
                self.restarts += 1
                if self.node is not None:
                    self.node.ended.cancel()
                    await self.node.abort()
                await asyncio.sleep(0.1)

    def worker(self, *, exclusive: bool = False) -> Worker:
        """Components that note every execution in the ledger."""
        worker = Worker(pool="cpu", concurrency=8, exclusive=exclusive)

        def note(context: Context) -> None:
            self.executions[context.run_id, context.item, context.step_id, context.attempt] += 1

        @worker.component
        async def echo(value: Any, context: Context) -> Any:
            note(context)
            return value

        @worker.component
        async def slow(value: Any, context: Context) -> Any:
            note(context)
            await asyncio.sleep(3)
            return value

        @worker.component
        async def flaky(value: Any, context: Context) -> Any:
            note(context)
            if context.attempt < 3:
                raise RuntimeError(f"attempt {context.attempt}")
            return "steady"

        return worker

    def dormant(self) -> set[str]:
        """Runs that are out of memory; none while the orchestrator is away."""
        service = None if self.node is None else self.node.partitions.get(Partition(0))
        return set() if service is None else set(service.shard.session.state.dormant.places)

    async def start_worker(self, *, exclusive: bool = False) -> None:
        await self.employ(self.worker(exclusive=exclusive))

    async def employ(self, worker: Worker) -> None:
        """Let it work until the end."""
        self.workers.append((worker, asyncio.create_task(worker.run(await self.connection()))))

    async def client(self) -> Client:
        return Client(await self.connection(), patience_s=600.0)

    async def close(self, keeper: asyncio.Task[None] | None = None) -> None:
        """An orderly end. `keeper`: of the node, which is not to start another one."""
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        for worker, _ in self.workers:
            worker.stop()
        await asyncio.gather(*(task for _, task in self.workers))
        if self.node is not None and self.node.partitions:
            await self.node.stop()

    async def audit(self) -> None:
        """The oracle of reliability.md over the journal: see each assertion."""
        outcomes: Counter[tuple[str, int, int]] = Counter()
        items: Counter[tuple[str, int]] = Counter()
        created: Counter[str] = Counter()
        ended: Counter[str] = Counter()
        for partition in await self.journal.partitions():
            async for frame in self.journal.read(partition):
                for event in decode_turn(frame.payload).events:
                    if isinstance(event, OUTCOMES):
                        outcomes[event.run, event.item, event.step] += 1
                    elif isinstance(event, ev.ItemEnded):
                        items[event.run, event.item] += 1
                    elif isinstance(event, ev.RunCreated):
                        created[event.run] += 1
                    elif isinstance(event, ev.RunEnded):
                        ended[event.run] += 1
        assert all(count == 1 for count in (*outcomes.values(), *items.values(), *created.values(), *ended.values()))
        assert set(ended) == set(created), "every accepted run ended"
        for partition in await self.journal.partitions():
            assert await self.replayed_hash(partition) == await self.replayed_hash(partition)

    async def replayed_hash(self, partition: Partition) -> str:
        store = MemoryStore()
        flows = FlowRegistry(self.store, self.clock)
        recovered = await recover(self.journal, partition, flows, Projector(store, partition))
        return state_hash(recovered.state)


async def until(condition: Callable[[], object]) -> None:
    """Wait, in virtual time, until the condition gives something true."""
    while not condition():  # what it looks at is no event, and a virtual tenth of a second is free
        await asyncio.sleep(0.1)
