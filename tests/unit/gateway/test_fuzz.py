"""Whatever is sent to any RPC is answered or refused: no INTERNAL, no UNKNOWN, nothing left behind, the connection kept.

The RPCs are read off the descriptors, so that a new one is tested as soon as it is served. `STEPMESH_FUZZ`: requests per RPC and kind.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.unit.gateway.door import METHODS, Door, one_step, opened
from tests.unit.gateway.fuzz import Known, damaged, messages

from stepmesh import runs
from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.codec import encode
from stepmesh_broker.protocol.ids import FlowId, Partition, RunId
from stepmesh_broker.protocol.messages import Cancel, Submit, TaskRef
from stepmesh_broker.protocol.pools import ListPools
from stepmesh_gateway import operations
from stepmesh_gateway.identity import TaskId, root_of
from stepmesh_gateway.settings import Limits
from stepmesh_gateway.translate.values import plain_value

WRITING_TOO_LATE = "Internal error from Core"
"""What gRPC's client says, by itself, when the call was refused while it wrote the next message."""
COUNT = int(os.environ.get("STEPMESH_FUZZ", "20"))
SERVED = sorted(METHODS)
S = grpc.StatusCode
REFUSALS = {S.INVALID_ARGUMENT, S.NOT_FOUND, S.FAILED_PRECONDITION, S.RESOURCE_EXHAUSTED, S.UNAVAILABLE, S.PERMISSION_DENIED}
CALL_S = 1.0
"""Deadline of a call; longer than any of them takes that is not told to wait."""
FEW_S = 0.05
"""Silence after which a stream that stays open has said what it has to say."""


