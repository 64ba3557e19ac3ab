"""The SDK's client through a gateway: the same answers as over the broker, and clear refusals of what a gateway does not pass on."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc.aio
import pytest

from stepmesh import Client, ProducerLimits, Worker
from stepmesh.errors import FlowNotFound, PackageMissing, RunNotFound
from stepmesh_broker.errors import BrokerError, BrokerUnavailable, MalformedMessage, MessageTooLarge
from stepmesh_broker.gateway import GatewayAddress, GatewayConnection, GatewayRefused
from stepmesh_broker.pb.stepmesh.v1.gateway_pb2 import AskRequest, AskResponse
from stepmesh_broker.protocol import codec, subjects
from stepmesh_broker.protocol.api import GetInfo
from stepmesh_broker.protocol.ids import Namespace, Partition, Pool, RunId, WorkerId
from stepmesh_broker.protocol.messages import Cancel, Claim
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_gateway.server import Gateway
from stepmesh_gateway.settings import GatewaySettings

NAMESPACE = Namespace("default")
FLOW = {"steps": [{"id": "s", "component": "/cpu/echo", "input": {"$input": "$"}}], "output": {"$step": "s"}}


@dataclass
class Door:
    deployment: Deployment
    gateway: Gateway

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.gateway.port}"

    @property
    def url(self) -> str:
        return f"grpc://{self.target}"

    async def raw(self, request: AskRequest) -> grpc.aio.AioRpcError:
        async with grpc.aio.insecure_channel(self.target) as channel:
            ask = channel.unary_unary(
                "/stepmesh.v1.GatewayService/Ask",
                request_serializer=AskRequest.SerializeToString,
                response_deserializer=AskResponse.FromString,
            )
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask(request)
            return caught.value


def echoing() -> Worker:
    worker = Worker("cpu")

    @worker.component
    async def echo(value: object) -> object:
        return value

    return worker


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    async with (
        Deployment(DeploymentSettings(workers=(echoing(),), partitions=4)) as deployment,
        Gateway(await deployment.connect(), GatewaySettings()) as gateway,
    ):
        yield Door(deployment, gateway)


async def test_a_client_runs_flows_and_stores_blobs_through_a_gateway(door: Door) -> None:
    async with Client.connect(door.url) as client:
        assert await client.run(FLOW, {"z": 2**63, "a": -1}, timeout=20) == {"z": 2**63, "a": -1}
        blob = await client.put_blob(b"\x00\xff" * 200_000)
        assert await client.get_blob(blob) == b"\x00\xff" * 200_000
        assert {entry.path for entry in await client.components()} >= {"/cpu/echo"}
        assert [event.kind async for event in client.events((await client.list_runs())[0].run)][-1] == "run_completed"


async def test_runs_are_controlled_through_it(door: Door) -> None:
    nap = {"steps": [{"id": "s", "component": "/builtin/sleep", "input": {"duration": "1h", "passthrough": 5}}], "output": {"$step": "s"}}
    async with Client.connect(door.url) as client:
        handle = await client.submit(nap, [1])
        assert not (await client.control.pause(handle.id)).existing
        assert (await handle.info()).summary.status == "paused"
        assert await client.control.wake(handle.id) == ["s"]
        assert not (await client.control.resume(handle.id)).existing
        assert await handle.result(20) == 5
        fork = await client.control.fork(handle.id)
        assert fork.reused == 1
        assert await client.handle(fork.run).result(20) == 5


async def test_a_producer_goes_through_it(door: Door) -> None:
    async with Client.connect(door.url) as client, client.producer(FLOW, limits=ProducerLimits(items_per_run=10)) as producer:
        for number in range(50):
            await producer.submit([number], key=f"k{number}")
        batch = await producer.submit(range(35), key="large")
        async with asyncio.timeout(30):
            assert sorted([one.value async for one in batch.results()]) == list(range(35))
        await producer.submit(["again"], key="k7")
        await producer.flush()
        assert len(await client.list_runs(limit=1_000)) == 54


async def test_refusals_of_the_orchestrator_keep_their_type(door: Door) -> None:
    async with Client.connect(door.url) as client:
        with pytest.raises(RunNotFound):
            await client.get_run("0197e2a4-0000-7000-8000-000000000000")
        with pytest.raises(FlowNotFound):
            await client.submit("0" * 64, [1])


async def test_cancel_goes_to_the_owner_of_the_run(door: Door) -> None:
    held = {"steps": [{"id": "s", "component": "/nobody/there", "input": {}}], "output": {"$step": "s"}}
    async with Client.connect(door.url) as client:
        handle = await client.submit(held, [1])
        await client.cancel(handle.id, "enough")
        assert (await handle.wait(20)).summary.status == "cancelled"


async def test_a_request_for_another_namespace_is_refused(door: Door) -> None:
    async with Client.connect(door.url, "elsewhere") as client:
        with pytest.raises(GatewayRefused) as caught:
            await client.pools()
    assert caught.value.code == "SM-7302"
    assert "STEPMESH_NAMESPACE" in str(caught.value)


async def test_nothing_but_what_clients_say_reaches_a_partition(door: Door) -> None:
    claim = codec.encode(Claim(WorkerId("thief"), []))
    refused = await door.raw(AskRequest(partition=0, request=claim))
    assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (refused.details() or "").startswith("SM-7301 a Claim is not passed on")
    nobody = await door.raw(AskRequest(request=codec.encode(GetInfo())))
    assert (nobody.details() or "").startswith("SM-7301")
    wrong = await door.raw(AskRequest(any=True, request=claim))
    assert wrong.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (wrong.details() or "").startswith("SM-3003")


async def test_events_go_through_it(door: Door) -> None:
    wait = {"steps": [{"id": "s", "component": "/builtin/wait_for_event", "input": {"name": "paid", "key": "k"}}], "output": {"$step": "s"}}
    async with Client.connect(door.url) as client:
        handle = await client.submit(wait, [1])
        await client.events.send("paid", key="k", data=42, id="once")
        assert (await client.events.send("paid", key="k", data=42, id="once")).existing
        assert await handle.result(20) == 42


async def test_a_partition_that_does_not_exist_is_refused_at_once(door: Door) -> None:
    refused = await door.raw(AskRequest(partition=99, request=codec.encode(Cancel(RunId("r")))))
    assert refused.code() is grpc.StatusCode.NOT_FOUND
    assert "deployment has 4" in (refused.details() or "")


async def test_the_connection_refuses_other_subjects_and_too_large_messages(door: Door) -> None:
    connection = GatewayConnection(GatewayAddress.parse(door.url, NAMESPACE))
    await connection.connect()
    with pytest.raises(GatewayRefused) as caught:
        await connection.request(subjects.workers(NAMESPACE, Pool("cpu")), b"", 1.0)
    assert caught.value.code == "SM-7311"
    with pytest.raises(MessageTooLarge):
        await connection.request(subjects.api(NAMESPACE), b"x" * (connection.max_message_bytes + 1), 1.0)
    with pytest.raises(MalformedMessage):
        await connection.request(subjects.api(NAMESPACE), b"x", 1.0)
    with pytest.raises(MalformedMessage):
        await connection.request(subjects.control(NAMESPACE, Partition(1)), b"x", 1.0)
    await connection.close()
    with pytest.raises(BrokerUnavailable):
        await connection.request(subjects.api(NAMESPACE), codec.encode(GetInfo()), 1.0)


async def test_an_orchestrator_that_is_away_is_retryable(door: Door) -> None:
    connection = GatewayConnection(GatewayAddress.parse(door.url, NAMESPACE))
    await connection.connect()
    await door.deployment.node.stop()
    with pytest.raises(BrokerUnavailable) as caught:
        await connection.request(subjects.api(NAMESPACE), codec.encode(GetInfo()), 1.0)
    assert "nobody serves" in str(caught.value)
    await connection.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_a_client_survives_a_restart_of_the_gateway(door: Door) -> None:
    async with Client.connect(door.url) as client:
        await client.pools()
        port = door.gateway.port
        await door.gateway.stop()
        asked = asyncio.create_task(client.pools())
        async with Gateway(await door.deployment.connect(), GatewaySettings(port=port)):
            assert await asked


async def test_the_next_gateway_of_the_address_answers_when_one_is_away(door: Door) -> None:
    async with Gateway(await door.deployment.connect(), GatewaySettings()) as second:
        url = f"grpc://127.0.0.1:{free_port()},{door.target},127.0.0.1:{second.port}"
        async with Client.connect(url) as client:
            await client.pools()
            await door.gateway.stop()
            assert await client.pools()


async def test_an_address_where_nobody_answers_says_so() -> None:
    address = GatewayAddress(targets=(f"127.0.0.1:{free_port()}",), connect_timeout_s=0.3)
    with pytest.raises(BrokerUnavailable) as caught:
        await GatewayConnection(address).connect()
    assert "no gateway answers" in str(caught.value)


async def test_another_grpc_server_is_told_apart_from_a_gateway() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    connection = GatewayConnection(GatewayAddress.parse(f"grpc://127.0.0.1:{port}", NAMESPACE))
    await connection.connect()
    with pytest.raises(GatewayRefused) as caught:
        await connection.request(subjects.api(NAMESPACE), codec.encode(GetInfo()), 1.0)
    assert "is no Stepmesh gateway" in str(caught.value)
    await connection.close()
    await server.stop(None)


@pytest.mark.parametrize("url", ["grpc://", "grpc://host", "grpc://host:0", "grpc://host:99999", "grpc://a:1,b", "grpc://a b:1"])
def test_a_url_that_names_no_gateway_is_refused(url: str) -> None:
    with pytest.raises(BrokerError) as caught:
        Client.connect(url)
    assert caught.value.code == "SM-7310"


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("stepmesh_broker.gateway")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(PackageMissing) as caught:
        Client.connect("grpc://127.0.0.1:1")
    assert "stepmesh[grpc]" in str(caught.value)
    assert "package grpc" in str(caught.value)
