"""Two builds of a workflow side by side on real brokers: a run goes to its own one, and one that is blocked goes on when code comes."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from tests.simulation.test_builds import OTHER, RUNS, Fleets, begin, blocked, results, send

from stepmesh import Client, endpoint
from stepmesh_broker.ports import Broker
from stepmesh_broker.protocol.ids import Namespace
from stepmesh_orchestrator.clock import SystemClock
from stepmesh_orchestrator.node import Node, NodeSettings
from stepmesh_orchestrator.runtime.partition import Ports


class Served(Fleets):
    """Over a broker of its own server."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.namespace = f"t{uuid.uuid4().hex[:12]}"
        self.opened: list[Broker] = []

    async def connection(self) -> Broker:
        broker = endpoint.broker(self.url, self.namespace)
        await broker.connect()
        self.opened.append(broker)
        return broker

    async def client(self) -> Client:
        return Client(await self.connection(), self.namespace, patience_s=60.0)

    async def start_node(self) -> Node:
        self.node = Node(
            Ports(await self.connection(), self.journal, self.store, SystemClock()), NodeSettings(namespace=Namespace(self.namespace))
        )
        await self.node.start()
        return self.node

    async def end(self) -> None:
        await super().end()
        for broker in self.opened:
            await broker.close()


@pytest.mark.parametrize("server", ["nats", "kafka"])
async def test_runs_go_on_with_their_own_build(server: str, request: pytest.FixtureRequest) -> None:
    world = Served(request.getfixturevalue(f"{server}_url"))
    async with asyncio.timeout(240):
        await world.start_node()
        client = await world.client()
        await world.deploy("blue")
        runs = await begin(client)
        await world.deploy("green", OTHER)
        await send(client)
        assert await results(runs) == [["blue", "blue"]] * RUNS
        await world.retire("green")

        runs = await begin(client, "again")
        await world.retire("blue")
        await world.deploy("green", OTHER)
        await send(client, "again")
        assert "SM-1001 Replay diverged" in await blocked(client, runs)
        await world.deploy("blue")
        assert await results(runs) == [["blue", "blue"]] * RUNS
        await world.end()


async def test_runs_go_to_another_build_while_their_own_lives(request: pytest.FixtureRequest) -> None:
    world = Served(request.getfixturevalue("nats_url"))
    async with asyncio.timeout(120):
        await world.start_node()
        client = await world.client()
        await world.deploy("blue")
        runs = await begin(client)
        await world.deploy("red", OTHER)
        await world.deploy("green")
        for run in runs:
            await run.resume(version="red")
        assert "SM-1001 Replay diverged" in await blocked(client, runs)
        for run in runs:
            await run.resume(version="green")
        await send(client)
        assert await results(runs) == [["blue", "green"]] * RUNS
        await world.end()