class World:
    """One gateway for all of it, with runs, flows, blobs and tasks that requests may name."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.door: Door
        self.known: Known
        self.worlds = 0

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    async def open(self) -> None:
        limits = Limits(request_s=0.1, payload_bytes=100_000, message_bytes=200_000)
        self.door = await self.stack.enter_async_context(opened(limits, heartbeat_s=1))

    async def populate(self) -> None:
        """Runs, flows, blobs and tasks that requests may name: new ones, since requests may have ended the former."""
        client, gateway = self.door.client, self.door.gateway
        done = (await client.run(one_step(), 1)).summary
        self.door.workshop.let_all()
        self.worlds += 1
        live = (await client.submit(one_step("/py/gate"), f"held-{self.worlds}")).summary
        away = (await client.submit(one_step("/remote/x"), {})).summary
        flow = (await client.store({"name": "empty", "steps": [], "output": None})).flow_id
        blobs = [(await client("BlobService/PutBlob", raw_data=b"\xff\x00")).blob_id]
        blobs.append((await client("BlobService/PutBlob", json_data=plain_value([1]))).blob_id)
        ids = [RunId(run.run_id) for run in (done, live, away)]
        journal = (await gateway.operations.requests.info()).journal
        tasks = [TaskId(TaskRef(run, 0, 0, 1), Partition(0), journal) for run in ids]
        submit = Submit(ids[0], gateway.settings.namespace, FlowId(flow), [b"1"])
        asked = [api.GetInfo(), api.GetRun(ids[1], 50), api.ListRuns(), ListPools(), Cancel(ids[1]), submit]
        names = {
            "root_run_id": [*ids, *(root_of(task.ref.run, task) for task in tasks)],
            "run_id": ids,
            "flow": [done.flow_id, flow],
            "blob_type": ["data", "flow", "binary", ""],
            "blob": blobs,
            "task_id": [str(task) for task in tasks],
            "id": [str(task) for task in tasks],
            "returned": [str(task) for task in tasks],
            "running": [str(task) for task in tasks],
            "queue": ["py", "remote"],
            "pool": ["py", "remote", "builtin"],
            "worker": ["worker-1", "worker-2"],
            "step": ["a"],
            "namespace": ["default", ""],
            "path": ["/double", "/x"],
            "service": ["stepflow.v1.RunsService", ""],
            "symbol": ["stepflow.v1.RunsService", "stepmesh.v1.Task"],
            "file": ["stepflow/v1/runs.proto"],
        }
        self.known = Known(names, [b"", b"1", b"null", b'{"a":1}', *(encode(one) for one in asked)])

    async def close(self) -> None:
        self.door.workshop.let_all()
        await self.stack.aclose()

    # --- calls ---

    async def call(self, name: str, parts: list[bytes]) -> None:
        """One RPC with those bytes; any answer, and any refusal that says why."""
        answer = GetMessageClass(METHODS[name].output_type)
        try:
            found = await self._answers(name, parts)
        except grpc.aio.AioRpcError as refused:
            problem = refused
        else:
            for data in found:
                answer.FromString(data)
            return
        if problem.details() == WRITING_TOO_LATE or problem.code() is S.DEADLINE_EXCEEDED:
            return  # said by the client itself; a component may wait for its sub-run as long as it likes
        assert problem.code() in REFUSALS, problem
        assert str(problem.details()).startswith("SM-"), problem

    async def _answers(self, name: str, parts: list[bytes]) -> list[bytes]:
        method, channel = METHODS[name], self.door.client.channel
        if method.client_streaming:
            return await _some(channel.stream_stream(f"/{name}")(_slowly(parts), timeout=CALL_S))
        if method.server_streaming:
            return await _some(channel.unary_stream(f"/{name}")(parts[0], timeout=CALL_S))
        return [await channel.unary_unary(f"/{name}")(parts[0], timeout=CALL_S)]

    async def left_behind(self, tasks: int, files: int) -> None:
        """Returns when there are no more tasks and files than before. A wait that was given up ends with its poll."""
        async with asyncio.timeout(20):
            while len(asyncio.all_tasks()) > tasks or len(list(Path("/proc/self/fd").iterdir())) > files:
                await asyncio.sleep(0.02)

    async def count(self) -> tuple[int, int]:
        return len(asyncio.all_tasks()), len(list(Path("/proc/self/fd").iterdir()))


async def _slowly(parts: list[bytes]) -> Any:
    for part in parts:
        yield part


async def _some(call: Any) -> list[bytes]:
    """The first answers of a stream; then it is given up."""
    found: list[bytes] = []
    while len(found) < 5:
        reading = asyncio.ensure_future(call.read())
        done, _ = await asyncio.wait((reading,), timeout=FEW_S)
        if not done:
            call.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            break
        if reading.result() is grpc.aio.EOF:
            return found
        found.append(reading.result())
    call.cancel()
    return found


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    one = World()
    with pytest.MonkeyPatch.context() as patch, one.runner:
        for module in (operations, runs):
            patch.setattr(module, "POLL_S", 0.1)  # what is waited for when nobody waits any more
        one.run(one.open())
        yield one
        one.run(one.close())


def fuzzed(world: World, name: str, change: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Calls until hypothesis has seen enough, then looks what is left."""
    caplog.set_level(logging.ERROR)
    world.run(world.populate())
    kind = change(messages(METHODS[name].input_type, world.known).map(lambda message: message.SerializeToString()))
    tasks, files = world.run(world.count())
    channel = world.door.client.channel
    assert channel.get_state() is grpc.ChannelConnectivity.READY

    @settings(
        phases=[Phase.generate], max_examples=COUNT, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.lists(kind, min_size=1, max_size=4) if METHODS[name].client_streaming else st.tuples(kind))
    def check(parts: Any) -> None:
        world.run(world.call(name, list(parts)))

    check()
    assert [record.getMessage()[:300] for record in caplog.records] == []
    assert channel.get_state() is grpc.ChannelConnectivity.READY
    world.run(world.left_behind(tasks, files))


@pytest.mark.parametrize("name", SERVED)
def test_any_message(world: World, name: str, caplog: pytest.LogCaptureFixture) -> None:
    fuzzed(world, name, lambda made: made, caplog)


@pytest.mark.parametrize("name", SERVED)
def test_any_bytes(world: World, name: str, caplog: pytest.LogCaptureFixture) -> None:
    fuzzed(world, name, damaged, caplog)


def test_every_rpc_that_is_served_is_fuzzed(world: World) -> None:
    async def listed() -> set[str]:
        kind, call, _ = world.door.client.open("v1alpha.ServerReflection/ServerReflectionInfo")
        async for answer in call(_slowly([kind(list_services="")])):
            return {service.name for service in answer.list_services_response.service}
        return set()

    assert world.run(listed()) == {name.partition("/")[0] for name in SERVED}


def test_the_gateway_still_works(world: World) -> None:
    async def works() -> None:
        submitted = await world.door.client.submit(one_step(), 21)
        async with asyncio.timeout(20):
            while True:
                (item,) = (await world.door.client("RunsService/GetRunItems", run_id=submitted.summary.run_id)).results
                if item.status == 2:
                    break
        assert item.output.number_value == 42

    world.run(works())
