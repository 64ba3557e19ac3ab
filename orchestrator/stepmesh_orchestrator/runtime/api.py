"""Answers to api requests: translate, look up, delegate. No rule of the engine is here.

Live runs are answered from the shards of this process, ended ones from the read model.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from stepmesh_broker.errors import MalformedMessage, StepmeshError
from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.codec import decode_api_request, encode
from stepmesh_broker.protocol.ids import BlobId, FlowId, Namespace, Partition, Pool, RunId, content_id
from stepmesh_broker.protocol.messages import Refused
from stepmesh_orchestrator.core.decide.offered import core_components
from stepmesh_orchestrator.core.explain import explain
from stepmesh_orchestrator.core.flow.compile import compile_flow
from stepmesh_orchestrator.core.flow.diagnostics import Diagnostics, FlowInvalid
from stepmesh_orchestrator.core.flow.document import load
from stepmesh_orchestrator.core.flow.jsontext import dumps
from stepmesh_orchestrator.core.projection import run_row, step_row
from stepmesh_orchestrator.core.rows import RunRow, StepRow
from stepmesh_orchestrator.core.state import PHASE_NAMES, RUNNING, Run
from stepmesh_orchestrator.ports import BlobRecord, RunQuery
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.history import read_events
from stepmesh_orchestrator.runtime.partition import PartitionService, Ports
from stepmesh_orchestrator.runtime.presence import Presence
from stepmesh_orchestrator.runtime.shard import Shard

MAX_WAIT_MS = 60_000
"""A long poll is answered after this time at the latest; clients ask again."""
PAGE = 1_000
_BUILTIN = Pool("builtin")


class Api:
    """The api subject's server in one process."""

    def __init__(
        self,
        ports: Ports,
        namespace: Namespace,
        info: api.Info,
        flows: FlowRegistry,
        presence: Presence,
        partitions: Mapping[Partition, PartitionService],
        component_path: Callable[[Pool, str], str],
    ) -> None:
        self._ports = ports
        self._namespace = namespace
        self._info = info
        self._flows = flows
        self._presence = presence
        self._partitions = partitions
        self._component_path = component_path
        self._answers: dict[type, Callable[[Any], Awaitable[api.ApiAnswer]]] = {
            api.GetInfo: self._get_info,
            api.StoreFlow: self._store_flow,
            api.GetFlow: self._get_flow,
            api.PutBlob: self._put_blob,
            api.GetBlob: self._get_blob,
            api.GetRun: self._get_run,
            api.GetItems: self._get_items,
            api.GetSteps: self._get_steps,
            api.ListRuns: self._list_runs,
            api.GetEvents: self._get_events,
            api.Explain: self._explain,
            api.ListComponents: self._list_components,
            api.ListPools: self._list_pools,
        }

    async def serve(self, data: bytes) -> bytes:
        """Bytes in, bytes out; what goes wrong is a `Refused`."""
        try:
            request = decode_api_request(data)
            return encode(await self.answer(request))
        except MalformedMessage as problem:
            return encode(Refused(problem.code, problem.message, "client and server may be of different versions"))
        except StepmeshError as problem:
            return encode(Refused(problem.code, problem.message, problem.hint))

    async def answer(self, request: api.ApiRequest) -> api.ApiAnswer:
        """One request. Raises `StepmeshError` of ports."""
        return await self._answers[type(request)](request)

    async def _get_info(self, request: api.GetInfo) -> api.ApiAnswer:
        return self._info

    async def _store_flow(self, request: api.StoreFlow) -> api.ApiAnswer:
        try:
            document = load(request.document)
        except FlowInvalid as problem:
            return api.FlowStored(FlowId(""), False, _diagnostics(problem.diagnostics))
        flow, diagnostics = compile_flow(document)
        if flow is None or diagnostics.failed:
            return api.FlowStored(FlowId(""), False, _diagnostics(diagnostics))
        if not request.dry_run:
            await self._flows.add(flow.document, flow)
        return api.FlowStored(flow.id, not request.dry_run, _diagnostics(diagnostics))

    async def _get_flow(self, request: api.GetFlow) -> api.ApiAnswer:
        record = await self._ports.store.get_flow(request.flow)
        if record is None:
            return Refused("SM-5004", f"there is no flow with id {request.flow}", "`stepmesh submit` stores the flow that it is given")
        return api.FlowData(record.id, record.document)

    async def _put_blob(self, request: api.PutBlob) -> api.ApiAnswer:
        if request.kind not in ("data", "flow", "binary"):
            return Refused("SM-5009", f"{request.kind!r} is not a kind of blob", "use data, flow or binary")
        data = request.data
        if request.kind != "binary":
            try:
                data = dumps(load(data, name="blob").value)
            except (FlowInvalid, ValueError) as problem:
                return Refused("SM-5009", f"the blob is not JSON: {problem}", "send JSON text, or kind binary")
        blob = BlobId(content_id(data))
        await self._ports.store.put_blob(BlobRecord(blob, request.kind, data, request.filename, request.content_type))
        return api.BlobStored(blob)

    async def _get_blob(self, request: api.GetBlob) -> api.ApiAnswer:
        record = await self._ports.store.get_blob(request.blob)
        if record is not None:
            return api.BlobData(record.id, record.kind, record.data, record.filename, record.content_type)
        flow = await self._ports.store.get_flow(FlowId(request.blob))
        if flow is not None:
            return api.BlobData(request.blob, "flow", flow.document)
        return Refused("SM-5005", f"there is no blob with id {request.blob}", "ids are the SHA-256 of the content")

    async def _get_run(self, request: api.GetRun) -> api.ApiAnswer:
        live = self._live(request.run)
        if live is not None and request.wait_ms:
            await live[0].over.wait(request.run, min(request.wait_ms, MAX_WAIT_MS) / 1000)
        row = await self._row(request.run)
        if row is None:
            return _unknown_run(request.run)
        results = await self._results(request.run, 0, PAGE) if request.results else []
        return api.RunInfo(_summary(row), results)

    async def _get_items(self, request: api.GetItems) -> api.ApiAnswer:
        await self._projected(request.run)
        return api.Items(await self._results(request.run, request.first, min(request.limit, PAGE)))

    async def _get_steps(self, request: api.GetSteps) -> api.ApiAnswer:
        live = self._live(request.run)
        await self._projected(request.run)
        if live is None and await self._ports.store.get_run(request.run) is None:
            return _unknown_run(request.run)
        first, limit = (0, PAGE) if request.item is None else (request.item, 1)
        ended = await self._ports.store.get_items(request.run, first, limit)
        steps = [_step(row.item, step) for row in ended if request.item in (None, row.item) for step in row.steps]
        if live is not None:
            steps.extend(_live_steps(live[1], request.item))
        return api.Steps(sorted(steps, key=lambda step: (step.item, step.step)))

    async def _list_runs(self, request: api.ListRuns) -> api.ApiAnswer:
        query = RunQuery(
            self._namespace, request.status, request.flow_name, request.root, request.parent, request.roots_only,
            min(request.limit, PAGE), request.offset,
        )  # fmt: skip
        for service in self._partitions.values():
            await service.shard.projector.reached(service.shard.sequence)
        rows = await self._ports.store.list_runs(query)
        return api.Runs([_summary(self._fresh(row)) for row in rows])

    async def _get_events(self, request: api.GetEvents) -> api.ApiAnswer:
        row = await self._row(request.run)
        if row is None:
            return _unknown_run(request.run)
        while True:
            live = self._live(request.run)
            page = await read_events(
                self._ports.journal, self._flows, row.partition, request.run, row.created_sequence, request.after, min(request.limit, PAGE)
            )
            if page.events or page.ended or live is None or not request.wait_ms:
                return page
            if not await live[0].moved.wait(request.run, min(request.wait_ms, MAX_WAIT_MS) / 1000):
                return page

    async def _explain(self, request: api.Explain) -> api.ApiAnswer:
        live = self._live(request.run)
        if live is None:
            row = await self._row(request.run)
            return _unknown_run(request.run) if row is None else api.Explained([f"the run is over: {row.status}"])
        shard, run = live
        lines: list[str] = []
        for cause in explain(shard.session.state, run, self._ports.clock.now_ms()):
            where = "" if cause.item is None else f"item {cause.item}, {cause.step_id}: "
            lines.append(f"{where}{cause.text}{self._pool_note(shard, cause.run, cause.item, cause.step)}")
        return api.Explained(lines)

    def _pool_note(self, shard: Shard, run: str, item: int | None, step: int | None) -> str:
        if item is None or step is None:
            return ""
        key = (RunId(run), item, step)
        lease = shard.dispatcher.leases.held.get(key)
        if lease is not None:
            return f"; {lease.told()}"
        flight = shard.dispatcher.leases.flights.get(key)
        if flight is None:
            return ""
        workers = self._presence.workers(flight.pool)
        return f"; pool {flight.pool} has {workers} workers" + ("" if workers else ": start one with `stepmesh worker`")

    async def _list_components(self, request: api.ListComponents) -> api.ApiAnswer:
        self._presence.forget_silent()
        found = [api.ComponentEntry(self._component_path(_BUILTIN, one.path), _BUILTIN, one, 1) for one in core_components()]
        for pool, components in self._presence.offered().items():
            for path, component in components.items():
                name = Pool(pool)
                found.append(api.ComponentEntry(self._component_path(name, path), name, component, self._presence.workers(pool)))
        return api.Components(sorted(found, key=lambda entry: entry.path))

    async def _list_pools(self, request: api.ListPools) -> api.ApiAnswer:
        self._presence.forget_silent()
        held: dict[str, int] = {}
        flying: dict[str, int] = {}
        for service in self._partitions.values():
            leases = service.shard.dispatcher.leases
            for key, flight in leases.flights.items():
                counts = held if key in leases.held else flying
                counts[flight.pool] = counts.get(flight.pool, 0) + 1
        pools: list[api.PoolEntry] = []
        for pool in sorted({*held, *flying, *self._presence.pools()}):
            workers = [
                api.WorkerEntry(seen.hello.worker, seen.hello.capacity, seen.hello.running, seen.hello.version, seen.at_ms)
                for seen in self._presence.seen(pool)
            ]
            pools.append(api.PoolEntry(Pool(pool), flying.get(pool, 0), held.get(pool, 0), workers))
        return api.Pools(pools)

    def _live(self, run: RunId) -> tuple[Shard, Run] | None:
        for service in self._partitions.values():
            found = service.shard.session.state.runs.get(run)
            if found is not None:
                return service.shard, found
        return None

    async def _row(self, run: RunId) -> RunRow | None:
        live = self._live(run)
        if live is not None:
            return run_row(live[0].session.state, live[1])
        await self._projected(run)
        return await self._ports.store.get_run(run)

    async def _projected(self, run: RunId) -> None:
        for service in self._partitions.values():
            await service.shard.projector.reached(service.shard.sequence)

    def _fresh(self, row: RunRow) -> RunRow:
        live = self._live(row.run)
        return row if live is None else run_row(live[0].session.state, live[1])

    async def _results(self, run: RunId, first: int, limit: int) -> list[api.ItemResult]:
        rows = await self._ports.store.get_items(run, first, limit)
        return [api.ItemResult(row.item, row.status, row.result, row.finished_ms) for row in rows]


