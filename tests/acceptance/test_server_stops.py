"""SIGTERM to a server with all kinds of connections: each is ended in its way, and the process exits in order."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import grpc.aio
import httpx
import pytest
from tests.acceptance.servers import serving

from stepmesh_broker.pb.stepflow.v1 import tasks_pb2

pytestmark = pytest.mark.acceptance

SLOW = {"name": "slow", "description": "d", "steps": [{"id": "a", "component": "/nobody/works", "input": {}}], "output": {"$step": "a"}}


async def test_with_streams_waits_workers_and_silence(tmp_path: Path) -> None:
    with serving("--data", str(tmp_path / "data")) as server:
        async with (
            httpx.AsyncClient(base_url=f"http://{server.address}/api/v1", timeout=60) as http,
            grpc.aio.insecure_channel(server.address) as channel,
        ):
            flow = (await http.post("/flows", json={"flow": SLOW})).json()["flowId"]
            run = (await http.post("/runs", json={"flowId": flow, "input": [1]})).json()["summary"]["runId"]
            waiting = asyncio.ensure_future(http.get(f"/runs/{run}", params={"wait": "true"}))
            pull = channel.unary_stream(
                "/stepflow.v1.TasksService/PullTasks",
                request_serializer=tasks_pb2.PullTasksRequest.SerializeToString,
                response_deserializer=tasks_pb2.TaskAssignment.FromString,
            )(tasks_pb2.PullTasksRequest(queue_name="idle", worker_id="w"))
            assert (await pull.read()).HasField("list_components")
            taking = asyncio.ensure_future(pull.read())
            _, silent = await asyncio.open_connection("127.0.0.1", server.port)
            async with http.stream("GET", f"/runs/{run}/events") as events:
                lines = events.aiter_lines()
                assert await anext(lines) == "retry: 2000"
                began = time.monotonic()
                server.process.send_signal(signal.SIGTERM)
                rest = [line async for line in lines]
            assert not any("event: end" in line for line in rest), "the run is not over: the reader comes back"
            answer = await waiting
            assert (answer.status_code, answer.json()["summary"]["status"]) == (200, 1)
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await taking
            assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
            silent.close()
        code, said = await asyncio.to_thread(server.end)
    assert code == 0, said
    assert time.monotonic() - began < 12
    assert "Traceback" not in said
    assert "ERROR" not in said

    with serving("--data", str(tmp_path / "data")) as again:
        async with httpx.AsyncClient(base_url=f"http://{again.address}/api/v1") as http:
            assert (await http.get(f"/runs/{run}")).json()["summary"]["status"] == 1, "what ran goes on"
