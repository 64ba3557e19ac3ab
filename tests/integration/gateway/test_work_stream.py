"""WorkerService.Work as any client may use it, well or badly: over real gRPC, without the SDK."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc.aio
import pytest

from stepmesh import Client
from stepmesh.runs import RunHandle
from stepmesh_broker.pb.stepmesh.v1 import worker_pb2 as pb
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_gateway.rpc.work_line import MESSAGE_BYTES
from stepmesh_gateway.server import Gateway
from stepmesh_gateway.settings import GatewaySettings, Limits

POOL = "raw"
PATIENCE_S = 20.0


def flow(component: str = "/echo", **more: Any) -> dict[str, Any]:
    return {"steps": [{"id": "s", "component": f"/{POOL}{component}", "input": {"$input": "$"}, **more}], "output": {"$step": "s"}}


def hello(**more: Any) -> pb.Hello:
    offered = [pb.Component(path="/echo", input_schema='{"type":"object"}'), pb.Component(path="/by/{name}/{*rest}")]
    return pb.Hello(**{"worker": "w1", "pool": POOL, "capacity": 4, "version": "raw/1", "components": offered, **more})


class Raw:
    """A stream under the test's control. `heard`: all that came down, as one message after the other."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        work: Any = channel.stream_stream(
            "/stepmesh.v1.WorkerService/Work",
            request_serializer=pb.FromWorker.SerializeToString,
            response_deserializer=pb.ToWorker.FromString,
        )
        self.call = work()
        self.tasks: list[pb.Task] = []
        self.recorded: list[str] = []
        self.stops: list[pb.Stop] = []
        self.sizes: list[int] = []
        self.welcome: pb.Welcome | None = None
        self.drained = False
        self._reading: asyncio.Future[Any] | None = None

    async def say(self, **parts: Any) -> None:
        await self.call.write(pb.FromWorker(**parts))

    async def silent(self, seconds: float = 0.5) -> bool:
        """Whether nothing comes. A read is never cancelled: that would end the call."""
        self._reading = self._reading or asyncio.ensure_future(self.call.read())
        done, _ = await asyncio.wait([self._reading], timeout=seconds)
        return not done

    async def hear(self) -> bool:
        """The next message; False when the stream ended in order."""
        assert not await self.silent(PATIENCE_S)
        assert self._reading is not None
        message, self._reading = self._reading.result(), None
        if not isinstance(message, pb.ToWorker):
            return False
        self.tasks.extend(message.tasks)
        self.recorded.extend(message.recorded)
        self.stops.extend(message.stops)
        if message.tasks:
            self.sizes.append(message.ByteSize())
        if message.HasField("welcome"):
            self.welcome = message.welcome
        self.drained |= message.drain
        return True

    async def get(self, count: int) -> list[pb.Task]:
        while len(self.tasks) < count:
            assert await self.hear()
        return self.tasks

    async def have_recorded(self, *tasks: pb.Task, **more: Any) -> None:
        """Send their results, and `more` in the same message, which has been heard when this returns."""
        await self.say(results=[done(task) for task in tasks], **more)
        while not {task.id for task in tasks} <= {*self.recorded}:
            assert await self.hear()

    async def refused(self) -> tuple[grpc.StatusCode, str]:
        try:
            while await self.hear():
                pass
        except grpc.aio.AioRpcError as problem:
            return problem.code(), problem.details() or ""
        raise AssertionError("the stream ended in order")


@dataclass
class Place:
    deployment: Deployment
    gateway: Gateway
    client: Client
    channel: grpc.aio.Channel

    async def open(self, credit: int = 0, **more: Any) -> Raw:
        stream = Raw(self.channel)
        await stream.say(hello=hello(**more), credit=credit)
        assert await stream.hear()
        assert stream.welcome is not None
        return stream

    async def begin(self, *inputs: Any, component: str = "/echo", **more: Any) -> RunHandle:
        return await self.client.submit(flow(component, **more), list(inputs), max_concurrency=0)

    async def error(self, handle: RunHandle) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((await handle.wait(PATIENCE_S)).results[0].result)
        error: dict[str, Any] = found["error"]
        return error


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    settings = GatewaySettings(limits=Limits(payload_bytes=1_000_000), drain_s=3.0)
    async with (
        Deployment(DeploymentSettings(partitions=2)) as deployment,
        Gateway(await deployment.connect(), settings) as gateway,
        grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
    ):
        yield Place(deployment, gateway, await deployment.client(), channel)


def done(task: pb.Task, output: bytes = b"1") -> pb.Result:
    return pb.Result(id=task.id, output=output, started_us=1, duration_us=2)


