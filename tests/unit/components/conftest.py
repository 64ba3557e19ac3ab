"""An engine in memory, for components that need one: `run(flow, input)` gives the FlowResult."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

from stepmesh import Client, Worker
from stepmesh_broker.memory import MemoryBroker, MemoryBus
from stepmesh_orchestrator.clock import SystemClock
from stepmesh_orchestrator.journal.memory import MemoryJournal
from stepmesh_orchestrator.node import Node, NodeSettings
from stepmesh_orchestrator.runtime.partition import Ports
from stepmesh_orchestrator.store.memory import MemoryStore

Start = Callable[[Sequence[Worker]], Awaitable[Client]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """`await start([worker, …])` → a client of an engine in memory with those workers."""
    async with AsyncExitStack() as stack:

        async def begin(workers: Sequence[Worker]) -> Client:
            bus = MemoryBus()

            async def connected() -> MemoryBroker:
                broker = MemoryBroker(bus, "default")
                await broker.connect()
                stack.push_async_callback(broker.close)
                return broker

            node = Node(Ports(await connected(), MemoryJournal(), MemoryStore(), SystemClock()), NodeSettings())
            await node.start()
            stack.push_async_callback(node.stop)
            for worker in workers:
                running = asyncio.create_task(worker.run(await connected()))
                stack.push_async_callback(asyncio.wait_for, running, 10)
                stack.callback(worker.stop)
            return Client(await connected())

        yield begin


@pytest.fixture
def run(start: Start) -> Callable[..., Awaitable[Any]]:
    """`await run(workers, flow, input)` → FlowResult."""

    async def once(workers: Sequence[Worker], flow: Any, input: Any = None) -> Any:
        client = await start(workers)
        handle = await client.submit(flow, [input])
        await handle.wait(20)
        return msgspec.json.decode((await client.get_run(handle.id)).results[0].result)

    return once
