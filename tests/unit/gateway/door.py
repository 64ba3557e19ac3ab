"""A gateway in front of a whole deployment in this process, and a client that calls any RPC by its name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import msgspec
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2 as standard_health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from stepmesh import Worker
from stepmesh_broker.pb.stepflow.v1 import blobs_pb2, components_pb2, flows_pb2, health_pb2, orchestrator_pb2, runs_pb2, tasks_pb2
from stepmesh_broker.pb.stepmesh.v1 import admin_pb2, events_pb2, gateway_pb2, worker_pb2
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_gateway.server import Gateway
from stepmesh_gateway.settings import GatewaySettings, Limits
from stepmesh_gateway.translate.values import plain_value, to_struct

FILES: list[Any] = [
    runs_pb2, flows_pb2, blobs_pb2, components_pb2, health_pb2, tasks_pb2, orchestrator_pb2, gateway_pb2, worker_pb2, events_pb2, admin_pb2,
    standard_health_pb2, reflection_pb2,
]  # fmt: skip
METHODS: dict[str, MethodDescriptor] = {
    f"{service.full_name}/{method.name}": method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""Every RPC that the gateway may serve, by `package.Service/Method`."""


class Client:
    """Calls by the last two parts of an RPC's name: `await client("RunsService/GetRun", run_id=…)`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    def open(self, name: str, **options: Any) -> Any:
        """The call itself; `options` go to gRPC (timeout, metadata). Unary requests and answers are messages."""
        method = next(one for full, one in METHODS.items() if full.endswith(f".{name}"))
        request, answer = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        path = f"/{method.containing_service.full_name}/{method.name}"
        make: Any = {
            (False, False): self.channel.unary_unary,
            (False, True): self.channel.unary_stream,
            (True, True): self.channel.stream_stream,
        }[method.client_streaming, method.server_streaming]
        return request, make(path, request_serializer=request.SerializeToString, response_deserializer=answer.FromString), options

    def stream(self, name: str, **fields: Any) -> Any:
        """A call with a streamed answer."""
        kind, call, _ = self.open(name)
        return call(kind(**fields), timeout=60)

    async def __call__(self, name: str, /, **fields: Any) -> Any:
        kind, call, _ = self.open(name)
        return await call(kind(**fields), timeout=60)

    async def store(self, flow: dict[str, Any], **fields: Any) -> Any:
        """StoreFlow."""
        return await self("FlowsService/StoreFlow", flow=to_struct(msgspec.json.encode(flow)), **fields)

    async def submit(self, flow: dict[str, Any], *inputs: Any, **fields: Any) -> Any:
        """StoreFlow, then CreateRun."""
        flow_id = (await self.store(flow)).flow_id
        return await self("RunsService/CreateRun", flow_id=flow_id, input=[plain_value(one) for one in inputs], **fields)

    async def run(self, flow: dict[str, Any], *inputs: Any, **fields: Any) -> Any:
        """The same, until it ended."""
        return await self.submit(flow, *inputs, wait=True, **fields)


class Workshop:
    """Components for tests, of pool `py`. What begins `/gate` waits until `let()`."""

    def __init__(self) -> None:
        self.worker = worker = Worker("py")
        self.begun: asyncio.Queue[str] = asyncio.Queue()
        self.held: dict[str, asyncio.Event] = {}

        @worker.component
        async def double(n: int) -> int:
            return 2 * n

        @worker.component
        async def echo(value: Any) -> Any:
            return value

        @worker.component
        async def boom() -> None:
            raise RuntimeError("the boiler is cold")

        @worker.component
        async def gate(name: str = "") -> str:
            self.begun.put_nowait(name)
            await self.held.setdefault(name, asyncio.Event()).wait()
            return name

    def let(self, name: str = "") -> None:
        """Let `/gate` with that name go on."""
        self.held.setdefault(name, asyncio.Event()).set()

    def let_all(self) -> None:
        """Let all go on that wait."""
        for held in self.held.values():
            held.set()


class Door:
    """All of it."""

    def __init__(self, gateway: Gateway, deployment: Deployment, workshop: Workshop, client: Client) -> None:
        self.gateway = gateway
        self.deployment = deployment
        self.workshop = workshop
        self.client = client


@asynccontextmanager
async def opened(limits: Limits | None = None, workers: int = 1, **settings: Any) -> AsyncIterator[Door]:
    """A deployment with a gateway and one worker."""
    workshop = Workshop()
    parts = (workshop.worker,) if workers else ()
    own = GatewaySettings(limits=limits or Limits(), drain_s=2.0, **settings)
    async with (
        Deployment(DeploymentSettings(workers=parts)) as deployment,
        Gateway(await deployment.connect(), own) as gateway,
        channel_to(gateway) as channel,
    ):
        yield Door(gateway, deployment, workshop, Client(channel))


def channel_to(gateway: Gateway) -> grpc.aio.Channel:
    """A connection of its own."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}", options=options)


def one_step(component: str = "/py/double", **more: Any) -> dict[str, Any]:
    """A flow of one step that gets the whole input."""
    step = {"id": "a", "component": component, "input": {"$input": "$"}}
    return {"name": "one", "description": "d", "steps": [step], "output": {"$step": "a"}, **more}


def details(problem: grpc.aio.AioRpcError) -> tuple[error_details_pb2.ErrorInfo, error_details_pb2.BadRequest | None]:
    """The standard details of a refusal."""
    trailing: Any = problem.trailing_metadata()
    status = status_pb2.Status.FromString(dict(trailing)["grpc-status-details-bin"])
    assert (status.code, status.message) == (problem.code().value[0], problem.details())
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    return info, bad if len(status.details) > 1 and status.details[1].Unpack(bad) else None


async def until(holds: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Returns when it holds."""
    async with asyncio.timeout(timeout_s):
        while not holds():
            await asyncio.sleep(0.01)