async def test_a_task_says_all_that_its_worker_needs(place: Place) -> None:
    stream = await place.open(credit=1)
    assert stream.welcome is not None
    assert (stream.welcome.heartbeat_ms, stream.welcome.payload_bytes) == (2000, 1_000_000)
    handle = await place.begin({"z": 2**70, "a": 1}, component="/by/name/of/it", timeout="7s")
    (task,) = await stream.get(1)
    assert (task.component, dict(task.path_params)) == ("/by/{name}/{*rest}", {"name": "name", "rest": "of/it"})
    assert task.input == b'{"z":1180591620717411303424,"a":1}'
    assert (task.run_id, task.root_run_id, task.step_id, task.item, task.step, task.attempt) == (handle.id, handle.id, "s", 0, 0, 1)
    assert (task.timeout_ms, task.idempotency_key) == (7000, f"{handle.id}/{handle.id}/0/s")
    assert len(task.flow_id) == 64
    assert task.partition < 2
    await stream.say(results=[done(task, b'{"b":1,"a":2}')])
    assert json.dumps(await handle.result(PATIENCE_S)) == '{"b": 1, "a": 2}'


async def test_no_more_tasks_come_than_were_asked_for(place: Place) -> None:
    stream = await place.open(credit=3)
    handle = await place.begin(*range(10))
    await stream.get(3)
    assert await stream.silent()
    await (await place.open(credit=7, worker="w2")).get(7)
    assert await stream.silent()
    assert (await handle.info()).summary.status == "running"


async def test_many_results_are_recorded_in_few_messages(place: Place) -> None:
    stream = await place.open(credit=300)
    handle = await place.begin(*range(300))
    tasks = await stream.get(300)
    await stream.say(results=[done(task, task.input) for task in tasks])
    while len(stream.recorded) < 300:
        assert await stream.hear()
    assert sorted(stream.recorded) == sorted(task.id for task in tasks)
    assert (await handle.wait(PATIENCE_S)).summary.completed == 300


async def test_large_inputs_are_spread_over_messages(place: Place) -> None:
    stream = await place.open(credit=8)
    await place.begin(*["x" * 400_000] * 8)
    await stream.get(8)
    assert max(stream.sizes) <= MESSAGE_BYTES + 10_000


async def test_a_stream_without_a_hello_is_refused(place: Place) -> None:
    stream = Raw(place.channel)
    await stream.say(credit=1)
    assert await stream.refused() == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "SM-7304 the stream does not begin with a hello (send FromWorker.hello in the first message)",
    )


@pytest.mark.parametrize(
    ("more", "status", "says"),
    [
        ({"worker": ""}, grpc.StatusCode.INVALID_ARGUMENT, "SM-7304"),
        ({"worker": "x" * 300}, grpc.StatusCode.INVALID_ARGUMENT, "SM-7304"),
        ({"pool": "a pool"}, grpc.StatusCode.INVALID_ARGUMENT, "SM-3004"),
        ({"namespace": "elsewhere"}, grpc.StatusCode.FAILED_PRECONDITION, "SM-7302"),
        ({"running": ["no id"]}, grpc.StatusCode.INVALID_ARGUMENT, "SM-3003"),
    ],
)
async def test_a_hello_that_cannot_be_is_refused(place: Place, more: dict[str, Any], status: grpc.StatusCode, says: str) -> None:
    stream = Raw(place.channel)
    await stream.say(hello=hello(**more))
    code, details = await stream.refused()
    assert code is status
    assert details.startswith(says)


async def test_an_id_that_is_none_ends_the_stream_and_its_task_goes_to_another(place: Place) -> None:
    stream = await place.open(credit=1)
    handle = await place.begin(1)
    await stream.get(1)
    await stream.say(results=[pb.Result(id="nonsense", output=b"1")])
    code, details = await stream.refused()
    assert (code, details[:7]) == (grpc.StatusCode.INVALID_ARGUMENT, "SM-3003")
    other = await place.open(credit=1, worker="w2")
    (task,) = await other.get(1)
    await other.say(results=[done(task)])
    assert await handle.result(PATIENCE_S) == 1


async def test_more_streams_of_one_worker_than_allowed_are_refused(place: Place) -> None:
    for _ in range(4):
        await place.open()
    stream = Raw(place.channel)
    await stream.say(hello=hello())
    code, details = await stream.refused()
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "limits.streams_per_worker" in details


async def test_outputs_that_cannot_be_are_failures_of_their_task(place: Place) -> None:
    stream = await place.open(credit=3)
    for output, says in ((b"{", "not valid JSON"), (b'"' + b"x" * 1_000_000 + b'"', "above the limit of 1000000"), (b"", "not valid JSON")):
        stream.tasks.clear()
        handle = await place.begin(1)
        (task,) = await stream.get(1)
        await stream.say(results=[done(task, output)])
        error = await place.error(handle)
        assert error["code"] == "WORKER_ERROR"
        assert says in error["message"]