def _summary(row: RunRow) -> api.RunSummary:
    return api.RunSummary(
        row.run, row.namespace, row.partition, row.flow, row.flow_name, row.status, row.total, row.completed, row.failed, row.cancelled,
        row.created_ms, row.finished_ms, row.root, row.parent, row.parent_step, row.run_key, row.tags,
    )  # fmt: skip


def _step(item: int, row: StepRow, status: str | None = None) -> api.StepStatus:
    return api.StepStatus(
        item,
        row.step,
        row.step_id,
        row.component,
        status or row.status,
        row.attempt,
        row.output,
        row.failure,
        row.started_ms,
        row.finished_ms,
    )


def _live_steps(run: Run, index: int | None) -> list[api.StepStatus]:
    steps: list[api.StepStatus] = []
    for item in run.items.values():
        if index not in (None, item.index):
            continue
        for step, phase in enumerate(item.phases[:-1]):
            row = step_row(item, step)
            if row is not None:
                status = None if item.outcomes[step] is not None else PHASE_NAMES[phase] if phase != RUNNING else "running"
                steps.append(_step(item.index, row, status))
    return steps


def _diagnostics(diagnostics: Diagnostics) -> bytes:
    return msgspec.json.encode(
        [
            {
                "code": item.code, "level": item.level.name.lower(), "message": item.message, "path": item.path,
                "line": item.line, "column": item.column, "hint": item.hint,
            }
            for item in diagnostics.items
        ]
    )  # fmt: skip


def _unknown_run(run: RunId) -> Refused:
    return Refused("SM-5003", f"there is no run {run}", "`stepmesh list` shows the runs")
