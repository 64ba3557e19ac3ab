"""A deployment's own worker outlives a broker that is away when it is to begin."""

from __future__ import annotations

import asyncio

import pytest

from stepmesh import Worker
from stepmesh_broker.errors import BrokerError, BrokerUnavailable
from stepmesh_broker.memory import MemoryBroker, MemoryBus
from stepmesh_broker.ports import Broker
from stepmesh_broker.protocol.ids import Namespace, Pool
from stepmesh_cli import own_worker
from stepmesh_cli.own_worker import OwnWorker


class Away(MemoryBroker):
    """Nobody joins a pool, but for the last of some times."""

    def __init__(self, times: int, problem: BrokerError) -> None:
        super().__init__(MemoryBus(), Namespace("default"))
        self.times = times
        self.problem = problem
        self.joined = asyncio.Event()

    async def tasks(self, pool: Pool):  # type: ignore[no-untyped-def]
        self.times -= 1
        if self.times > 0:
            raise self.problem
        self.joined.set()
        return await super().tasks(pool)


async def working(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> OwnWorker:
    monkeypatch.setattr(own_worker, "AGAIN_S", 0.01)
    await broker.connect()
    worker = Worker(pool="cpu")
    worker.component(lambda value: value, name="echo")
    return OwnWorker(worker, broker)


async def test_it_begins_when_the_broker_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Away(3, BrokerUnavailable("away"))
    own = await working(broker, monkeypatch)
    async with asyncio.timeout(10):
        await broker.joined.wait()
        await own.drain(5.0)
    assert own.task.exception() is None
    assert broker.times == 0
    await broker.close()


async def test_it_ends_when_it_is_told_to_while_the_broker_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Away(1_000_000, BrokerUnavailable("away"))
    own = await working(broker, monkeypatch)
    async with asyncio.timeout(10):
        while broker.times > 999_990:
            await asyncio.sleep(0)
        await own.drain(5.0)
    assert own.task.exception() is None
    await broker.close()


async def test_what_is_no_outage_ends_the_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Away(3, BrokerError("no"))
    own = await working(broker, monkeypatch)
    async with asyncio.timeout(10):
        await asyncio.wait((own.task,))
    assert own.task.exception() is broker.problem
    await broker.close()
