"""Workers behind a NATS server, as Stepflow's own take their tasks: from a work-queue stream, acknowledged at once, completed over gRPC.

The worker here does what the protocol's page says: it takes one assignment, and claims, beats and completes by OrchestratorService.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import nats
import pytest
from nats.aio.client import Client as NatsClient
from nats.js.api import ConsumerConfig, DeliverPolicy
from tests.unit.gateway.door import Client, channel_to

from stepmesh_broker.pb.stepflow.v1 import orchestrator_pb2, tasks_pb2
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_cli.settings import gateway_settings
from stepmesh_gateway.rpc import nats_line
from stepmesh_gateway.translate.values import from_value, plain_value
from stepmesh_orchestrator.config import parse_config

LIMIT_S = 20.0


class Worker:
    """One connection and consumer; `id` is what it calls itself."""

    def __init__(self, connection: NatsClient, source: Any, client: Client) -> None:
        self.connection = connection
        self.source = source
        self.client = client
        self.id = str(uuid.uuid4())
        self.questions = 0

    async def take(self, timeout_s: float = LIMIT_S) -> tasks_pb2.TaskAssignment:
        """The next task, acknowledged; questions after components are answered meanwhile. Raises `TimeoutError`."""
        while True:
            [message] = await self.source.fetch(1, timeout=timeout_s)
            await message.ack_sync()
            task = tasks_pb2.TaskAssignment.FromString(message.data)
            if not task.HasField("list_components"):
                return task
            self.questions += 1
            offered = [tasks_pb2.ComponentInfo(component_id=f"{name}_id", path=f"/{name}") for name in ("double", "slow")]
            answer = orchestrator_pb2.ListComponentsResult(components=offered)
            await self.client("OrchestratorService/CompleteTask", task_id=task.task_id, list_components=answer)

    async def beat(self, task: tasks_pb2.TaskAssignment, worker: str = "") -> str:
        """A heartbeat: `go on` or `abort`."""
        answer = await self.client("OrchestratorService/TaskHeartbeat", task_id=task.task_id, worker_id=worker or self.id)
        return "abort" if answer.should_abort else "go on"

    async def complete(self, task: tasks_pb2.TaskAssignment, output: Any) -> None:
        """A result."""
        response = tasks_pb2.ComponentExecuteResponse(output=plain_value(output))
        await self.client("OrchestratorService/CompleteTask", task_id=task.task_id, response=response)

    async def work(self) -> None:
        """Double what comes, for ever."""
        while True:
            task = await self.take()
            assert await self.beat(task) == "go on"
            await self.complete(task, 2 * json.loads(from_value(task.execute.input)))


class World:
    """A deployment with a `nats` plugin, and workers of it."""

    def __init__(self, deployment: Deployment, client: Client, url: str, stream: str) -> None:
        assert deployment.gateway is not None
        self.deployment = deployment
        self.address = deployment.gateway.address
        self.client = client
        self.url = url
        self.stream = stream
        self.connections: list[NatsClient] = []

    async def worker(self) -> Worker:
        """It waits for the stream, as the real one does."""
        connection = await nats.connect(self.url)
        self.connections.append(connection)
        jetstream = connection.jetstream()
        async with asyncio.timeout(LIMIT_S):
            while not await self._made(jetstream):
                await asyncio.sleep(0.02)
        config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL)
        source = await jetstream.pull_subscribe(f"{self.stream}.tasks", durable="workers", config=config)
        return Worker(connection, source, self.client)

    async def _made(self, jetstream: Any) -> bool:
        try:
            await jetstream.stream_info(self.stream)
        except nats.js.errors.NotFoundError:
            return False
        return True

    async def waiting(self) -> int:
        """Messages in the stream."""
        return int((await self.connections[0].jetstream().stream_info(self.stream)).state.messages)

    async def submit(self, component: str, *inputs: Any) -> str:
        flow = {"steps": [{"id": "a", "component": component, "input": {"$input": "$"}}], "output": {"$step": "a"}}
        answer = await self.client.submit(flow, *inputs)
        run: str = answer.summary.run_id
        return run

    async def results(self, run: str) -> list[Any]:
        """Outputs once the run ended."""
        answer = await self.client("RunsService/GetRun", run_id=run, wait=True, timeout_secs=30)
        assert answer.summary.status == 2, answer
        items = await self.client("RunsService/GetRunItems", run_id=run)
        return [json.loads(from_value(item.output)) for item in items.results]


@asynccontextmanager
async def opened(url: str, more: str = "", **settings_too: Any) -> AsyncIterator[World]:
    stream = f"S{uuid.uuid4().hex[:12]}"
    text = (
        f"plugins: {{bus: {{type: nats, url: '{url}', stream: {stream}, consumer: workers}}}}\nroutes: {{/bus: [{{plugin: bus}}]}}\n{more}"
    )
    config = parse_config(text, {})[0]
    door = msgspec.structs.replace(gateway_settings(config, "default", port=0), **settings_too)
    settings = DeploymentSettings(config=config, gateway=door, grace_s=3)
    async with Deployment(settings) as deployment:
        assert deployment.gateway is not None
        async with channel_to(deployment.gateway) as channel:
            world = World(deployment, Client(channel), url, stream)
            try:
                yield world
            finally:
                for connection in world.connections:
                    await connection.close()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not await condition():
            await asyncio.sleep(0.02)


async def test_a_task_is_taken_from_the_stream_and_completed_over_grpc(nats_url: str) -> None:
    async with opened(nats_url) as world:
        worker = await world.worker()
        run = await world.submit("/bus/double", 21)
        task = await worker.take()
        assert task.context.orchestrator_service_url == world.address
        assert (task.execute.component_id, task.execute.attempt, task.execute.observability.run_id) == ("double_id", 1, run)
        assert await worker.beat(task) == "go on"
        await worker.complete(task, 42)
        assert await world.results(run) == [42]


async def test_components_are_known_once_a_worker_answered(nats_url: str) -> None:
    async with opened(nats_url) as world:
        listed = await world.client("ComponentsService/ListRegisteredComponents")
        assert [one.plugin for one in listed.failed_plugins] == ["bus"]
        working = asyncio.create_task((await world.worker()).work())

        async def known() -> bool:
            listed = await world.client("ComponentsService/ListRegisteredComponents")
            return {"/bus/double", "/bus/slow"} <= {one.path for one in listed.components} and not listed.failed_plugins

        await until(known)
        working.cancel()
        await asyncio.wait([working])


async def test_a_batch_passes_through_several_workers_with_a_bounded_stream(nats_url: str) -> None:
    async with opened(nats_url, "limits: {maxConcurrency: 0}") as world:
        workers = [await world.worker() for _ in range(4)]
        run = await world.submit("/bus/double", *range(300))

        async def full() -> bool:
            return await world.waiting() == nats_line.WINDOW + 1  # and the question

        await until(full)
        working = [asyncio.create_task(worker.work()) for worker in workers]
        assert await world.results(run) == [2 * n for n in range(300)]
        for task in working:
            task.cancel()
        await asyncio.wait(working)


async def test_only_one_worker_begins_a_task(nats_url: str) -> None:
    async with opened(nats_url) as world:
        worker = await world.worker()
        run = await world.submit("/bus/slow", 1)
        task = await worker.take()
        assert await worker.beat(task) == "go on"
        assert await worker.beat(task, "another") == "abort"
        assert await worker.beat(task) == "go on"
        await worker.complete(task, "done")
        assert await world.results(run) == ["done"]


async def test_a_task_that_was_taken_and_never_begun_is_sent_again(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_line, "TAKEN_S", 0.3)
    monkeypatch.setattr(nats_line, "LOOK_S", 0.05)
    async with opened(nats_url) as world:
        worker = await world.worker()
        run = await world.submit("/bus/double", 1)
        first = await worker.take()
        second = await worker.take()
        assert first.execute.observability.run_id == second.execute.observability.run_id == run
        assert first.task_id != second.task_id
        assert await worker.beat(second) == "go on"
        await worker.complete(second, 2)
        assert await world.results(run) == [2]


async def test_what_is_cancelled_leaves_the_stream(nats_url: str) -> None:
    async with opened(nats_url) as world:
        worker = await world.worker()
        await world.client("HealthService/HealthCheck")
        run = await world.submit("/bus/double", 1, 2)

        async def sent() -> bool:
            return await world.waiting() == 3

        async def gone() -> bool:
            return await world.waiting() == 1

        await until(sent)
        await world.client("RunsService/CancelRun", run_id=run)
        await until(gone)
        other = await world.submit("/bus/double", 3)
        assert (await worker.take()).execute.observability.run_id == other


async def test_a_begun_task_that_is_cancelled_is_told_with_the_next_heartbeat(nats_url: str) -> None:
    async with opened(nats_url) as world:
        worker = await world.worker()
        run = await world.submit("/bus/slow", 1)
        task = await worker.take()
        assert await worker.beat(task) == "go on"
        await world.client("RunsService/CancelRun", run_id=run)

        async def told() -> bool:
            return await worker.beat(task) == "abort"

        await until(told)


@pytest.mark.slow
async def test_a_worker_that_went_silent_is_given_up_and_its_task_is_sent_again(nats_url: str) -> None:
    retry = "retry: {transportMaxRetries: 3, backoff: {type: constant, delayMs: 10}}"
    async with opened(nats_url, retry, queue_silent_s=0.5) as world:
        worker = await world.worker()
        run = await world.submit("/bus/slow", 1)
        assert await worker.beat(await worker.take()) == "go on"
        again = await worker.take(30)
        assert (again.execute.observability.run_id, again.execute.attempt) == (run, 2)
        await worker.complete(again, "second")
        assert await world.results(run) == ["second"]


async def test_nothing_is_left_in_the_stream_when_the_gateway_stops(nats_url: str) -> None:
    async with opened(nats_url) as world:
        watching = await nats.connect(nats_url)
        world.connections.append(watching)
        await world.submit("/bus/double", *range(10))

        async def sent() -> bool:
            return await world._made(watching.jetstream()) and await world.waiting() == 11

        await until(sent)
        assert world.deployment.gateway is not None
        await world.deployment.gateway.stop(1)
        assert await world.waiting() == 1


async def test_a_server_that_is_away_delays_nothing_else(nats_url: str, caplog: pytest.LogCaptureFixture) -> None:
    text = (
        "plugins: {bus: {type: nats, url: 'nats://127.0.0.1:9', stream: S}, builtin: {type: builtin}}\n"
        "routes: {/bus: [{plugin: bus}], /builtin: [{plugin: builtin}]}"
    )
    config = parse_config(text, {})[0]
    async with Deployment(DeploymentSettings(config=config, gateway=gateway_settings(config, "default", port=0))) as deployment:
        client = await deployment.client()
        flow = {"steps": [{"id": "a", "component": "/builtin/noop", "input": {"$input": "$"}}], "output": {"$step": "a"}}
        assert await client.run(flow, 1, timeout=20) == 1

        async def said() -> bool:
            return "tasks of pool bus wait" in caplog.text

        await until(said)
