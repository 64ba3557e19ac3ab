"""A stepflow.v1 worker that does what a test tells it, over a real connection, one call at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import msgspec
from google.protobuf.json_format import MessageToDict
from tests.unit.gateway.door import Client, channel_to

from stepmesh_broker.pb.stepflow.v1 import orchestrator_pb2, tasks_pb2
from stepmesh_gateway.server import Gateway
from stepmesh_gateway.translate.values import plain_value, to_struct

SCHEMA = '{"type":"object"}'


class Puller:
    """`offers`: path → component id, told when the gateway asks, unless `silent`."""

    def __init__(self, client: Client, worker: str, queue: str, offers: Mapping[str, str], silent: bool) -> None:
        self.client = client
        self.worker = worker
        self.offers = offers
        self.silent = silent
        self.questions: list[Any] = []
        self.stream = client.stream("TasksService/PullTasks", queue_name=queue, worker_id=worker)
        self._reading: asyncio.Task[Any] | None = None

    async def next(self, timeout_s: float = 10.0) -> Any:
        """The next task; questions after components are answered meanwhile. Raises `TimeoutError`, `AioRpcError`."""
        async with asyncio.timeout(timeout_s):
            while True:
                self._reading = self._reading or asyncio.ensure_future(self.stream.read())
                message = await asyncio.shield(self._reading)
                self._reading = None
                assert message is not grpc.aio.EOF, "the stream ended"
                if message.HasField("execute"):
                    return message
                self.questions.append(message)
                if not self.silent:
                    await self.tell(message)

    async def begin(self, timeout_s: float = 10.0) -> Any:
        """The next task, claimed."""
        task = await self.next(timeout_s)
        assert await self.beat(task) == "in progress"
        return task

    async def nothing(self, seconds: float = 0.4) -> None:
        """No task comes for a while."""
        try:
            task = await self.next(seconds)
        except TimeoutError:
            return
        raise AssertionError(f"a task came: {task}")

    async def tell(self, question: Any) -> None:
        """Answer a question after components."""
        infos = [
            tasks_pb2.ComponentInfo(component_id=id, path=path, description=f"about {id}", input_schema=SCHEMA)
            for path, id in self.offers.items()
        ]
        await self.client(
            "OrchestratorService/CompleteTask",
            task_id=question.task_id,
            list_components=orchestrator_pb2.ListComponentsResult(components=infos),
        )

    async def beat(self, task: Any, worker: str | None = None, **fields: Any) -> str:
        """A heartbeat: `in progress` or `abort`."""
        answer = await self.client("OrchestratorService/TaskHeartbeat", task_id=task.task_id, worker_id=worker or self.worker, **fields)
        claimed = answer.status == orchestrator_pb2.TASK_STATUS_ALREADY_CLAIMED
        assert answer.should_abort == claimed
        return "abort" if claimed else "in progress"

    async def complete(self, task: Any, output: Any = None) -> None:
        """With an output."""
        response = tasks_pb2.ComponentExecuteResponse(output=plain_value(output))
        await self.client("OrchestratorService/CompleteTask", task_id=task.task_id, response=response)

    async def fail(self, task: Any, code: int, message: str, data: Any = None) -> None:
        """With an error."""
        error = orchestrator_pb2.TaskError(code=code, message=message)  # type: ignore[arg-type]  # numbers that no enum has, too
        if data is not None:
            error.data.CopyFrom(to_struct(msgspec.json.encode(data)))
        await self.client("OrchestratorService/CompleteTask", task_id=task.task_id, error=error)

    async def close(self) -> None:
        """The stream ends, as when the process dies."""
        self.stream.cancel()
        if self._reading is not None:
            await asyncio.wait([self._reading])
            self._reading = None


@asynccontextmanager
async def pulling(
    gateway: Gateway, worker: str = "w1", queue: str = "py", offers: Mapping[str, str] | None = None, silent: bool = False
) -> AsyncIterator[Puller]:
    """A worker with a connection of its own, known to the gateway."""
    async with channel_to(gateway) as channel:
        told = {"/work": "work", "/other": "other"} if offers is None else offers
        puller = Puller(Client(channel), worker, queue, told, silent)
        puller._reading = asyncio.ensure_future(puller.stream.read())
        question = await asyncio.wait_for(asyncio.shield(puller._reading), 10)
        if question.HasField("list_components"):
            puller._reading = None
            puller.questions.append(question)
            if not silent:
                await puller.tell(question)
        try:
            yield puller
        finally:
            await puller.close()


def given(task: Any) -> Any:
    """A task's input."""
    return MessageToDict(task.execute.input)


async def status_of(work: Any) -> tuple[grpc.StatusCode, str]:
    """How a call that fails ends."""
    try:
        await work
    except grpc.aio.AioRpcError as problem:
        return problem.code(), problem.details() or ""
    raise AssertionError("the call succeeded")
