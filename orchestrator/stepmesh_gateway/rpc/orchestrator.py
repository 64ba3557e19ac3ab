"""stepflow.v1 OrchestratorService: what a worker says of its tasks, and the sub-runs that it starts.

Every gateway answers for every task: the id says all that is needed. It knows no rule of runs or leases.
"""

from __future__ import annotations

import msgspec
from google.protobuf.descriptor import ServiceDescriptor

from stepmesh.errors import WaitTimeout
from stepmesh.runs import RunHandle
from stepmesh_broker.pb.stepflow.v1 import common_pb2, orchestrator_pb2, runs_pb2
from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.ids import RunId, WorkerId, child_run_id, content_id
from stepmesh_broker.protocol.messages import ParentRef, Verdict
from stepmesh_gateway.identity import TaskId, split_root
from stepmesh_gateway.operations import NewRun, Operations
from stepmesh_gateway.rpc.discovery import Discovery
from stepmesh_gateway.rpc.runs import new_run, results
from stepmesh_gateway.rpc.statuses import Context
from stepmesh_gateway.translate.fields import BadRequest, run_id
from stepmesh_gateway.translate.run_messages import run_summary
from stepmesh_gateway.translate.task_messages import result
from stepmesh_gateway.work.bridge import Bridge
from stepmesh_gateway.work.elsewhere import Completion
from stepmesh_gateway.work.refusals import NotReady, TaskGone

DESCRIPTOR: ServiceDescriptor = orchestrator_pb2.DESCRIPTOR.services_by_name["OrchestratorService"]


class OrchestratorMethods:
    """The RPCs of OrchestratorService."""

    def __init__(self, operations: Operations, bridge: Bridge, discovery: Discovery) -> None:
        self._operations = operations
        self._bridge = bridge
        self._discovery = discovery

    # --- tasks --------------------------------------------------------------------------------------------------

    async def TaskHeartbeat(
        self, request: orchestrator_pb2.TaskHeartbeatRequest, context: Context
    ) -> orchestrator_pb2.TaskHeartbeatResponse:
        """The first one is the worker's claim."""
        task = TaskId.parse(request.task_id)
        if not request.worker_id:
            raise BadRequest("worker_id is empty", field="worker_id", hint="send the worker_id of PullTasks")
        fraction = request.progress if request.HasField("progress") else None
        details = msgspec.json.encode({"message": request.status_message}) if request.HasField("status_message") else None
        verdict = await self._bridge.heartbeat(WorkerId(request.worker_id), task, fraction, details)
        if verdict is Verdict.NOT_READY:
            raise _not_ready(task)
        if verdict is Verdict.GRANTED:
            return orchestrator_pb2.TaskHeartbeatResponse(status=orchestrator_pb2.TASK_STATUS_IN_PROGRESS)
        return orchestrator_pb2.TaskHeartbeatResponse(should_abort=True, status=orchestrator_pb2.TASK_STATUS_ALREADY_CLAIMED)

    async def CompleteTask(self, request: orchestrator_pb2.CompleteTaskRequest, context: Context) -> orchestrator_pb2.CompleteTaskResponse:
        """Returns when the result is durable at the broker."""
        if request.HasField("list_components"):
            if not self._discovery.answered(request.task_id, request.list_components.components):
                raise BadRequest("list_components answers no question of that kind", field="task_id", hint="send back the task_id")
            return orchestrator_pb2.CompleteTaskResponse()
        task = TaskId.parse(request.task_id)
        ended = result(task.ref, request, self._operations.settings.limits.payload_bytes)
        if ended is None:
            raise BadRequest("the request has no result", field="result", hint="send response, error or list_components")
        completion = await self._bridge.complete(task, ended)
        if completion is Completion.NOT_READY:
            raise _not_ready(task)
        if completion is Completion.GONE:
            raise TaskGone(f"nobody waits for task {task}", hint="it was done, cancelled or given to another worker: drop the result")
        return orchestrator_pb2.CompleteTaskResponse()

    # --- sub-runs -----------------------------------------------------------------------------------------------

    async def SubmitRun(
        self, request: orchestrator_pb2.OrchestratorSubmitRunRequest, context: Context
    ) -> orchestrator_pb2.OrchestratorRunStatus:
        """A sub-run of the task that starts it, found again by a later attempt; without the task's mark a run of its own. With `wait`:
        with its results once it ended."""
        asked = request.run_request
        root, task = split_root(request.root_run_id)
        new = new_run(asked)
        if task is not None:
            new = self._linked(new, root, task, request.subflow_key if request.HasField("subflow_key") else None)
        accepted = await self._operations.create_run(new)
        limit_s = float(asked.timeout_secs) if asked.HasField("timeout_secs") else None
        return await self._status(accepted.run, asked.wait, limit_s, with_results=asked.wait)

    async def GetRun(self, request: orchestrator_pb2.OrchestratorGetRunRequest, context: Context) -> orchestrator_pb2.OrchestratorRunStatus:
        """A run; with `wait` once it ended, or as it is after `timeout_secs`."""
        limit_s = float(request.timeout_secs) if request.HasField("timeout_secs") else None
        return await self._status(run_id(request.run_id), request.wait, limit_s, request.include_results, request.result_order)

    def _linked(self, new: NewRun, root: RunId, task: TaskId, key: str | None) -> NewRun:
        ref = task.ref
        if key is None:
            parts = (new.flow.encode(), *new.inputs, new.overrides or b"", new.variables or b"")
            content = content_id(msgspec.json.encode([content_id(part) for part in parts]))[:32]
            key = f"{content}#{self._bridge.children(ref, content)}"
        run = child_run_id(ref.run, f"{ref.item}/{ref.step}/{key}")
        return msgspec.structs.replace(new, run=run, parent=ParentRef(root, ref.run, ref.item, ref.step, key))

    async def _status(
        self, run: RunId, wait: bool, limit_s: float | None, with_results: bool, order: int = 0
    ) -> orchestrator_pb2.OrchestratorRunStatus:
        """A component may wait for its sub-run as long as it likes: it ends with the task that waits, not with a limit of requests."""
        if wait:
            try:
                await RunHandle(self._operations.requests, run).wait(limit_s)
            except WaitTimeout:
                pass  # it is told as it is
        summary = await self._operations.get_run(run)
        return _run_status(summary, await results(self._operations, run, order) if with_results else [])


def _run_status(run: api.RunSummary, found: list[common_pb2.ItemResult]) -> orchestrator_pb2.OrchestratorRunStatus:
    told: runs_pb2.RunSummary = run_summary(run)
    return orchestrator_pb2.OrchestratorRunStatus(
        run_id=told.run_id,
        flow_id=told.flow_id,
        flow_name=told.flow_name or None,
        status=told.status,
        items=told.items,
        created_at=told.created_at,
        completed_at=told.completed_at if told.HasField("completed_at") else None,
        results=found,
        root_run_id=told.root_run_id,
        parent_run_id=told.parent_run_id if told.HasField("parent_run_id") else None,
        created_at_seqno=told.created_at_seqno,
    )


def _not_ready(task: TaskId) -> NotReady:
    return NotReady(f"partition {task.partition} is not ready to hear of task {task}", hint="try again in a moment")
