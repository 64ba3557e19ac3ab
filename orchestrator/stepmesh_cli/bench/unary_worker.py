"""The least worker of stepflow.v1's unary calls, with the benchmark's component: `python -m stepmesh_cli.bench.unary_worker HOST:PORT`.

One PullTasks stream; for each task a heartbeat as its claim, then CompleteTask. What a real worker does beside that costs it more.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

import grpc.aio
import uvloop

from stepmesh_broker.pb.stepflow.v1 import orchestrator_pb2 as calls
from stepmesh_broker.pb.stepflow.v1 import tasks_pb2 as pb

SLOTS = 16


class UnaryWorker:
    """`SLOTS` tasks at once, over one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.id = f"unary-{os.getpid()}"
        self._slots = asyncio.Semaphore(SLOTS)
        self._running: set[asyncio.Task[None]] = set()
        self._pull: Any = channel.unary_stream(
            "/stepflow.v1.TasksService/PullTasks",
            request_serializer=pb.PullTasksRequest.SerializeToString,
            response_deserializer=pb.TaskAssignment.FromString,
        )
        self._beat: Any = channel.unary_unary(
            "/stepflow.v1.OrchestratorService/TaskHeartbeat",
            request_serializer=calls.TaskHeartbeatRequest.SerializeToString,
            response_deserializer=calls.TaskHeartbeatResponse.FromString,
        )
        self._complete: Any = channel.unary_unary(
            "/stepflow.v1.OrchestratorService/CompleteTask",
            request_serializer=calls.CompleteTaskRequest.SerializeToString,
            response_deserializer=calls.CompleteTaskResponse.FromString,
        )

    async def work(self) -> None:
        """Until cancelled."""
        async for assignment in self._pull(pb.PullTasksRequest(queue_name="bench", worker_id=self.id), wait_for_ready=True):
            await self._slots.acquire()
            task = asyncio.create_task(self._handle(assignment))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._slots.release()
        task.result()

    async def _handle(self, assignment: pb.TaskAssignment) -> None:
        id = assignment.task_id
        if assignment.HasField("list_components"):
            offered = calls.ListComponentsResult(components=[pb.ComponentInfo(component_id="noop", path="/noop")])
            await self._complete(calls.CompleteTaskRequest(task_id=id, list_components=offered))
        elif not (await self._beat(calls.TaskHeartbeatRequest(task_id=id, worker_id=self.id))).should_abort:
            done = pb.ComponentExecuteResponse(output=assignment.execute.input)
            await self._complete(calls.CompleteTaskRequest(task_id=id, response=done))


async def main(address: str) -> None:
    """Serve until SIGTERM."""
    async with grpc.aio.insecure_channel(address) as channel:
        work = asyncio.create_task(UnaryWorker(channel).work())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
        await asyncio.wait([work])
        if not work.cancelled():
            work.result()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
