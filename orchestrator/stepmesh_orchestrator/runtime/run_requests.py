"""Requests about runs: their summaries, items, steps, events, causes, and their end for good."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.ids import Namespace, RunId
from stepmesh_broker.protocol.messages import Refused
from stepmesh_orchestrator.core.commands import DeleteRun
from stepmesh_orchestrator.core.explain import Cause, explain
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.rows import RunRow
from stepmesh_orchestrator.core.state import State
from stepmesh_orchestrator.ports import JournalTrimmed, RunQuery
from stepmesh_orchestrator.runtime import answers
from stepmesh_orchestrator.runtime.builds import build_note
from stepmesh_orchestrator.runtime.history import History
from stepmesh_orchestrator.runtime.leases import Key, Leases
from stepmesh_orchestrator.runtime.owners import moving
from stepmesh_orchestrator.runtime.presence import Presence
from stepmesh_orchestrator.runtime.run_view import Live, RunView, unknown_run
from stepmesh_orchestrator.runtime.shard import Shard
from stepmesh_orchestrator.runtime.waiters import heard

MAX_WAIT_MS = 60_000
"""A long poll is answered after this time at the latest; clients ask again."""
PAGE = 1_000
"""Runs, items or events of one answer at most."""
MAX_CAUSES = 200
"""Lines of one `explain` at most."""


class RunRequests:
    """Their answers."""

    def __init__(self, view: RunView, history: History, presence: Presence) -> None:
        self._view = view
        self._store = view.ports.store
        self._history = history
        self._presence = presence
        self.answers: dict[type, Callable[[Any], Awaitable[api.ApiAnswer]]] = {
            api.GetRun: self._get_run,
            api.DeleteRun: self._delete_run,
            api.GetItems: self._get_items,
            api.GetSteps: self._get_steps,
            api.ListRuns: self._list_runs,
            api.GetEvents: self._get_events,
            api.Explain: self._explain,
        }

    async def _get_run(self, request: api.GetRun) -> api.ApiAnswer:
        live = await self._view.live(request.run)
        if live is not None and request.wait_ms > 0:
            await live.shard.over.wait(request.run, min(request.wait_ms, MAX_WAIT_MS) / 1000)
        row = await self._view.row(request.run)
        if row is None:
            return unknown_run(request.run)
        results = (await self._items(request.run, 0, PAGE)).results if request.results else []
        return api.RunInfo(self._view.summary(row), results)

    async def _delete_run(self, request: api.DeleteRun) -> api.ApiAnswer:
        row = await self._view.row(request.run)
        if row is None:
            return unknown_run(request.run)
        if row.root != row.run:
            return Refused("SM-5014", f"run {row.run} is a sub-run and goes with its root run {row.root}", "delete the root run")
        service = self._view.partitions.get(row.partition)
        if service is None:  # it was handed over meanwhile
            return moving(row.partition)
        shard = service.shard
        answer = await shard.command(DeleteRun(row.run, [row.run, *await self._keyed(row)]))
        return answer if isinstance(answer, Refused) else api.Deleted()

    async def _keyed(self, root: RunRow) -> list[RunId]:
        """Sub-runs that were submitted with a run key of their own."""
        keyed: list[RunId] = []
        query = RunQuery(root.namespace, root=root.run, limit=PAGE)
        while rows := await self._store.list_runs(query):
            keyed += [row.run for row in rows if row.run_key is not None and row.run != root.run]
            query = query._replace(offset=query.offset + len(rows))
        return keyed

    async def _get_items(self, request: api.GetItems) -> api.ApiAnswer:
        first, limit = max(0, request.first), max(1, min(request.limit, PAGE))
        if not request.live:
            return await self._items(request.run, first, limit)
        row = await self._view.row(request.run)
        if row is None:
            return unknown_run(request.run)
        await self._view.projected()
        ended = {item.item: answers.item_result(item) for item in await self._store.get_items(request.run, first, limit)}
        wanted = range(first, min(row.total, first + limit))
        page = answers.fitting(
            [ended.get(index) or answers.item_without_end(row, index) for index in wanted], answers.item_bytes, self._view.page_bytes
        )
        return api.Items(page, more=first + len(page) < row.total)

    async def _items(self, run: RunId, first: int, limit: int) -> api.Items:
        await self._view.projected()
        rows = await self._store.get_items(run, first, limit + 1)
        page = answers.fitting([answers.item_result(row) for row in rows[:limit]], answers.item_bytes, self._view.page_bytes)
        return api.Items(page, more=len(page) < len(rows))

    async def _steps_as_of(self, request: api.GetSteps, as_of: int) -> api.ApiAnswer:
        row = await self._view.row(request.run)
        if row is None:
            return unknown_run(request.run)
        first, limit = (max(0, request.first), PAGE) if request.item is None else (request.item, 1)
        ended, active = await self._history.steps(row, as_of, first, limit)
        found = {one.item: answers.ended_steps(one) for one in ended}
        found.update((item.index, answers.live_steps(item, Leases())) for item in active)
        steps = [step for index in sorted(found) for step in found[index]]
        page = answers.whole_items(steps, self._view.page_bytes)
        return api.Steps(page, more=len(page) < len(steps) or (request.item is None and first + limit < row.total))

    async def _get_steps(self, request: api.GetSteps) -> api.ApiAnswer:
        if request.as_of is not None:
            return await self._steps_as_of(request, request.as_of)
        live = await self._view.live(request.run)
        active = {} if live is None else dict(live.run.items)
        await self._view.projected()
        if live is None and await self._store.get_run(request.run) is None:
            return unknown_run(request.run)
        first, limit = (max(0, request.first), PAGE) if request.item is None else (request.item, 1)
        rows = await self._store.get_items(request.run, first, limit)
        ended = {row.item: row for row in rows if request.item in (None, row.item)}
        wanted = sorted({*ended, *(index for index in active if index >= first and request.item in (None, index))})
        steps: list[api.StepStatus] = []
        for index in wanted[:limit]:
            if index in ended:
                steps.extend(answers.ended_steps(ended[index]))
            elif live is not None:
                steps.extend(answers.live_steps(active[index], live.shard.dispatcher.leases, live.shard.ownership.journal_id))
        page = answers.whole_items(steps, self._view.page_bytes)
        return api.Steps(page, more=len(page) < len(steps) or (request.item is None and (len(wanted) > limit or len(rows) == limit)))

    async def _list_runs(self, request: api.ListRuns) -> api.ApiAnswer:
        await self._view.projected()
        rows = await self._store.list_runs(listing(self._view.namespace, request))
        return api.Runs([self._view.summary(self._view.fresh(row)) for row in rows])

    async def _get_events(self, request: api.GetEvents) -> api.ApiAnswer:
        row = await self._view.row(request.run)
        if row is None:
            return unknown_run(request.run)
        live = await self._view.live(request.run)
        if live is None or request.wait_ms <= 0:
            return await self._events(row, request, live)
        clock = asyncio.get_running_loop().time
        until = clock() + min(request.wait_ms, MAX_WAIT_MS) / 1000
        with live.shard.moved.listen(row.root) as moved:
            while True:
                moved.clear()
                page = await self._events(row, request, live)
                if page.events or page.ended or not await heard(moved, until - clock()):
                    return page

    async def _events(self, row: RunRow, request: api.GetEvents, live: Live | None) -> api.Events:
        known = partial(_flows_below, live)
        try:
            return await self._history.page(row, request.after, max(1, min(request.limit, PAGE)), self._view.page_bytes, known)
        except JournalTrimmed as problem:
            message = f"the journal does not hold any more what run {row.run} did right behind position {request.after}"
            hint = "ask for later events; limits.retentionHours says how long the journal reaches back"
            raise JournalTrimmed(message, hint=hint) from problem

    async def _explain(self, request: api.Explain) -> api.ApiAnswer:
        live = await self._view.live(request.run)
        if live is None:
            row = await self._view.row(request.run)
            return unknown_run(request.run) if row is None else api.Explained([f"the run is over: {row.status}"])
        shard, state, run = live
        causes = explain(state, run, self._view.ports.clock.now_ms(), shard.session)
        lines = [answers.cause_line(one, self._note(shard, state, one)) for one in causes[:MAX_CAUSES]]
        if len(causes) > MAX_CAUSES:
            lines.append(f"… and {len(causes) - MAX_CAUSES} more")
        return api.Explained(lines)

    def _note(self, shard: Shard, state: State, cause: Cause) -> str:
        if cause.item is None or cause.step is None:
            return ""
        item = state.runs[RunId(cause.run)].items[cause.item]
        if cause.kind != "awaiting":
            note = self._pool_note(shard, cause.run, cause.item, cause.step)
            return note + build_note(shard.session, self._presence, item, cause.step)
        return f"; token {answers.step_token(item, cause.step, shard.ownership.journal_id)}"

    def _pool_note(self, shard: Shard, run: str, item: int, step: int) -> str:
        key: Key = (RunId(run), item, step)
        lease = shard.dispatcher.leases.held.get(key)
        if lease is not None:
            return answers.progress_text(lease)
        flight = shard.dispatcher.leases.flights.get(key)
        if flight is None:
            return ""
        workers = self._presence.workers(flight.pool)
        why = self._presence.troubles().get(flight.pool, "start one with `stepmesh worker`")
        return f"; pool {flight.pool} has {workers} workers" + ("" if workers else f": {why}")


def _flows_below(live: Live | None) -> Mapping[RunId, CompiledFlow]:
    """Of a live run and its sub-runs; nothing of one that is over."""
    flows = {} if live is None else {live.run.id: live.run.flow}
    for run in () if live is None else live.state.runs.values():  # a sub-run stands behind its parent
        if run.parent is not None and run.parent.run in flows:
            flows[run.id] = run.flow
    return flows


def listing(namespace: Namespace, request: api.ListRuns) -> RunQuery:
    """The request as the store is asked: of a tenant, else of the deployment's own namespace."""
    return RunQuery(
        request.namespace or namespace, request.status, request.flow_name, request.root, request.parent, request.roots_only,
        max(0, min(request.limit, PAGE)), max(0, request.offset), request.max_depth,
    )  # fmt: skip
