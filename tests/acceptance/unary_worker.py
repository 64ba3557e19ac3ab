"""A worker of stepflow.v1's unary calls with the ledger's components: `python unary_worker.py DATA HOST:PORT`. It never gives up.

It does what the protocol's page says of a worker and no more: claims by its first heartbeat, goes on with heartbeats, completes, and
repeats what was answered with UNAVAILABLE.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

from stepmesh_broker.pb.stepflow.v1 import blobs_pb2, common_pb2, orchestrator_pb2, runs_pb2, tasks_pb2
from stepmesh_gateway.translate.values import from_value, to_value

CHILD = {"steps": [{"id": "c", "component": "/cpu/echo", "input": {"$input": "$"}}], "output": {"$step": "c"}}
_ledger = os.open(os.environ["STEPMESH_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
SLOTS = 8
AGAIN_S = 0.2
QUICK = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.min_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]
"""A server that is back is found soon: its recovery waits for what workers still run, but not for long."""


class Failed(Exception):
    """A component's failure."""


class Calls:
    """The RPCs by name, over one channel; repeated while the gateway is away."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def __call__(self, file: Any, service: str, name: str, request: Any) -> Any:
        method: MethodDescriptor = file.DESCRIPTOR.services_by_name[service].methods_by_name[name]
        call = self._channel.unary_unary(
            f"/stepflow.v1.{service}/{name}",
            request_serializer=GetMessageClass(method.input_type).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        while True:
            try:
                return await call(request, timeout=30)
            except grpc.aio.AioRpcError as problem:
                if problem.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise
                await asyncio.sleep(AGAIN_S)

    async def orchestrator(self, name: str, request: Any) -> Any:
        """One call of the OrchestratorService."""
        return await self(orchestrator_pb2, "OrchestratorService", name, request)


class Attempt:
    """One assignment, and what its component may do with it."""

    def __init__(self, assignment: tasks_pb2.TaskAssignment, calls: Calls) -> None:
        self.task_id = assignment.task_id
        self.execute = assignment.execute
        self.context = assignment.context
        self.calls = calls

    def note(self, kind: str) -> None:
        """`kind run item step attempt pid milliseconds`, as ledger_worker.py writes it."""
        seen = self.execute.observability
        item = self.task_id.split(".")[1]  # a test may look into an id; a worker need not
        line = f"{kind} {seen.run_id} {item} {seen.step_id} {self.execute.attempt} {os.getpid()} {time.time_ns() // 1_000_000}\n"
        os.write(_ledger, line.encode())

    async def evaluate(self, flow: Any, input: Any) -> Any:
        """The result of a flow that runs below this step."""
        blob = blobs_pb2.PutBlobRequest(json_data=to_value(json.dumps(flow).encode()), blob_type="flow")
        stored = await self.calls(blobs_pb2, "BlobService", "PutBlob", blob)
        run = runs_pb2.CreateRunRequest(flow_id=stored.blob_id, input=[to_value(json.dumps(input).encode())], wait=True, timeout_secs=20)
        request = orchestrator_pb2.OrchestratorSubmitRunRequest(run_request=run, subflow_key="child", root_run_id=self.context.root_run_id)
        status = await self.calls.orchestrator("SubmitRun", request)
        while status.status == common_pb2.EXECUTION_STATUS_RUNNING:
            wait = orchestrator_pb2.OrchestratorGetRunRequest(
                run_id=status.run_id, wait=True, include_results=True, timeout_secs=20, root_run_id=self.context.root_run_id
            )
            status = await self.calls.orchestrator("GetRun", wait)
        if status.status != common_pb2.EXECUTION_STATUS_COMPLETED:
            raise Failed(f"the sub-run ended with status {status.status}")
        return json.loads(from_value(status.results[0].output))


async def echo(value: Any, attempt: Attempt) -> Any:
    """Ends at once."""
    return value


async def slow(value: Any, attempt: Attempt) -> Any:
    """Takes a while."""
    await asyncio.sleep(1.5)
    return value


async def flaky(value: Any, attempt: Attempt) -> Any:
    """Every odd attempt fails."""
    if attempt.execute.attempt % 2:
        raise Failed(f"attempt {attempt.execute.attempt}")
    return "steady"


async def cpu(value: Any, attempt: Attempt) -> Any:
    """Blocks the event loop for some ms."""
    return sum(number * number for number in range(50_000)) % 7


async def delegate(value: Any, attempt: Attempt) -> Any:
    """Has a sub-run do its work."""
    return {"delegated": await attempt.evaluate(CHILD, value)}


COMPONENTS: dict[str, Callable[[Any, Attempt], Awaitable[Any]]] = {work.__name__: work for work in (echo, slow, flaky, cpu, delegate)}


class UnaryWorker:
    """One PullTasks stream, `SLOTS` tasks at once."""

    def __init__(self, address: str) -> None:
        self.id = str(uuid.uuid4())
        self.channel = grpc.aio.insecure_channel(address, options=QUICK)
        self.calls = Calls(self.channel)
        self.slots = asyncio.Semaphore(SLOTS)
        self.running: set[asyncio.Task[None]] = set()

    async def pull(self) -> None:
        """Take assignments for ever; a stream that breaks is opened again."""
        open_stream = self.channel.unary_stream(
            "/stepflow.v1.TasksService/PullTasks",
            request_serializer=tasks_pb2.PullTasksRequest.SerializeToString,
            response_deserializer=tasks_pb2.TaskAssignment.FromString,
        )
        while True:
            try:
                async for assignment in open_stream(tasks_pb2.PullTasksRequest(queue_name="cpu", worker_id=self.id)):
                    await self.slots.acquire()
                    task = asyncio.create_task(self.handle(assignment))
                    self.running.add(task)
                    task.add_done_callback(self.ended)
            except grpc.aio.AioRpcError as problem:
                print(problem.code(), problem.details(), file=sys.stderr, flush=True)
            await asyncio.sleep(AGAIN_S)

    def ended(self, task: asyncio.Task[None]) -> None:
        """A slot is free."""
        self.running.discard(task)
        self.slots.release()
        if not task.cancelled() and (problem := task.exception()) is not None:
            print(repr(problem), file=sys.stderr, flush=True)

    async def handle(self, assignment: tasks_pb2.TaskAssignment) -> None:
        """Claim, run, complete."""
        if assignment.HasField("list_components"):
            offered = [tasks_pb2.ComponentInfo(component_id=name, path=f"/{name}") for name in COMPONENTS]
            await self.complete(assignment.task_id, list_components=orchestrator_pb2.ListComponentsResult(components=offered))
            return
        attempt = Attempt(assignment, self.calls)
        if not await self.beat(attempt):
            return
        beating = asyncio.create_task(self.keep(attempt, assignment.heartbeat_interval_secs or 1))
        try:
            attempt.note("start")
            output = await COMPONENTS[assignment.execute.component_id](json.loads(from_value(assignment.execute.input)), attempt)
        except Failed as problem:
            error = orchestrator_pb2.TaskError(code=common_pb2.TASK_ERROR_CODE_COMPONENT_FAILED, message=str(problem))
            await self.complete(assignment.task_id, error=error)
        else:
            attempt.note("end")
            response = tasks_pb2.ComponentExecuteResponse(output=to_value(json.dumps(output).encode()))
            await self.complete(assignment.task_id, response=response)
        finally:
            beating.cancel()

    async def complete(self, task_id: str, **outcome: Any) -> None:
        """NOT_FOUND: nobody wants it any more."""
        try:
            await self.calls.orchestrator("CompleteTask", orchestrator_pb2.CompleteTaskRequest(task_id=task_id, **outcome))
        except grpc.aio.AioRpcError as problem:
            if problem.code() != grpc.StatusCode.NOT_FOUND:
                raise

    async def beat(self, attempt: Attempt) -> bool:
        """Whether the task may go on."""
        request = orchestrator_pb2.TaskHeartbeatRequest(task_id=attempt.task_id, worker_id=self.id)
        try:
            return not (await self.calls.orchestrator("TaskHeartbeat", request)).should_abort
        except grpc.aio.AioRpcError as problem:
            if problem.code() == grpc.StatusCode.NOT_FOUND:
                return False
            raise

    async def keep(self, attempt: Attempt, interval_s: float) -> None:
        """Heartbeats until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            await self.beat(attempt)

    async def serve(self) -> None:
        """Until SIGTERM; then what runs may end."""
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        pulling = asyncio.create_task(self.pull())
        await stopped.wait()
        pulling.cancel()
        if self.running:
            await asyncio.wait(self.running, timeout=15)
        await self.channel.close()


async def main(address: str) -> None:
    """Serve one worker."""
    await UnaryWorker(address).serve()


asyncio.run(main(sys.argv[2]))
