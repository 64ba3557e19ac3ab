"""stepflow.v1 TasksService: a worker's stream of tasks.

Invariant: what waits to be written is bounded by the seat's credit, one task more than the worker has begun; a slow reader stops the
flow of its own tasks only. Claims and results come by OrchestratorService.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence

from google.protobuf.descriptor import ServiceDescriptor

from stepmesh.attempt import Why
from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.pb.stepflow.v1 import tasks_pb2
from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.ids import Pool, WorkerId
from stepmesh_broker.protocol.subjects import checked_name
from stepmesh_gateway.identity import TaskId, split_root
from stepmesh_gateway.operations import Operations
from stepmesh_gateway.rpc.assignments import Assignments
from stepmesh_gateway.rpc.discovery import Discovery
from stepmesh_gateway.rpc.statuses import Context
from stepmesh_gateway.translate.fields import BadRequest, run_id
from stepmesh_gateway.work.bridge import Bridge
from stepmesh_gateway.work.line import Assigned, WorkerHello
from stepmesh_gateway.work.refusals import GatewayStops, UnknownQueue

DESCRIPTOR: ServiceDescriptor = tasks_pb2.DESCRIPTOR.services_by_name["TasksService"]
QUEUES_S = 5.0
"""How long the list of queues is remembered, in seconds."""
SERVED_HERE = frozenset({"builtin", "mcp", "mock"})
"""Kinds of plugins whose tasks are not for workers from outside."""


class Queues:
    """The names under which workers may ask for tasks."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._known: api.Queues | None = None
        self._until = 0.0

    async def pool(self, name: str) -> Pool:
        """The pool of a queue. Raises `UnknownQueue`, and `BrokerUnavailable` while nobody can say which there are."""
        known = await self._list()
        queue = next((queue for queue in known.queues if queue.pool == name), None)
        if queue is None and known.open:
            return Pool(checked_name("queue", name))
        if queue is None or queue.kind in SERVED_HERE:
            names = sorted(queue.pool for queue in known.queues if queue.kind not in SERVED_HERE)
            raise UnknownQueue(
                f"there is no queue {name[:80]!r}; known queues: {', '.join(names) or 'none'}",
                hint="queue_name is that of a plugin in the server's configuration",
            )
        return queue.pool

    async def _list(self) -> api.Queues:
        if self._known is None or time.monotonic() >= self._until:
            try:
                self._known = await self._operations.queues()
                self._until = time.monotonic() + QUEUES_S
            except BrokerUnavailable:
                if self._known is None:
                    raise
        return self._known


class TasksMethods:
    """The RPCs of TasksService."""

    def __init__(self, operations: Operations, bridge: Bridge, discovery: Discovery, assignments: Assignments) -> None:
        self._operations = operations
        self._bridge = bridge
        self._discovery = discovery
        self._assignments = assignments
        self._queues = Queues(operations)

    async def PullTasks(self, request: tasks_pb2.PullTasksRequest, context: Context) -> AsyncIterator[tasks_pb2.TaskAssignment]:
        """A question after the worker's components, then tasks, until one side goes away."""
        if not request.worker_id:
            raise BadRequest("worker_id is empty", field="worker_id", hint="give each worker an id of its own, such as a UUID")
        pool = await self._queues.pool(request.queue_name)
        line = _Line()
        hello = WorkerHello(WorkerId(request.worker_id), pool, version="stepflow.v1", claims=True)
        seat = await self._bridge.join(hello, line)
        try:
            with self._discovery.asking(seat) as id:
                yield self._assignments.question(id)
                seat.allow(1)
                async for assigned in line:
                    message = self._assignments.message(assigned, seat)
                    if message is not None:
                        yield message
        finally:
            seat.lost()
        raise GatewayStops("this gateway is about to stop", hint="connect again")

    async def GetOrchestratorForRun(
        self, request: tasks_pb2.GetOrchestratorForRunRequest, context: Context
    ) -> tasks_pb2.GetOrchestratorForRunResponse:
        """Any gateway answers for any run."""
        root, _ = split_root(request.run_id)
        await self._operations.get_run(run_id(root))
        return tasks_pb2.GetOrchestratorForRunResponse(orchestrator_service_url=self._assignments.address())


class _Line:
    """`Line` of a stream: what waits to be written, in order."""

    def __init__(self) -> None:
        self._waiting: deque[Assigned] = deque()
        self._change = asyncio.Event()
        self._draining = False

    def send(self, assigned: Sequence[Assigned]) -> None:
        self._waiting.extend(assigned)
        self._change.set()

    def stop(self, task: TaskId, why: Why) -> None:
        """The worker hears of it with its next heartbeat."""
        self._waiting = deque(assigned for assigned in self._waiting if assigned.id != task)

    def news(self, task: TaskId) -> None:
        """None of its workers has durable functions."""

    def ask(self, number: int, question: bytes) -> None:
        """Nor questions to one."""

    def recorded(self, tasks: Sequence[TaskId]) -> None:
        """The call that brought the result tells."""

    def drain(self) -> None:
        self._draining = True
        self._change.set()

    async def __aiter__(self) -> AsyncIterator[Assigned]:
        """Until the gateway stops."""
        while not self._draining:
            while self._waiting:
                yield self._waiting.popleft()
            self._change.clear()
            await self._change.wait()
