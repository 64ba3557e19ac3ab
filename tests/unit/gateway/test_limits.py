"""Every limit, one under and one over; a refusal names the limit and how to raise it, and the connection is kept."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.struct_pb2 import Value
from tests.unit.gateway.door import Door, details, one_step, opened, until

from stepmesh_broker.protocol import api
from stepmesh_gateway.limits import OverLimit, Streams, TooManyStreams, check_size
from stepmesh_gateway.settings import Limits


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def alive(door: Door) -> None:
    assert (await door.client("HealthService/HealthCheck")).status == "healthy"


@pytest.mark.parametrize("over", [0, 1])
async def test_a_message(over: int) -> None:
    async with opened(Limits(message_bytes=20_000)) as door:
        kind, call, _ = door.client.open("BlobService/PutBlob")
        request = kind(raw_data=b"x")
        request.content_type = "t" * (20_000 + over - request.ByteSize() - 4)
        assert request.ByteSize() == 20_000 + over
        if not over:
            assert len((await call(request)).blob_id) == 64
        else:
            problem = await refused(call(request))
            assert problem.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "20,001 bytes; limits.message_bytes is 20,000" in problem.details()
            assert "raise limits.message_bytes" in details(problem)[0].metadata["hint"]
        await alive(door)


async def test_a_message_far_too_large_is_refused_before_it_is_read() -> None:
    async with opened(Limits(message_bytes=20_000)) as door:
        problem = await refused(door.client("BlobService/PutBlob", raw_data=b"x" * 50_000))
        assert problem.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in problem.details()
        await alive(door)


async def test_an_answer_that_is_too_large() -> None:
    async with opened(Limits(message_bytes=20_000)) as door:
        text = Value(string_value="x" * 15_000)
        flow = one_step("/py/echo")
        run = (await door.client.run(flow, text.string_value)).summary.run_id
        assert (await door.client("RunsService/GetRunItems", run_id=run)).results[0].output == text
        both = await door.client.submit({**flow, "output": [{"$step": "a"}, {"$step": "a"}]}, text.string_value)
        await door.client("RunsService/GetRun", run_id=both.summary.run_id, wait=True)
        problem = await refused(door.client("RunsService/GetRunItems", run_id=both.summary.run_id))
        assert problem.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "the answer has" in problem.details()
        assert "ask for less at once, or raise limits.message_bytes" in problem.details()


@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("part", ["input", "variables", "blob"])
async def test_a_payload(part: str, over: int) -> None:
    async with opened(Limits(payload_bytes=1000)) as door:
        text = Value(string_value="x" * (998 + over - (7 if part == "variables" else 0)))
        if part == "blob":
            call = door.client("BlobService/PutBlob", json_data=text)
        else:
            flow = (await door.client.store({"name": "f", "steps": [], "output": None})).flow_id
            fields: dict[str, Any] = {"input": [Value(), text]} if part == "input" else {"input": [Value()], "variables": {"vv": text}}
            call = door.client("RunsService/CreateRun", flow_id=flow, **fields)
        if not over:
            await call
            return
        problem = await refused(call)
        assert problem.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        named = {"input": "input[1]", "variables": "variables", "blob": "the blob"}[part]
        assert f"SM-7003 {named} has 1,001 bytes; limits.payload_bytes is 1,000 (split it, or raise" in problem.details()


@pytest.mark.parametrize("over", [0, 1])
async def test_metadata(over: int) -> None:
    async with opened(Limits(header_bytes=2000)) as door:
        sent = sum(len(key) + len(value) + 32 for key, value in await _received(door))
        name = "x-padding"
        value = "v" * (2000 + over - sent - len(name) - 32)
        kind, call, _ = door.client.open("HealthService/HealthCheck")
        if not over:
            assert (await call(kind(), metadata=((name, value),))).status == "healthy"
            return
        problem = await refused(call(kind(), metadata=((name, value),)))
        assert problem.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "2,001 bytes; limits.header_bytes is 2,000" in problem.details()
        await alive(door)


async def _received(door: Door) -> Any:
    """The metadata that a call without any brings along, which depends on the release of gRPC."""
    seen: list[Any] = []

    class Look(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> None:
            seen.append(details.invocation_metadata)

    server = grpc.aio.server(handlers=[Look()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await refused(channel.unary_unary("/stepflow.v1.HealthService/HealthCheck")(b""))
    await server.stop(None)
    return seen[0]


async def test_open_streams() -> None:
    async with opened(Limits(streams=2)) as door:
        run = (await door.client.submit(one_step("/py/gate"), "")).summary.run_id
        streams = [door.client.stream("RunsService/GetRunEvents", run_id=run) for _ in range(2)]
        for stream in streams:
            await stream.read()
        problem = await refused(door.client.stream("RunsService/GetRunEvents", run_id=run).read())
        assert problem.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "2 streams open; limits.streams is 2" in problem.details()
        assert "raise limits.streams" in problem.details()
        streams[0].cancel()
        await until(lambda: door.gateway.operations.streams.count == 1)
        await door.client.stream("RunsService/GetRunEvents", run_id=run).read()
        door.workshop.let()


async def test_a_reader_that_does_not_read_is_not_read_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(Limits(unread_events=50)) as door:
        pages = 0
        ask = door.gateway.operations.requests.ask

        async def counted(request: Any, kind: Any, wait_s: float = 0.0) -> Any:
            nonlocal pages
            pages += isinstance(request, api.GetEvents)
            return await ask(request, kind, wait_s)

        flow = {"name": "large", "steps": [], "output": [{"$input": "$"}, {"$literal": "x" * 20_000}]}
        run = (await door.client.submit(flow, *range(2_000))).summary.run_id
        await door.client("RunsService/GetRun", run_id=run, wait=True)
        monkeypatch.setattr(door.gateway.operations.requests, "ask", counted)
        stream = door.client.stream("RunsService/GetRunEvents", run_id=run, include_results=True)
        await stream.read()
        seen = 0
        while seen != pages:  # until it comes to a stand
            seen = pages
            await asyncio.sleep(0.5)
        assert pages < 40, "of more than 80 pages of a megabyte"
        ended = 0
        while (event := await stream.read()) is not grpc.aio.EOF:
            ended += event.HasField("item_completed")
        assert ended == 2_000
        assert pages > 80


@pytest.mark.parametrize(("held_s", "status"), [(0.0, 2), (30.0, 1)])
async def test_the_longest_wait(held_s: float, status: int) -> None:
    async with opened(Limits(request_s=1.0)) as door:
        submitted = await door.client.submit(one_step("/py/gate"), "")
        await door.workshop.begun.get()
        if not held_s:
            asyncio.get_running_loop().call_later(0.3, door.workshop.let)
        found = await door.client("RunsService/GetRun", run_id=submitted.summary.run_id, wait=True, timeout_secs=3600)
        assert found.summary.status == status
        door.workshop.let()


async def test_a_deadline_ends_the_wait_on_both_sides() -> None:
    async with opened() as door:
        submitted = await door.client.submit(one_step("/py/gate"), "")
        kind, call, _ = door.client.open("RunsService/GetRun")
        problem = await refused(call(kind(run_id=submitted.summary.run_id, wait=True), timeout=0.3))
        assert problem.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: not [task for task in asyncio.all_tasks() if "Requests.get_run" in repr(task)])
        door.workshop.let()


def test_a_size_at_its_limit_is_taken() -> None:
    check_size("it", 10, 10, "payload_bytes")
    with pytest.raises(OverLimit, match=r"it has 11 bytes; limits.payload_bytes is 10 \(raise limits.payload_bytes in the configuration\)"):
        check_size("it", 11, 10, "payload_bytes")


def test_streams_are_counted_while_they_are_open() -> None:
    streams = Streams(Limits(streams=1))
    with streams.one_more():
        with pytest.raises(TooManyStreams), streams.one_more():
            pass
        assert streams.count == 1
    with streams.one_more():
        assert streams.count == 1
    assert streams.count == 0
