"""Requests about what is stored by its content: flows, their variables, blobs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.ids import BlobId, FlowId, content_id
from stepmesh_broker.protocol.messages import Refused, Submit
from stepmesh_orchestrator.core.commands import PutSchedule, StartRun
from stepmesh_orchestrator.core.flow.compile import compile_flow
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow, Variable
from stepmesh_orchestrator.core.flow.diagnostics import Diagnostics, FlowInvalid
from stepmesh_orchestrator.core.flow.document import load
from stepmesh_orchestrator.core.flow.jsontext import dumps
from stepmesh_orchestrator.ports import BlobRecord
from stepmesh_orchestrator.runtime import answers
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.run_view import RunView
from stepmesh_orchestrator.runtime.shard import Shard

_T = TypeVar("_T")
_IN_THREAD_BYTES = 100_000


class FlowRequests:
    """Their answers."""

    def __init__(self, view: RunView, flows: FlowRegistry) -> None:
        self._view = view
        self._store = view.ports.store
        self._flows = flows
        self.answers: dict[type, Callable[[Any], Awaitable[api.ApiAnswer]]] = {
            api.StoreFlow: self._store_flow,
            api.GetFlow: self._get_flow,
            api.DeleteFlow: self._delete_flow,
            api.GetVariables: self._get_variables,
            api.PutBlob: self._put_blob,
            api.GetBlob: self._get_blob,
        }

    async def _store_flow(self, request: api.StoreFlow) -> api.ApiAnswer:
        try:
            flow, diagnostics = await _aside(_compile, request.document)
        except FlowInvalid as problem:
            return api.FlowStored(FlowId(""), False, answers.findings(problem.diagnostics))
        if flow is None or diagnostics.failed:
            return api.FlowStored(FlowId(""), False, answers.findings(diagnostics))
        if not request.dry_run:
            await self._flows.add(flow.document, flow)
        return api.FlowStored(flow.id, not request.dry_run, answers.findings(diagnostics))

    async def _get_flow(self, request: api.GetFlow) -> api.ApiAnswer:
        record = await self._store.get_flow(request.flow)
        if record is not None:
            return api.FlowData(record.id, record.document)
        blob = await self._compiled(request.flow)
        return unknown_flow(request.flow) if blob is None else api.FlowData(request.flow, blob.document)

    async def is_stored(self, flow: FlowId) -> bool:
        """As a flow, or as a blob of that kind."""
        blob = await self._store.get_blob(BlobId(flow))
        return (blob is not None and blob.kind == "flow") or await self._store.get_flow(flow) is not None

    async def take_out(self, flow: FlowId) -> Callable[[], Awaitable[None]]:
        """Remove it, whoever uses it; what puts it back."""
        record, blob = await self._store.get_flow(flow), await self._store.get_blob(BlobId(flow))

        async def put_back() -> None:
            if record is not None:
                await self._store.put_flow(record)
            if blob is not None:
                await self._store.put_blob(blob)

        await self._flows.remove(flow, _by_nobody)
        return put_back

    async def _delete_flow(self, request: api.DeleteFlow) -> api.ApiAnswer:
        flow = request.flow
        if not await self.is_stored(flow):
            return unknown_flow(flow)
        await self._view.projected()  # a replay without the flow could not tell the names of its steps
        if await self._flows.remove(flow, lambda: self._is_used(flow)):
            return api.Deleted()
        return used_flow(flow)

    async def _is_used(self, flow: FlowId) -> bool:
        """By a run that lives, as far as the journal knows, or that is about to begin. Nobody else can begin to use it meanwhile."""
        for service in tuple(self._view.partitions.values()):
            shard = service.shard
            if not await shard.settled() or uses(shard, flow):
                return True
        return False

    async def _get_variables(self, request: api.GetVariables) -> api.ApiAnswer:
        flow = await self._compiled(request.flow)
        if flow is None:
            return unknown_flow(request.flow)
        return api.Variables(request.flow, [_variable(one) for one in flow.variables.values()])

    async def _compiled(self, flow: FlowId) -> CompiledFlow | None:
        """None also for a blob that is no flow."""
        try:
            return await self._flows.load(flow)
        except FlowInvalid:
            return None

    async def _put_blob(self, request: api.PutBlob) -> api.ApiAnswer:
        if request.kind not in ("data", "flow", "binary"):
            return Refused("SM-5009", f"{request.kind!r} is not a kind of blob", "use data, flow or binary")
        data = request.data
        if request.kind != "binary":
            try:
                data = await _aside(_compact, data)
            except (FlowInvalid, ValueError) as problem:
                return Refused("SM-5009", f"the blob is not JSON: {problem}", "send JSON text, or kind binary")
        blob = BlobId(content_id(data))
        await self._store.put_blob(BlobRecord(blob, request.kind, data, request.filename, request.content_type))
        return api.BlobStored(blob)

    async def _get_blob(self, request: api.GetBlob) -> api.ApiAnswer:
        record = await self._store.get_blob(request.blob)
        if record is not None:
            return api.BlobData(record.id, record.kind, record.data, record.filename, record.content_type)
        flow = await self._store.get_flow(FlowId(request.blob))
        if flow is not None:
            return api.BlobData(request.blob, "flow", flow.document)
        return Refused("SM-5005", f"there is no blob with id {request.blob}", "ids are the SHA-256 of the content")


async def _by_nobody() -> bool:
    return False


def uses(shard: Shard, flow: FlowId) -> bool:
    """Whether a run that lives there uses it, or one that is about to begin, or a schedule."""
    state = shard.session.state
    if flow in state.dormant.flows or any(run.flow_id == flow for run in state.runs.values()):
        return True
    if any(entry.schedule.flow == flow for entry in state.schedules.entries.values()):
        return True
    waiting = shard.inputs
    return any(isinstance(message, Submit) and message.flow == flow for _, message, _ in waiting.messages) or any(
        (isinstance(command, StartRun) and command.submit.flow == flow)
        or (isinstance(command, PutSchedule) and command.schedule.flow == flow)
        for command, _ in waiting.commands
    )


def _variable(variable: Variable) -> api.Variable:
    schema = {key: member for key, member in variable.schema.items() if not (variable.secret and key == "default")}
    default = None if variable.secret else variable.default
    return api.Variable(
        variable.name, variable.required, dumps(schema), variable.description or None, default, variable.env_var, variable.secret
    )


async def _aside(work: Callable[[bytes], _T], data: bytes) -> _T:
    """Small data at once; large data in a thread, so that leases are renewed meanwhile."""
    return await asyncio.to_thread(work, data) if len(data) > _IN_THREAD_BYTES else work(data)


def _compile(data: bytes) -> tuple[CompiledFlow | None, Diagnostics]:
    return compile_flow(load(data))


def _compact(data: bytes) -> bytes:
    return dumps(load(data, name="blob").value)


def unknown_flow(flow: FlowId) -> Refused:
    """SM-5004."""
    return Refused("SM-5004", f"there is no flow with id {flow}", "`stepmesh submit` stores the flow that it is given")


def used_flow(flow: FlowId) -> Refused:
    """SM-5013."""
    return Refused(
        "SM-5013",
        f"flow {flow} is used by a run that has not ended, or by a schedule",
        "wait for its end or cancel it; delete the schedule",
    )
