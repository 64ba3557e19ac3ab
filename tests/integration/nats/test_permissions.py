"""An orchestrator, a worker of a pool and a client with the permissions of their roles: a run ends, and what is not theirs is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import nats
import pytest
from tests.services.nats import NatsServers

from stepmesh import App, Client, Worker, wf
from stepmesh_broker.errors import BrokerError
from stepmesh_broker.gateway import GatewayAddress, GatewayConnection
from stepmesh_broker.nats import NatsBroker, NatsSettings
from stepmesh_broker.nats.streams import Names
from stepmesh_broker.protocol import subjects
from stepmesh_broker.protocol.ids import Namespace, Partition, Pool, Position, WorkerId
from stepmesh_broker.protocol.records import Topic
from stepmesh_broker.protocol.subjects import Subject
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_gateway.server import Gateway
from stepmesh_gateway.settings import GatewaySettings

ACCOUNTS = Path(__file__).parents[3] / "infra" / "nats" / "accounts.conf"
NAMESPACE = Namespace("default")
FLOW = {"name": "double", "steps": [{"id": "a", "component": "/cpu/double", "input": {"$input": "$"}}], "output": {"$step": "a"}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServers]:
    """The file that infra ships, with passwords."""
    folder = Path(tmp_path_factory.mktemp("nats"))
    text = ACCOUNTS.read_text()
    for role in ("ORCHESTRATOR", "WORKER_CPU", "WORKER_GPU", "CLIENT", "PRODUCER", "GATEWAY", "MONITOR"):
        text = text.replace(f"${role}_PASSWORD", f'"{role.lower()}"')
    (folder / "accounts.conf").write_text(text)
    with NatsServers(folder / "server", 1, ('include "../../accounts.conf"',)) as servers:
        yield servers


def url(server: NatsServers, role: str, inbox: str = "") -> str:
    return f"nats://{role}:{role.replace('-', '_')}@127.0.0.1:{server.ports[0]}?inbox={inbox or f'_INBOX_{role}'}"


async def broker(server: NatsServers, role: str) -> NatsBroker:
    made = NatsBroker(NatsSettings.parse(url(server, role), NAMESPACE))
    await made.connect()
    return made


@pytest.fixture
async def deployment(server: NatsServers) -> AsyncIterator[Deployment]:
    settings = DeploymentSettings(broker=url(server, "orchestrator"), journal="memory", namespace=NAMESPACE)
    async with Deployment(settings) as made:
        yield made


async def test_a_run_goes_through_with_nothing_more_than_that(server: NatsServers, deployment: Deployment) -> None:
    worker = Worker("cpu", namespace=NAMESPACE)

    @worker.component
    async def double(n: int) -> int:
        return n * 2

    at = await broker(server, "worker-cpu")
    working = asyncio.ensure_future(worker.run(at))
    async with Client.connect(url(server, "client"), namespace=NAMESPACE) as client:
        assert await client.run(FLOW, 21, timeout=60) == 42
    worker.stop()
    await working
    await at.close()


async def test_a_gateway_does_what_its_workers_functions_need(server: NatsServers, deployment: Deployment) -> None:
    app = App("cpu")

    @app.step
    async def note(n: int) -> int:
        return n + 1

    @app.workflow
    async def steady(n: int) -> int:
        @wf.query
        def state() -> int:
            return n

        n = await note(n)
        await wf.wait_for_event("go")
        return n

    flow = {"steps": [{"id": "a", "component": "/cpu/steady", "input": {"$input": "$"}}], "output": {"$step": "a"}}
    worker, at = app.worker(), await broker(server, "gateway")
    async with Gateway(at, GatewaySettings(namespace=NAMESPACE)) as gateway:
        connection = GatewayConnection(GatewayAddress.parse(f"grpc://127.0.0.1:{gateway.port}", NAMESPACE))
        await connection.connect()
        working = asyncio.ensure_future(worker.run(connection))
        async with Client.connect(url(server, "client"), namespace=NAMESPACE) as client:
            handle = await client.submit(flow, [1])
            async with asyncio.timeout(60):
                async for event in handle.events():
                    if event.kind == "function_idle":
                        break
            assert await handle.query("state") == 2
            await client.events.send("go")
            assert await handle.result(60) == 2
        worker.stop()
        await working
        await connection.close()
    await at.close()


Calls = Callable[[NatsBroker], list[Callable[[], Awaitable[object]]]]


def _worker_may_not(it: NatsBroker) -> list[Callable[[], Awaitable[object]]]:
    names = Names(NAMESPACE)
    return [
        lambda: it.publish_tasks(Pool("cpu"), b"x", "1"),
        lambda: it.publish_tasks(Pool("gpu"), b"x", "1"),
        lambda: it.tasks(Pool("gpu")),
        lambda: it.inbox(Partition(0), Position(0)),
        lambda: it.park(Pool("gpu"), b"x", "r"),
        lambda: it.parked(),
        lambda: it.listen(subjects.workers(NAMESPACE, Pool("gpu")), _nothing),
        lambda: it.listen(subjects.worker(NAMESPACE, Pool("gpu"), WorkerId("w")), _nothing),
        lambda: it.listen(subjects.presence(NAMESPACE), _nothing),
        lambda: it.listen(Subject(names.inbox_subject_all), _nothing),
        lambda: it.listen(Subject("_INBOX_orchestrator.>"), _nothing),
        lambda: it.listen(Subject("_INBOX.>"), _nothing),
        lambda: it.serve(subjects.api(NAMESPACE), _echo, "api"),
        lambda: it.request(Subject(f"$JS.API.STREAM.DELETE.{names.tasks}"), b"", 5),
        lambda: it.request(Subject(f"$JS.API.STREAM.PURGE.{names.inbox}"), b"", 5),
        lambda: it.request(Subject(f"$JS.API.CONSUMER.DELETE.{names.tasks}.cpu"), b"", 5),
        lambda: it.request(subjects.api(Namespace("other")), b"", 5),
    ]


def _client_may_not(it: NatsBroker) -> list[Callable[[], Awaitable[object]]]:
    return [
        *_worker_may_not(it),
        lambda: it.tasks(Pool("cpu")),
        lambda: it.post(Partition(0), b"x"),
        lambda: it.request(subjects.presence(NAMESPACE), b"", 5),
        lambda: it.listen(subjects.workers(NAMESPACE, Pool("cpu")), _nothing),
    ]


@pytest.mark.parametrize(("role", "calls"), [("worker-cpu", _worker_may_not), ("client", _client_may_not)])
async def test_what_is_not_theirs_is_refused(server: NatsServers, deployment: Deployment, role: str, calls: Calls) -> None:
    it = await broker(server, role)
    for call in calls(it):
        async with asyncio.timeout(20):
            with pytest.raises(BrokerError) as caught:
                await call()
        assert caught.value.code == "SM-3041"
    await it.close()


async def test_a_worker_may_do_for_its_pool_what_it_needs(server: NatsServers, deployment: Deployment) -> None:
    it = await broker(server, "worker-cpu")
    await deployment_streams(server)
    await it.tasks(Pool("cpu"))
    await it.park(Pool("cpu"), b"x", "r")
    await it.send(subjects.presence(NAMESPACE), b"not a hello")
    await it.listen(subjects.worker(NAMESPACE, Pool("cpu"), WorkerId("w 1.example")), _nothing)
    await it.close()


async def deployment_streams(server: NatsServers) -> None:
    """What `stepmesh topics --apply` makes; workers may not."""
    it = await broker(server, "orchestrator")
    await it.define()
    await it.close()


async def _nothing(data: bytes) -> None:
    return


async def _echo(data: bytes) -> bytes:
    return data


async def test_a_producer_starts_a_run_and_may_do_nothing_more(server: NatsServers, deployment: Deployment) -> None:
    denied: asyncio.Queue[str] = asyncio.Queue()

    async def note(problem: Exception) -> None:
        denied.put_nowait(str(problem))

    where = f"nats://127.0.0.1:{server.ports[0]}"
    client = await nats.connect(where, user="producer", password="producer", inbox_prefix=b"_INBOX_producer", error_cb=note)
    flow = {"name": "echo", "steps": [], "output": {"$input": "$"}}
    await client.jetstream().publish(f"stepmesh.{NAMESPACE}.submit", json.dumps({"flow": flow, "input": [7]}).encode())
    async with Client.connect(url(server, "client"), namespace=NAMESPACE) as asking:
        async with asyncio.timeout(30):
            while not (found := [run for run in await asking.list_runs() if run.flow_name == "echo" and run.status == "completed"]):
                await asyncio.sleep(0.05)
        assert await asking.handle(found[0].run).result() == 7
    assert denied.empty()
    names = Names(NAMESPACE)
    forbidden = (
        names.inbox_subject(Partition(0)),
        names.task_subject(Pool("cpu")),
        names.dead_subject(Pool("cpu")),
        subjects.api(NAMESPACE),
        subjects.control(NAMESPACE, Partition(0)),
        f"$JS.API.STREAM.PURGE.{names.plain[Topic.SUBMIT]}",
        f"$JS.API.CONSUMER.CREATE.{names.plain[Topic.SUBMIT]}",
    )
    async with asyncio.timeout(20):
        for subject in forbidden:
            await client.publish(subject, b"x")
            assert f'publish to "{subject.lower()}"' in (await denied.get()).lower()
        for subject in (names.plain_subject(Topic.SUBMIT), "_INBOX.>", "_INBOX_orchestrator.>"):
            await client.subscribe(subject)
            assert f'subscription to "{subject.lower()}"' in (await denied.get()).lower()
    await client.close()
