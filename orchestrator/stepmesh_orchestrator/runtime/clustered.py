"""Answers of a process that owns a part of the partitions: what it cannot know itself it asks their owners for.

Invariant: what a client was told is in every later answer, whoever gives it: a question about a run goes to its owner, one about many
runs is answered from the read model after every owner has brought it up to its journal. No rule of the engine is here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, get_args

from msgspec import structs

from stepmesh_broker.protocol import api, peers, schedules
from stepmesh_broker.protocol.continuation import ContinueRun
from stepmesh_broker.protocol.ids import FlowId, Partition, RunId, partition_of
from stepmesh_broker.protocol.pools import ListPools
from stepmesh_broker.protocol.queries import AskQuery
from stepmesh_orchestrator.runtime.deployment_requests import DeploymentRequests
from stepmesh_orchestrator.runtime.flow_requests import FlowRequests, unknown_flow, used_flow
from stepmesh_orchestrator.runtime.owners import RETRY_S, Owners
from stepmesh_orchestrator.runtime.run_requests import MAX_WAIT_MS, listing
from stepmesh_orchestrator.runtime.run_view import RunView
from stepmesh_orchestrator.runtime.schedule_requests import PAGE, merged

SLICE_MS = 2_000
"""A wait is passed on in pieces: an owner that dies meanwhile holds up no more than that."""
AboutSchedule = (
    schedules.GetSchedule
    | schedules.DeleteSchedule
    | schedules.PauseSchedule
    | schedules.ResumeSchedule
    | schedules.TriggerSchedule
    | schedules.BackfillSchedule
)
ABOUT_SCHEDULE: tuple[type, ...] = get_args(AboutSchedule)
AboutRun = api.GetRun | api.GetItems | api.GetSteps | api.GetEvents | api.Explain | api.DeleteRun | ContinueRun | AskQuery


class ClusteredRequests:
    """Answers that need other owners, by kind of request; they stand in for those of a process that owns everything."""

    def __init__(self, view: RunView, owners: Owners, flows: FlowRequests, deployment: DeploymentRequests) -> None:
        self._view = view
        self._owners = owners
        self._store = view.ports.store
        self._flows = flows
        self._deployment = deployment
        self.answers: dict[type, Callable[[Any], Awaitable[api.ApiAnswer]]] = {
            api.GetRun: self._wait_for_run,
            api.GetEvents: self._wait_for_events,
            api.GetItems: self._about_run,
            api.GetSteps: self._about_run,
            api.Explain: self._about_run,
            api.DeleteRun: self._about_run,
            ContinueRun: self._about_run,
            AskQuery: self._about_run,
            api.ListRuns: self._list_runs,
            ListPools: self._list_pools,
            api.ListComponents: self._list_components,
            api.DeleteFlow: self._delete_flow,
            api.GetInfo: self._get_info,
            schedules.PutSchedule: self._put_schedule,
            **dict.fromkeys(ABOUT_SCHEDULE, self._about_schedule),
            schedules.ListSchedules: self._list_schedules,
        }

    # --- one run ------------------------------------------------------------------------------------------------

    async def _about_run(self, request: AboutRun) -> api.ApiAnswer:
        return await self._owners.pass_on(await self._home(request.run), request)

    async def _home(self, run: RunId) -> Partition:
        """Where it lives, or would if there were such a run. Only a sub-run that was born just now takes more than a look."""
        for partition, service in self._view.partitions.items():
            if run in service.shard.session.state.runs:
                return partition
        row = await self._store.get_run(run)
        if row is not None:
            return row.partition
        as_root = partition_of(run, self._owners.partitions)
        if isinstance(await self._owners.pass_on(as_root, api.GetRun(run)), api.RunInfo):
            return as_root
        await self._settle()
        row = await self._store.get_run(run)
        return as_root if row is None else row.partition

    async def _wait_for_run(self, request: api.GetRun) -> api.ApiAnswer:
        """Asked anew for each piece: the run's partition may have moved."""
        return await self._patiently(request, lambda answer: isinstance(answer, api.RunInfo) and answer.summary.finished_ms is None)

    async def _wait_for_events(self, request: api.GetEvents) -> api.ApiAnswer:
        return await self._patiently(request, lambda answer: isinstance(answer, api.Events) and not answer.events and not answer.ended)

    async def _patiently(self, request: api.GetRun | api.GetEvents, more: Callable[[api.ApiAnswer], bool]) -> api.ApiAnswer:
        clock = asyncio.get_running_loop().time
        until = clock() + min(request.wait_ms, MAX_WAIT_MS) / 1000
        home = await self._home(request.run)
        while True:
            wait_ms = max(0, min(SLICE_MS, round((until - clock()) * 1000)))
            asked = clock()
            answer = await self._owners.pass_on(home, structs.replace(request, wait_ms=wait_ms), wait_ms / 1000)
            if wait_ms == 0 or not more(answer):
                return answer
            if clock() - asked < RETRY_S:  # who answered does not own it any more
                await asyncio.sleep(RETRY_S)

    # --- many runs ----------------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        await self._owners.ask_all(peers.Settle(), peers.Settled)

    async def _list_runs(self, request: api.ListRuns) -> api.ApiAnswer:
        await self._settle()
        rows = await self._store.list_runs(listing(self._view.namespace, request))
        live: dict[Partition, list[RunId]] = {}
        for row in rows:
            if row.finished_ms is None:
                live.setdefault(row.partition, []).append(row.run)
        found = await asyncio.gather(*(self._owners.ask(home, peers.Refresh(runs), peers.Refreshed) for home, runs in live.items()))
        fresh = {summary.run: summary for answer in found for summary in answer.runs}
        return api.Runs([fresh.get(row.run) or self._view.summary(row) for row in rows])

    # --- schedules ----------------------------------------------------------------------------------------------

    async def _put_schedule(self, request: schedules.PutSchedule) -> api.ApiAnswer:
        return await self._owners.pass_on(self._home_of(request.schedule.id), request)

    async def _about_schedule(self, request: AboutSchedule) -> api.ApiAnswer:
        return await self._owners.pass_on(self._home_of(request.id), request)

    def _home_of(self, schedule: str) -> Partition:
        return schedules.home_of(self._view.namespace, schedule, self._owners.partitions)

    async def _list_schedules(self, request: schedules.ListSchedules) -> api.ApiAnswer:
        limit = max(1, min(request.limit, PAGE))
        told = await self._owners.ask_all(peers.TellSchedules(request.after, limit), peers.SchedulesTold)
        return merged([one.page for one in told], limit, self._view.page_bytes)

    # --- the deployment -----------------------------------------------------------------------------------------

    async def _get_info(self, request: api.GetInfo) -> api.ApiAnswer:
        info = self._deployment.info()
        return await self._owners.pass_on(Partition(0), request) if info is None else info

    async def _list_pools(self, request: ListPools) -> api.ApiAnswer:
        return self._deployment.pools(await self._owners.ask_all(peers.CountTasks(), peers.TaskCounts))

    async def _list_components(self, request: api.ListComponents) -> api.ApiAnswer:
        counts = await self._owners.ask_all(peers.CountTasks(), peers.TaskCounts)
        return self._deployment.components(counts)

    async def _delete_flow(self, request: api.DeleteFlow) -> api.ApiAnswer:
        """No process can keep all others from beginning to use a flow. So it is removed first, and put back if it is used after that:
        who begins later does not find it."""
        flow = request.flow
        if not await self._flows.is_stored(flow):
            return unknown_flow(flow)
        await self._settle()  # a replay without the flow could not tell the names of its steps
        if await self._is_used(flow):
            return used_flow(flow)
        put_back = await self._flows.take_out(flow)
        try:
            if not await self._is_used(flow, forget=True):
                return api.Deleted()
        except BaseException:
            await put_back()
            raise
        await put_back()
        return used_flow(flow)

    async def _is_used(self, flow: FlowId, *, forget: bool = False) -> bool:
        return any(one.used for one in await self._owners.ask_all(peers.FindFlow(flow, forget), peers.FlowFound))
