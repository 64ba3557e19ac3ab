"""A server that does nothing but hand out tasks, to find the limit of the real worker: `python bare_server.py`. JSON lines on stdout.

Latency: one task after the other, from sending it to its result. Throughput: as many in hand as the worker claims, and two more, as
`stepmesh server` does while tasks are quick. Nothing is stored, checked or repeated.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import uvloop

from stepmesh_broker.pb.stepflow.v1 import common_pb2, orchestrator_pb2, tasks_pb2
from stepmesh_gateway.translate.values import to_value


class Bare:
    """The two services in one object. `address`: what workers are told to answer to."""

    def __init__(self) -> None:
        self.address = ""
        self.joined = asyncio.Event()
        self.wanted: asyncio.Queue[str] = asyncio.Queue()
        self.unclaimed = asyncio.Semaphore(2)
        self.done: dict[str, asyncio.Future[None]] = {}

    async def pull(self, request: tasks_pb2.PullTasksRequest, context: Any) -> AsyncIterator[tasks_pb2.TaskAssignment]:
        """One stream."""
        self.joined.set()
        while True:
            task_id = await self.wanted.get()
            execute = tasks_pb2.ComponentExecuteRequest(
                component_id="same",
                input=to_value(b'{"n":1}'),
                attempt=1,
                observability=common_pb2.ObservabilityContext(run_id="r", flow_id="f", step_id="s"),
            )
            await self.unclaimed.acquire()
            yield tasks_pb2.TaskAssignment(
                task_id=task_id,
                execute=execute,
                context=tasks_pb2.TaskContext(orchestrator_service_url=self.address, root_run_id="r"),
                heartbeat_interval_secs=5,
            )

    async def heartbeat(self, request: orchestrator_pb2.TaskHeartbeatRequest, context: Any) -> orchestrator_pb2.TaskHeartbeatResponse:
        """Go on."""
        self.unclaimed.release()
        return orchestrator_pb2.TaskHeartbeatResponse(status=orchestrator_pb2.TASK_STATUS_IN_PROGRESS)

    async def complete(self, request: orchestrator_pb2.CompleteTaskRequest, context: Any) -> orchestrator_pb2.CompleteTaskResponse:
        """Thank you."""
        self.done.pop(request.task_id).set_result(None)
        return orchestrator_pb2.CompleteTaskResponse()

    async def run(self, task_id: str) -> None:
        """One task, there and back."""
        ended = self.done[task_id] = asyncio.get_running_loop().create_future()
        self.wanted.put_nowait(task_id)
        await ended

    async def serve(self) -> grpc.aio.Server:
        """Listen on a free port."""
        server = grpc.aio.server()
        tasks = {
            "PullTasks": grpc.unary_stream_rpc_method_handler(
                self.pull, tasks_pb2.PullTasksRequest.FromString, tasks_pb2.TaskAssignment.SerializeToString
            )
        }
        orchestrator = {
            "TaskHeartbeat": grpc.unary_unary_rpc_method_handler(
                self.heartbeat,
                orchestrator_pb2.TaskHeartbeatRequest.FromString,
                orchestrator_pb2.TaskHeartbeatResponse.SerializeToString,
            ),
            "CompleteTask": grpc.unary_unary_rpc_method_handler(
                self.complete, orchestrator_pb2.CompleteTaskRequest.FromString, orchestrator_pb2.CompleteTaskResponse.SerializeToString
            ),
        }
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler("stepflow.v1.TasksService", tasks),
                grpc.method_handlers_generic_handler("stepflow.v1.OrchestratorService", orchestrator),
            )
        )
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        return server


async def main(latencies: int, batch: int) -> None:
    """Say the port, wait for the worker, measure, say the figures."""
    bare = Bare()
    server = await bare.serve()
    print(json.dumps({"port": int(bare.address.rpartition(":")[2])}), flush=True)
    await bare.joined.wait()
    for number in range(50):
        await bare.run(f"warm-{number}")
    seconds: list[float] = []
    for number in range(latencies):
        began = time.perf_counter()
        await bare.run(f"one-{number}")
        seconds.append(time.perf_counter() - began)
    began = time.perf_counter()
    await asyncio.gather(*(bare.run(f"many-{number}") for number in range(batch)))
    rate = batch / (time.perf_counter() - began)
    print(json.dumps({"seconds": seconds, "per_second": rate}), flush=True)
    await server.stop(None)


uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
