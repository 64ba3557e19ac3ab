"""stepflow.v1 RunsService: submit, wait, look, follow, cancel, delete.

It translates to and from `Operations`, and knows no rule of runs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor

from stepmesh_broker.pb.stepflow.v1 import common_pb2, runs_pb2
from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.ids import RunId
from stepmesh_gateway.operations import NewRun, Operations
from stepmesh_gateway.rpc.statuses import Context
from stepmesh_gateway.translate.execution import run_status_name
from stepmesh_gateway.translate.fields import BadRequest, flow_id, run_id
from stepmesh_gateway.translate.run_messages import item_result, run_summary, status_event, step_status
from stepmesh_gateway.translate.status_events import EventFilter, EventType, behind
from stepmesh_gateway.translate.values import from_members, from_struct, from_value, to_struct

DESCRIPTOR: ServiceDescriptor = runs_pb2.DESCRIPTOR.services_by_name["RunsService"]
SOME_STEPS_BYTES = 3 * 1024 * 1024
"""Steps that GetRun shows, so that its answer fits what clients take by default (4 MiB); GetRunSteps has all."""
LISTED = 100
"""Runs of a list without a limit."""


def new_run(request: runs_pb2.CreateRunRequest) -> NewRun:
    """A submission. Raises `BadRequest`, `NoJson`."""
    return NewRun(
        flow=flow_id(request.flow_id),
        inputs=[from_value(value, f"input[{index}]") for index, value in enumerate(request.input)],
        variables=from_members(request.variables, "variables") if request.variables else None,
        overrides=from_struct(request.overrides, "overrides") if request.HasField("overrides") else None,
        max_concurrency=request.max_concurrency if request.HasField("max_concurrency") else None,
    )


def wait_s(request: Any, operations: Operations) -> float:
    """How long a request with `wait` and `timeout_secs` waits; without a time as long as the gateway lets it."""
    if not request.wait:
        return 0.0
    longest = operations.settings.limits.request_s
    return min(float(request.timeout_secs), longest) if request.HasField("timeout_secs") else longest


async def results(operations: Operations, run: RunId, order: int = 0) -> list[common_pb2.ItemResult]:
    """All items of a run, ended or not. By completion: those that have not ended come last. Raises `BadRequest`, `RunNotFound`."""
    if order not in common_pb2.ResultOrder.values():
        raise BadRequest(f"result_order {order} is not one of ResultOrder", field="result_order", hint="1 by index, 2 by completion")
    items = [item async for item in operations.items(run)]
    if order == common_pb2.RESULT_ORDER_BY_COMPLETION:
        items.sort(key=lambda item: (not item.finished_ms, item.finished_ms, item.item))
    return [item_result(item) for item in items]


class RunsMethods:
    """The RPCs of RunsService."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def CreateRun(self, request: runs_pb2.CreateRunRequest, context: Context) -> runs_pb2.CreateRunResponse:
        """Returns once the run is journaled; with `wait` once it ended or the wait is over, with its items as they are then."""
        accepted = await self._operations.create_run(new_run(request))
        summary = await self._operations.get_run(accepted.run, wait_s(request, self._operations))
        found = await results(self._operations, accepted.run) if request.wait else []
        return runs_pb2.CreateRunResponse(summary=run_summary(summary), results=found)

    async def ListRuns(self, request: runs_pb2.ListRunsRequest, context: Context) -> runs_pb2.ListRunsResponse:
        """Newest first."""
        status = run_status_name(request.status)
        query = api.ListRuns(
            status=status or None,
            flow_name=request.flow_name if request.HasField("flow_name") else None,
            root=run_id(request.root_run_id, "root_run_id") if request.HasField("root_run_id") else None,
            parent=run_id(request.parent_run_id, "parent_run_id") if request.HasField("parent_run_id") else None,
            roots_only=request.roots_only,
            max_depth=request.max_depth if request.HasField("max_depth") else None,
            limit=request.limit if request.HasField("limit") else LISTED,
            offset=request.offset,
        )
        return runs_pb2.ListRunsResponse(runs=[run_summary(run) for run in await self._operations.list_runs(query)])

    async def GetRun(self, request: runs_pb2.GetRunRequest, context: Context) -> runs_pb2.GetRunResponse:
        """The run, and as many of its steps as fit into a message of ordinary size."""
        run = run_id(request.run_id)
        summary = await self._operations.get_run(run, wait_s(request, self._operations))
        answer = runs_pb2.GetRunResponse(summary=run_summary(summary))
        size = 0
        async for step in self._operations.steps(run):
            told = step_status(step)
            size += told.ByteSize()
            if size > SOME_STEPS_BYTES:
                break
            answer.steps.append(told)
        return answer

    async def DeleteRun(self, request: runs_pb2.DeleteRunRequest, context: Context) -> runs_pb2.DeleteRunResponse:
        """Only an ended root run."""
        await self._operations.delete_run(run_id(request.run_id))
        return runs_pb2.DeleteRunResponse()

    async def GetRunItems(self, request: runs_pb2.GetRunItemsRequest, context: Context) -> runs_pb2.GetRunItemsResponse:
        """All items, each as it stands."""
        return runs_pb2.GetRunItemsResponse(results=await results(self._operations, run_id(request.run_id), request.result_order))

    async def GetRunFlow(self, request: runs_pb2.GetRunFlowRequest, context: Context) -> runs_pb2.GetRunFlowResponse:
        """The flow as it was stored, without overrides."""
        summary = await self._operations.get_run(run_id(request.run_id))
        found = await self._operations.get_flow(summary.flow)
        return runs_pb2.GetRunFlowResponse(flow=to_struct(found.document), flow_id=found.flow)

    async def GetRunSteps(self, request: runs_pb2.GetRunStepsRequest, context: Context) -> runs_pb2.GetRunStepsResponse:
        """Steps that something needed, of one item or of all."""
        item = request.item_index if request.HasField("item_index") else None
        steps = self._operations.steps(run_id(request.run_id), item)
        return runs_pb2.GetRunStepsResponse(steps=[step_status(step) async for step in steps])

    async def GetStepDetail(self, request: runs_pb2.GetStepDetailRequest, context: Context) -> runs_pb2.GetStepDetailResponse:
        """One step of one item (the first, unless it says which), now or as of a sequence number."""
        as_of = request.asof if request.HasField("asof") else None
        step = await self._operations.step(run_id(request.run_id), request.step_id, request.item_index, as_of)
        return runs_pb2.GetStepDetailResponse(step=step_status(step))

    async def GetRunEvents(self, request: runs_pb2.GetRunEventsRequest, context: Context) -> AsyncIterator[runs_pb2.StatusEvent]:
        """From sequence number `since` on, until the run is over."""
        wanted = _filter(request)
        async for page in self._operations.events(wanted.run, behind(request.since)):
            for event in wanted.wanted(page):
                yield status_event(event)

    async def CancelRun(self, request: runs_pb2.CancelRunRequest, context: Context) -> runs_pb2.CancelRunResponse:
        """Returns once it is journaled; a run that is over stays as it ended."""
        return runs_pb2.CancelRunResponse(summary=run_summary(await self._operations.cancel(run_id(request.run_id))))


def _filter(request: runs_pb2.GetRunEventsRequest) -> EventFilter:
    known = [int(kind) for kind in EventType]
    strange = [kind for kind in request.event_types if int(kind) not in known]
    if strange:
        raise BadRequest(f"event_types {strange[:5]} are not of StatusEventType", field="event_types", hint="leave it out for all of them")
    return EventFilter(
        run=run_id(request.run_id),
        types=frozenset(EventType(kind) for kind in request.event_types),
        sub_runs=request.include_sub_runs,
        results=request.include_results,
    )