async def test_a_failure_is_passed_on(place: Place) -> None:
    stream = await place.open(credit=1)
    handle = await place.begin(1)
    (task,) = await stream.get(1)
    await stream.say(results=[pb.Result(id=task.id, failure=pb.Failure(code=2, message="so", data=b'{"z":1,"a":2}'))])
    assert await place.error(handle) == {"code": "INVALID_INPUT", "message": "so", "data": {"z": 1, "a": 2}}


async def test_a_result_without_an_outcome_or_with_an_unknown_code_is_the_worker_s_error(place: Place) -> None:
    stream = await place.open(credit=2)
    first, second = await place.begin(1), await place.begin(2)
    for task in await stream.get(2):
        failure = pb.Failure(code=77, message="what") if task.run_id == first.id else None
        await stream.say(results=[pb.Result(id=task.id, failure=failure)])
    assert (await place.error(first))["code"] == "WORKER_ERROR"
    assert (await place.error(second))["code"] == "WORKER_ERROR"


async def test_what_is_handed_back_goes_to_another_worker(place: Place) -> None:
    stream = await place.open(credit=2)
    handle = await place.begin(1, 2)
    tasks = await stream.get(2)
    other = await place.open(credit=2, worker="w2")
    await stream.say(returned=[task.id for task in tasks])
    again = await other.get(2)
    await other.say(results=[done(task, task.input) for task in again])
    assert (await handle.wait(PATIENCE_S)).summary.completed == 2


async def test_a_cancel_reaches_the_worker(place: Place) -> None:
    stream = await place.open(credit=1)
    handle = await place.begin(1)
    (task,) = await stream.get(1)
    await place.client.cancel(handle.id)
    while not stream.stops:
        assert await stream.hear()
    assert [(stop.id, stop.reason) for stop in stream.stops] == [(task.id, pb.Stop.CANCELLED)]


async def test_progress_is_shown_with_the_step(place: Place) -> None:
    stream = await place.open(credit=1)
    handle = await place.begin(1)
    (task,) = await stream.get(1)
    told = [pb.Progress(id=task.id, fraction=0.25, details=b'{"k":1}')]
    await stream.say(progress=told)
    async with asyncio.timeout(PATIENCE_S):
        while "25%" not in " ".join(await place.client.explain(handle.id)).replace(" %", "%"):
            await asyncio.sleep(0.05)


async def test_a_worker_that_leaves_gets_no_more_and_the_stream_ends_when_all_is_recorded(place: Place) -> None:
    stream = await place.open(credit=5)
    handle = await place.begin(1, 2)
    first, second = await stream.get(2)
    await stream.have_recorded(first, leaving=True)
    more = await place.begin(3)
    assert await stream.silent()
    await stream.say(results=[done(second)])
    while await stream.hear():
        pass
    assert stream.recorded == [first.id, second.id]
    assert len(stream.tasks) == 2
    assert (await handle.wait(PATIENCE_S)).summary.completed == 2
    assert (await more.info()).summary.status == "running"


async def test_a_half_closed_stream_ends_when_its_results_are_recorded(place: Place) -> None:
    stream = await place.open(credit=1)
    await place.begin(1)
    (task,) = await stream.get(1)
    await stream.say(results=[done(task)])
    await stream.call.done_writing()
    while await stream.hear():
        pass
    assert stream.recorded == [task.id]


async def test_a_result_that_nobody_waits_for_is_confirmed_so_that_it_is_forgotten(place: Place) -> None:
    stream = await place.open(credit=1)
    handle = await place.begin(1)
    (task,) = await stream.get(1)
    await stream.say(results=[done(task)])
    assert await handle.result(PATIENCE_S) == 1
    again = await place.open(worker="w2")
    await again.say(results=[done(task, b"2")])
    while not again.recorded:
        assert await again.hear()
    assert again.recorded == [task.id]
    assert await handle.result() == 1


async def test_a_worker_s_components_can_be_told_again(place: Place) -> None:
    stream = await place.open(credit=2)
    await place.begin(1)
    await stream.have_recorded(*await stream.get(1), hello=hello(components=[pb.Component(path="/fresh")]))
    handle = await place.begin(1, component="/fresh")
    _, task = await stream.get(2)
    assert task.component == "/fresh"
    await stream.say(results=[done(task)])
    assert await handle.result(PATIENCE_S) == 1


async def test_a_gateway_that_stops_says_so_and_takes_results_until_then(place: Place) -> None:
    stream = await place.open(credit=1)
    handle = await place.begin(1)
    (task,) = await stream.get(1)
    stopping = asyncio.create_task(place.gateway.stop())
    while not stream.drained:
        assert await stream.hear()
    await stream.say(results=[done(task)])
    await stream.call.done_writing()
    while await stream.hear():
        pass
    assert stream.recorded == [task.id]
    await stopping
    assert await handle.result(PATIENCE_S) == 1
