"""Durable functions on workers that are connected through a gateway: over real gRPC, with the whole deployment behind it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from tests.simulation.test_builds import FITS, SAGA
from tests.simulation.test_builds import build as built

from stepmesh import App, Client, wf
from stepmesh.durable.telling import OVERHEAD_BYTES
from stepmesh.errors import RequestRefused, RunFailed
from stepmesh.runs import RunHandle
from stepmesh.worker import Worker
from stepmesh_broker.gateway import GatewayAddress, GatewayConnection
from stepmesh_broker.protocol import codec
from stepmesh_broker.protocol.ids import Namespace
from stepmesh_broker.protocol.queries import QueryAnswer
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_gateway.rpc.gateway import OVERHEAD
from stepmesh_gateway.server import Gateway
from stepmesh_gateway.settings import GatewaySettings, Limits

PATIENCE_S = 30.0
ROUNDS = 8
BLOCK = 1_000_000
SMALL_BYTES = 200_000


@dataclass
class Notes:
    """What the steps did. `open`: those that wait for it go on."""

    done: Counter[str] = field(default_factory=Counter)
    open: asyncio.Event = field(default_factory=asyncio.Event)


def flow(name: str) -> dict[str, Any]:
    return {"steps": [{"id": "s", "component": f"/orders/{name}", "input": {"$input": "$"}}], "output": {"$step": "s"}}


def app_of(notes: Notes) -> App:
    app = App("orders")

    @app.step
    async def note(what: str) -> str:
        notes.done[what] += 1
        return what

    @app.step
    async def block(number: int, size: int) -> str:
        notes.done[f"block {number}"] += 1
        return str(number) * size

    @app.workflow
    async def order(name: str) -> list[Any]:
        first = await note(f"begin {name}")
        await wf.sleep("50ms")
        label = await wf.call("/orders/label", {"name": name})
        paid = await wf.wait_for_event("paid", name)
        return [first, label, paid, await note(f"end {name}")]

    @app.workflow
    async def label(order: dict[str, str]) -> str:
        return await note(f"label {order['name']}")

    @app.step
    async def gate(what: str) -> str:
        notes.done[f"at {what}"] += 1
        await notes.open.wait()
        return await note.fn(what)

    @app.workflow
    async def relay(name: str) -> str:
        await gate(name)
        return await note(f"after {name}")

    @app.workflow
    async def guarded(name: str) -> str:
        try:
            return await gate(name)
        except asyncio.CancelledError:
            async with wf.shield():
                await note(f"clean {name}")
            raise

    @app.workflow
    async def parcel(address: str) -> str:
        @wf.query
        def state() -> dict[str, str]:
            return {"address": address}

        @wf.query
        def much(size: int) -> str:
            return "x" * size

        @wf.update
        async def change(to: str) -> str:
            nonlocal address
            address = await note(to)
            return address

        await wf.wait_for_event("delivered", "p")
        return address

    @app.step
    async def some(size: int) -> str:
        return "x" * (size - 2)

    @app.workflow
    async def large(size: int) -> int:
        return len(await some(size)) + 2

    @app.workflow
    async def long(block_bytes: int) -> int:
        size = 0
        for number in range(ROUNDS):
            size += len(await block(number, block_bytes))
        await wf.wait_for_event("go", str(block_bytes))
        return size

    return app


@dataclass
class Place:
    deployment: Deployment
    gateway: Gateway
    client: Client
    notes: Notes
    worker: Worker
    stack: AsyncExitStack

    async def begin(self, name: str, input: Any) -> RunHandle:
        return await self.client.submit(flow(name), [input])

    @property
    def resumed(self) -> int:
        """Bodies that went on without a replay."""
        session = self.worker._session
        assert session is not None
        return session.execution.bodies.resumed

    async def until(self, what: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not what():
                await asyncio.sleep(0.02)

    async def until_parked(self, handle: RunHandle, name: str, worker: Worker | None = None) -> None:
        """It waits for this event, and nothing of it is in the worker."""
        async with asyncio.timeout(PATIENCE_S):
            while not any(name in line for line in await self.client.explain(handle.id)) or running(worker or self.worker):
                await asyncio.sleep(0.02)

    async def connected(self) -> Client:
        """A client on a connection of its own through the gateway."""
        client = Client.connect(f"grpc://127.0.0.1:{self.gateway.port}")
        await self.stack.enter_async_context(client)
        return client

    async def until_recorded(self, handle: RunHandle) -> None:
        """Something of its history is in the journal."""
        async with asyncio.timeout(PATIENCE_S):
            async for event in handle.events():
                if event.kind == "function_advanced":
                    return

    async def settled(self, handle: RunHandle) -> Counter[str]:
        """How often each command of the run was settled."""
        events = [event async for event in handle.events() if event.run == handle.id]
        records = [one for event in events if event.kind == "function_advanced" for one in json.loads(event.data)["records"]]
        return Counter(one["id"] for one in records if one["record"] == "settled")


def running(worker: Worker) -> int:
    """Attempts that hold a slot of the worker."""
    session = worker._session
    assert session is not None
    return worker.concurrency - session.execution.slots.free


@asynccontextmanager
async def working(worker: Worker, *ports: int) -> AsyncIterator[None]:
    gateways = ",".join(f"127.0.0.1:{port}" for port in ports)
    connection = GatewayConnection(GatewayAddress.parse(f"grpc://{gateways}", Namespace("default")))
    await connection.connect()
    run = asyncio.create_task(worker.run(connection))
    try:
        yield
    finally:
        worker.stop()
        await run
        await connection.close()


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    notes = Notes()
    worker = app_of(notes).worker(concurrency=2)
    async with (
        Deployment(DeploymentSettings(partitions=2)) as deployment,
        Gateway(await deployment.connect(), GatewaySettings()) as gateway,
        working(worker, gateway.port),
        AsyncExitStack() as stack,
    ):
        yield Place(deployment, gateway, await deployment.client(), notes, worker, stack)


async def test_steps_sleeps_calls_and_events_are_recorded_once(place: Place) -> None:
    handle = await place.begin("order", "ann")
    await place.until_parked(handle, "paid")
    await place.client.events.send("paid", key="ann", data=42)
    assert await handle.result(PATIENCE_S) == ["begin ann", "label ann", 42, "end ann"]
    assert place.notes.done == {"begin ann": 1, "label ann": 1, "end ann": 1}
    assert place.resumed >= 1, "the body was still there when its news came"
    assert await place.settled(handle) == {"r/note": 1, "r/sleep": 1, "r//orders/label": 1, "r/paid": 1, "r/note#2": 1}


async def test_others_are_told_which_code_its_functions_have(place: Place) -> None:
    def builds() -> dict[str, str]:
        return {path: version for _, path, version in place.deployment.node.presence.functions()}

    await place.until(builds)
    assert builds().keys() >= {"/order", "/parcel"}
    assert all(builds().values())


async def test_those_that_wait_take_no_slot(place: Place) -> None:
    handles = [await place.begin("order", f"o{number}") for number in range(10)]
    for number, handle in enumerate(handles):
        await place.until_parked(handle, "paid")
        assert place.notes.done[f"label o{number}"] == 1
    for number in range(10):
        await place.client.events.send("paid", key=f"o{number}", data=number)
    assert [(await handle.result(PATIENCE_S))[2] for handle in handles] == [*range(10)]


async def test_a_history_that_is_larger_than_a_message_is_read_page_by_page(place: Place) -> None:
    """Eight results of a million bytes each: a gRPC message is 4 MiB by default, and an answer to a turn much less."""
    handle = await place.begin("long", BLOCK)
    await place.until_parked(handle, "go")
    await place.client.events.send("go", key=str(BLOCK), data=None)
    assert await handle.result(PATIENCE_S) == ROUNDS * BLOCK
    assert place.notes.done == {f"block {number}": 1 for number in range(ROUNDS)}


async def test_a_cancellation_reaches_the_body_which_cleans_up(place: Place) -> None:
    handle = await place.begin("guarded", "ann")
    await place.until_recorded(handle)
    await place.client.cancel(handle.id)
    assert (await handle.wait(PATIENCE_S)).summary.status == "cancelled"
    assert place.notes.done == {"at ann": 1, "clean ann": 1}


async def test_it_goes_on_at_another_gateway_when_its_own_leaves(place: Place) -> None:
    worker = app_of(place.notes).worker()
    async with (
        Gateway(await place.deployment.connect(), GatewaySettings(drain_s=3.0)) as own,
        working(worker, own.port, place.gateway.port),
    ):
        place.worker.stop()
        await place.until(lambda: place.worker._session is None)
        handle = await place.begin("guarded", "ann")
        await place.until(lambda: place.notes.done["at ann"])
        await own.stop()
        place.notes.open.set()
        assert await handle.result(PATIENCE_S) == "ann"
    assert place.notes.done == {"at ann": 1, "ann": 1}
    assert set((await place.settled(handle)).values()) == {1}


async def test_a_worker_that_leaves_in_order_hands_the_rest_on(place: Place) -> None:
    handle = await place.begin("relay", "ann")
    await place.until(lambda: place.notes.done["at ann"])
    place.worker.stop()
    place.notes.open.set()
    await place.until(lambda: place.worker._session is None)
    assert place.notes.done == {"at ann": 1, "ann": 1}
    async with working(app_of(place.notes).worker(), place.gateway.port):
        assert await handle.result(PATIENCE_S) == "after ann"
    assert place.notes.done == {"at ann": 1, "ann": 1, "after ann": 1}


async def test_another_worker_goes_on_when_its_own_leaves_in_a_hurry(place: Place) -> None:
    """As soon as the lease of the one that left is over: nobody knows what became of its step."""
    handle = await place.begin("guarded", "ann")
    await place.until(lambda: place.notes.done["at ann"])
    place.worker.stop()
    place.worker.stop()
    await place.until(lambda: place.worker._session is None)
    async with working(app_of(place.notes).worker(), place.gateway.port):
        await place.until(lambda: place.notes.done["at ann"] == 2)
        place.notes.open.set()
        assert await handle.result(PATIENCE_S) == "ann"
    assert place.notes.done == {"at ann": 2, "ann": 1}
    assert set((await place.settled(handle)).values()) == {1}


@pytest.mark.parametrize("through", ["broker", "gateway"])
async def test_it_is_asked_and_changed(place: Place, through: str) -> None:
    client = place.client if through == "broker" else await place.connected()
    handle = client.handle((await place.begin("parcel", "here")).id)
    assert await handle.update("change", "there", id="u1") == "there"
    assert await handle.update("change", "elsewhere", id="u1") == "there", "it is one update"
    assert await handle.query("state") == {"address": "there"}
    await client.events.send("delivered", key="p")
    assert await handle.result(PATIENCE_S) == "there"
    assert place.notes.done == {"there": 1}


async def test_an_answer_is_as_large_as_a_message_of_the_gateway(place: Place) -> None:
    handle = await place.begin("parcel", "here")
    await place.until_parked(handle, "delivered")
    async with small(place):
        limit = SMALL_BYTES - OVERHEAD
        framing = len(codec.encode(QueryAnswer(b"x" * limit))) - limit + len('""')
        assert await handle.query("much", limit - framing) == "x" * (limit - framing)
        with pytest.raises(RequestRefused) as caught:
            await handle.query("much", limit - framing + 1)
    assert caught.value.code == "SM-5135"
    assert f"{limit + 1} bytes" in str(caught.value)


async def test_a_value_of_a_step_fits_a_message_of_the_gateway(place: Place) -> None:
    async with small(place):
        limit = SMALL_BYTES - OVERHEAD - OVERHEAD_BYTES
        assert await (await place.begin("large", limit)).result(PATIENCE_S) == limit
        with pytest.raises(RunFailed, match="SM-1031") as caught:
            await (await place.begin("large", limit + 1)).result(PATIENCE_S)
    assert f"{limit + 1} bytes, above the limit of {limit}" in str(caught.value)


async def test_a_gateway_with_small_messages_carries_a_long_history_all_the_same(place: Place) -> None:
    size = SMALL_BYTES // 2
    async with small(place) as worker:
        handle = await place.begin("long", size)
        await place.until(lambda: place.notes.done[f"block {ROUNDS - 1}"])
        await place.until_parked(handle, "go", worker)
        await place.client.events.send("go", key=str(size), data=None)
        assert await handle.result(PATIENCE_S) == ROUNDS * size
    assert place.notes.done == {f"block {number}": 1 for number in range(ROUNDS)}


@asynccontextmanager
async def small(place: Place) -> AsyncIterator[Worker]:
    """Another worker instead of the first, behind a gateway whose messages are small."""
    settings = GatewaySettings(limits=Limits(message_bytes=SMALL_BYTES))
    worker = app_of(place.notes).worker()
    async with Gateway(await place.deployment.connect(), settings) as gateway, working(worker, gateway.port):
        place.worker.stop()
        await place.until(lambda: place.worker._session is None)
        yield worker


async def test_a_run_goes_to_another_version_and_back(place: Place) -> None:
    blue, green = built("blue", FITS).worker(), built("green", FITS).worker()
    client = await place.connected()
    async with working(blue, place.gateway.port), httpx.AsyncClient(base_url=f"http://127.0.0.1:{place.gateway.port}") as http:
        handle = await client.submit(SAGA, ["ann"])
        await place.until_parked(handle, "go", blue)
        async with working(green, place.gateway.port):
            with pytest.raises(RequestRefused) as nowhere:
                await handle.resume(version="red")
            assert nowhere.value.code == "SM-1095"
            answer = await http.post(f"/v1/runs/{handle.id}/resume", json={"version": "green"}, timeout=PATIENCE_S)
            assert answer.json() == {"id": handle.id, "status": "running", "changed": True}
            await place.until_parked(handle, "go", green)
            assert "it belongs to build green+" in " ".join(await client.explain(handle.id))
            assert not (await client.handle(handle.id).resume(version="blue")).existing
            await place.until_parked(handle, "go", blue)
            await client.events.send("go", key="ann")
            assert await handle.result(PATIENCE_S) == ["blue", "blue"]
