"""Whoever dies, a healthy worker's work is recorded once and not done again: orchestrators, gateways, streams, over both brokers."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from tests.unit.gateway.door import Client, channel_to, one_step
from tests.unit.gateway.puller import Puller, pulling, status_of
from tests.unit.orchestrator.runtime.lab import Lab, js

from stepmesh_broker.memory import MemoryBroker
from stepmesh_broker.nats import NatsBroker, NatsSettings
from stepmesh_broker.ports import Broker
from stepmesh_broker.protocol.ids import Namespace, Pool
from stepmesh_gateway.server import Gateway
from stepmesh_gateway.settings import GatewaySettings
from stepmesh_orchestrator.node import Node

WORK = one_step("/py/work")


class World:
    """An orchestrator that can crash, behind any number of gateways over one broker."""

    def __init__(self, lab: Lab, connection: Callable[[], Broker]) -> None:
        self.lab = lab
        self._connection = connection
        self.namespace = lab.namespace

    @asynccontextmanager
    async def gateway(self) -> AsyncIterator[Gateway]:
        """One more."""
        broker = self._connection()
        await broker.connect()
        async with Gateway(broker, GatewaySettings(namespace=self.namespace, drain_s=0.5)) as gateway:
            yield gateway
        await broker.close()

    async def recover(self) -> None:
        """Another orchestrator takes over from one that was aborted."""
        old = self.lab.node
        await old.stop()
        self.lab.node = Node(old.ports, self.lab.settings, self.lab.router)
        await self.lab.node.start()


@pytest.fixture(params=["memory", "nats"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    name = Namespace(f"deaths-{secrets.token_hex(4)}")
    lab = Lab(namespace=name)
    if request.param == "nats":
        url = request.getfixturevalue("nats_url")
        lab.broker = NatsBroker(NatsSettings(url=url, namespace=name))
        lab.client = NatsBroker(NatsSettings(url=url, namespace=name))  # type: ignore[assignment]
        world = World(lab, lambda: NatsBroker(NatsSettings(url=url, namespace=name)))
    else:
        world = World(lab, lambda: MemoryBroker(lab.bus, name))
    await lab.start()
    yield world
    await lab.stop()
    await lab.broker.close()
    await lab.client.close()


async def test_a_result_is_accepted_after_its_orchestrator_was_replaced(world: World) -> None:
    async with world.gateway() as gateway, pulling(gateway) as worker:
        run = await world.lab.submit(WORK, 1)
        task = await worker.begin()
        await world.lab.node.abort()
        assert await worker.beat(task) == "in progress"
        await worker.complete(task, "done meanwhile")
        await world.recover()
        info = await world.lab.ended(run)
        assert info.results[0].result == js({"outcome": "success", "result": "done meanwhile"})
        await assert_not_begun_again(worker)


async def assert_not_begun_again(worker: Puller) -> None:
    """What was in flight when an orchestrator died is sent again, and its shard refuses the claim."""
    try:
        copy = await worker.next(1.5)
    except TimeoutError:
        return
    assert await worker.beat(copy) == "abort"


async def test_a_result_for_another_gateway(world: World) -> None:
    async with world.gateway() as second, channel_to(second) as channel:
        async with world.gateway() as first, pulling(first) as worker:
            run = await world.lab.submit(WORK, 1)
            task = await worker.begin()
            worker.client = Client(channel)
            await worker.complete(task, "elsewhere")
        info = await world.lab.ended(run)
        assert info.results[0].result == js({"outcome": "success", "result": "elsewhere"})
        assert await worker.beat(task) == "abort"


async def test_a_gateway_that_goes_leaves_begun_tasks_to_their_workers(world: World) -> None:
    async with world.gateway() as second, channel_to(second) as channel:
        async with world.gateway() as first, pulling(first) as worker:
            run = await world.lab.submit(WORK, 1)
            task = await worker.begin()
            waiting = await world.lab.submit(WORK, 2)
            unbegun = await worker.next()
        worker.client = Client(channel)
        assert await worker.beat(task) == "in progress"
        async with pulling(second, "w2") as other:
            again = await other.begin()
            assert again.execute.observability.run_id == waiting
            assert await worker.beat(unbegun) == "abort"
            await other.nothing(0.5)
            await other.complete(again, "w2")
        await worker.complete(task, "w1")
        assert (await world.lab.ended(run)).results[0].result == js({"outcome": "success", "result": "w1"})
        assert (await world.lab.ended(waiting)).results[0].result == js({"outcome": "success", "result": "w2"})


async def test_while_nobody_owns_the_partition_an_unknown_task_is_unavailable(world: World) -> None:
    async with world.gateway() as first, pulling(first) as worker, world.gateway() as second, channel_to(second) as channel:
        await world.lab.submit(WORK, 1)
        task = await worker.begin()
        worker.client = Client(channel)
        await world.lab.node.abort()
        for call in (worker.complete(task), worker.beat(task)):
            status, text = await status_of(call)
            assert status is grpc.StatusCode.UNAVAILABLE
            assert "SM-7203" in text
        await world.recover()
        async with asyncio.timeout(10):
            while not await _taken(worker, task):
                await asyncio.sleep(0.1)


async def _taken(worker: Puller, task: Any) -> bool:
    try:
        await worker.complete(task, 1)
    except grpc.aio.AioRpcError as problem:
        if problem.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return False
    return True


async def test_a_redelivered_task_is_claimed_at_its_shard_first(world: World) -> None:
    lab = world.lab
    run = await lab.submit(WORK, 1)
    (delivery,) = await lab.frames()
    await delivery.nak()
    async with world.gateway() as gateway, pulling(gateway) as worker:
        task = await worker.begin()
        assert lab.shard.dispatcher.leases.held, "the claim was asked for"
        await worker.complete(task, "again")
    assert (await lab.ended(run)).summary.status == "completed"


async def test_a_claim_waits_for_a_shard_that_recovers(world: World) -> None:
    lab = world.lab
    run = await lab.submit(WORK, 1)
    (delivery,) = await lab.frames()
    await delivery.nak()
    async with world.gateway() as gateway, pulling(gateway) as worker:
        task = await worker.next()
        await lab.node.abort()
        claim = asyncio.ensure_future(worker.beat(task))
        await asyncio.sleep(0.5)
        assert not claim.done()
        await world.recover()
        assert await asyncio.wait_for(claim, 10) == "in progress"
        await worker.complete(task, "late")
    assert (await lab.ended(run)).summary.status == "completed"


async def test_frames_are_acknowledged_when_their_results_are_there(world: World) -> None:
    lab = world.lab
    async with world.gateway() as gateway, pulling(gateway) as worker:
        run = await lab.submit(WORK, *range(6))
        for _ in range(6):
            await worker.complete(await worker.begin(), {"ok": True})
        await lab.ended(run)
        async with asyncio.timeout(10):
            while any((depth := await lab.client.depth(Pool("py")))[:2]):
                await asyncio.sleep(0.02)
        assert depth.floor > 0
