"""Answers to api requests: translate, look up, delegate. No rule of the engine is here.

Live runs are answered from the shards of this process, ended ones from the read model.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from stepmesh_broker.errors import MalformedMessage, MessageTooLarge, StepmeshError
from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.codec import decode_api_request, encode
from stepmesh_broker.protocol.ids import BlobId, FlowId, Namespace, Partition, Pool, RunId, content_id
from stepmesh_broker.protocol.messages import Refused
from stepmesh_orchestrator.core.decide.offered import core_components
from stepmesh_orchestrator.core.explain import explain
from stepmesh_orchestrator.core.flow.compile import compile_flow
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.flow.diagnostics import Diagnostics, FlowInvalid
from stepmesh_orchestrator.core.flow.document import load
from stepmesh_orchestrator.core.flow.jsontext import dumps
from stepmesh_orchestrator.core.projection import run_row
from stepmesh_orchestrator.core.rows import RunRow
from stepmesh_orchestrator.core.state import Run
from stepmesh_orchestrator.ports import BlobRecord, RunQuery
from stepmesh_orchestrator.runtime import answers
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.history import History
from stepmesh_orchestrator.runtime.partition import PartitionService, Ports
from stepmesh_orchestrator.runtime.presence import Presence
from stepmesh_orchestrator.runtime.shard import Shard
from stepmesh_orchestrator.runtime.waiters import heard

log = logging.getLogger("stepmesh.api")
_T = TypeVar("_T")

MAX_WAIT_MS = 60_000
"""A long poll is answered after this time at the latest; clients ask again."""
PAGE = 1_000
"""Runs, items or events of one answer at most."""
MAX_CAUSES = 200
"""Lines of one `explain` at most."""
_IN_THREAD_BYTES = 100_000
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
        self._history = History(ports.journal, flows)
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
            return self._checked(encode(await self.answer(request)))
        except MalformedMessage as problem:
            return encode(Refused(problem.code, problem.message, "client and server may be of different versions"))
        except StepmeshError as problem:
            return encode(Refused(problem.code, problem.message, problem.hint))
        except Exception:
            log.exception("SM-5900 a request cannot be answered")
            return encode(Refused("SM-5900", "the orchestrator failed to answer; its log has the details", "report it with that log"))

    async def answer(self, request: api.ApiRequest) -> api.ApiAnswer:
        """One request. Raises `StepmeshError` of ports."""
        return await self._answers[type(request)](request)

    async def _get_info(self, request: api.GetInfo) -> api.ApiAnswer:
        return self._info

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
                data = await _aside(_compact, data)
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
        live = await self._live(request.run)
        if live is not None and request.wait_ms > 0:
            await live[0].over.wait(request.run, min(request.wait_ms, MAX_WAIT_MS) / 1000)
        row = await self._row(request.run)
        if row is None:
            return _unknown_run(request.run)
        results = (await self._items(request.run, 0, PAGE)).results if request.results else []
        return api.RunInfo(answers.summary(row), results)

    async def _get_items(self, request: api.GetItems) -> api.ApiAnswer:
        return await self._items(request.run, max(0, request.first), request.limit)

    async def _items(self, run: RunId, first: int, limit: int) -> api.Items:
        await self._projected()
        asked = max(1, min(limit, PAGE))
        rows = await self._ports.store.get_items(run, first, asked + 1)
        page = answers.fitting([answers.item_result(row) for row in rows[:asked]], answers.item_bytes, self._page_bytes)
        return api.Items(page, more=len(page) < len(rows))

    async def _get_steps(self, request: api.GetSteps) -> api.ApiAnswer:
        live = await self._live(request.run)
        active = {} if live is None else dict(live[1].items)
        await self._projected()
        if live is None and await self._ports.store.get_run(request.run) is None:
            return _unknown_run(request.run)
        first, limit = (max(0, request.first), PAGE) if request.item is None else (request.item, 1)
        rows = await self._ports.store.get_items(request.run, first, limit)
        ended = {row.item: row for row in rows if request.item in (None, row.item)}
        wanted = sorted({*ended, *(index for index in active if index >= first and request.item in (None, index))})
        steps: list[api.StepStatus] = []
        for index in wanted[:limit]:
            if index in ended:
                steps.extend(answers.ended_steps(ended[index]))
            elif live is not None:
                steps.extend(answers.live_steps(active[index], live[0].dispatcher.leases))
        page = answers.fitting(steps, answers.step_bytes, self._page_bytes)
        return api.Steps(page, more=len(page) < len(steps) or (request.item is None and (len(wanted) > limit or len(rows) == limit)))

    async def _list_runs(self, request: api.ListRuns) -> api.ApiAnswer:
        query = RunQuery(
            self._namespace, request.status, request.flow_name, request.root, request.parent, request.roots_only,
            max(0, min(request.limit, PAGE)), max(0, request.offset),
        )  # fmt: skip
        await self._projected()
        rows = await self._ports.store.list_runs(query)
        return api.Runs([answers.summary(self._fresh(row)) for row in rows])

    async def _get_events(self, request: api.GetEvents) -> api.ApiAnswer:
        row = await self._row(request.run)
        if row is None:
            return _unknown_run(request.run)
        live = await self._live(request.run)
        if live is None or request.wait_ms <= 0:
            return await self._events(row, request)
        clock = asyncio.get_running_loop().time
        until = clock() + min(request.wait_ms, MAX_WAIT_MS) / 1000
        with live[0].moved.listen(row.root) as moved:
            while True:
                moved.clear()
                page = await self._events(row, request)
                if page.events or page.ended or not await heard(moved, until - clock()):
                    return page

    async def _events(self, row: RunRow, request: api.GetEvents) -> api.Events:
        return await self._history.page(row, request.after, max(1, min(request.limit, PAGE)), self._page_bytes)

    async def _explain(self, request: api.Explain) -> api.ApiAnswer:
        live = await self._live(request.run)
        if live is None:
            row = await self._row(request.run)
            return _unknown_run(request.run) if row is None else api.Explained([f"the run is over: {row.status}"])
        shard, run = live
        causes = explain(shard.session.state, run, self._ports.clock.now_ms())
        lines = [answers.cause_line(one, self._pool_note(shard, one.run, one.item, one.step)) for one in causes[:MAX_CAUSES]]
        if len(causes) > MAX_CAUSES:
            lines.append(f"… and {len(causes) - MAX_CAUSES} more")
        return api.Explained(lines)

    def _pool_note(self, shard: Shard, run: str, item: int | None, step: int | None) -> str:
        if item is None or step is None:
            return ""
        key = (RunId(run), item, step)
        lease = shard.dispatcher.leases.held.get(key)
        if lease is not None:
            return answers.progress_text(lease)
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

    async def _live(self, run: RunId) -> tuple[Shard, Run] | None:
        """A live run, and what the journal holds of it until the caller awaits something."""
        for service in self._partitions.values():
            await service.shard.settled()
            found = service.shard.session.state.runs.get(run)
            if found is not None:
                return service.shard, found
        return None

    async def _row(self, run: RunId) -> RunRow | None:
        live = await self._live(run)
        if live is not None:
            return run_row(live[0].session.state, live[1])
        await self._projected()
        return await self._ports.store.get_run(run)

    async def _projected(self) -> None:
        for service in self._partitions.values():
            await service.shard.projector.reached(service.shard.sequence)

    def _fresh(self, row: RunRow) -> RunRow:
        """A listed run as it is by now; one that has ended since stays as it was listed."""
        for service in self._partitions.values():
            live = service.shard.session.state.runs.get(row.run)
            if live is not None:
                return run_row(service.shard.session.state, live)
        return row

    @property
    def _page_bytes(self) -> int:
        """Payloads of one answer, so that it fits with all that is around them."""
        return self._ports.broker.max_message_bytes // 2

    def _checked(self, answer: bytes) -> bytes:
        limit = self._ports.broker.max_message_bytes
        if len(answer) <= limit:
            return answer
        problem = MessageTooLarge.of(len(answer), limit)
        return encode(Refused(problem.code, f"the answer cannot be sent: {problem.message}", problem.hint))


async def _aside(work: Callable[[bytes], _T], data: bytes) -> _T:
    """Small data at once; large data in a thread, so that leases are renewed meanwhile."""
    return await asyncio.to_thread(work, data) if len(data) > _IN_THREAD_BYTES else work(data)


def _compile(data: bytes) -> tuple[CompiledFlow | None, Diagnostics]:
    return compile_flow(load(data))


def _compact(data: bytes) -> bytes:
    return dumps(load(data, name="blob").value)


def _unknown_run(run: RunId) -> Refused:
    return Refused("SM-5003", f"there is no run {run}", "`stepmesh list` shows the runs")
