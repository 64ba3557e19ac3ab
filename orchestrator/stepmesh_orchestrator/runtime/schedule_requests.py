"""Requests about schedules: checked here, decided by the shard that has them.

Invariant: what is stored was checked, its flow is stored, and its input fits the flow; so what keeps a due time from starting a run is
what became of the flow since. An answer tells no more than what is journaled.
"""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from msgspec import structs

from stepmesh_broker.protocol import api, schedules
from stepmesh_broker.protocol.codec import encode
from stepmesh_broker.protocol.ids import RunId, scheduled_run_id
from stepmesh_broker.protocol.messages import Refused, Submit
from stepmesh_orchestrator.core import commands
from stepmesh_orchestrator.core.decide.schedules import unknown_schedule
from stepmesh_orchestrator.core.decide.submit import refusal_of
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.schedules import ACTIVE, BLOCKED, FINISHED, PAUSED, Entry
from stepmesh_orchestrator.recurrence import check, rule_of
from stepmesh_orchestrator.runtime.answers import fitting
from stepmesh_orchestrator.runtime.flow_requests import unknown_flow
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.inputs import Answer
from stepmesh_orchestrator.runtime.owners import PartitionMoving
from stepmesh_orchestrator.runtime.partition import PartitionService
from stepmesh_orchestrator.runtime.run_view import RunView
from stepmesh_orchestrator.runtime.shard import Shard

PAGE = 100
MAX_DUE_TIMES = 100
MAX_BACKFILL = 1_000
"""Runs that one backfill starts at most; they begin at once."""


class ScheduleRequests:
    """Their answers, from the partitions of this process."""

    def __init__(self, view: RunView, flows: FlowRegistry) -> None:
        self._view = view
        self._flows = flows
        self.answers: dict[type, Callable[[Any], Awaitable[api.ApiAnswer]]] = {
            schedules.PutSchedule: self._put,
            schedules.GetSchedule: self._get,
            schedules.ListSchedules: self._list,
            schedules.DeleteSchedule: self._delete,
            schedules.PauseSchedule: self._pause,
            schedules.ResumeSchedule: self._resume,
            schedules.TriggerSchedule: self._trigger,
            schedules.BackfillSchedule: self._backfill,
        }

    async def _put(self, request: schedules.PutSchedule) -> api.ApiAnswer:
        schedule = request.schedule
        check(schedule)
        service = self._home(schedule.id)
        flow = await self._flows.load(schedule.flow)
        if flow is None:
            return unknown_flow(schedule.flow)
        refusal = refusal_of(service.shard.session.settings, _sample(schedule, self._view), flow)
        if refusal is not None:
            return refusal
        return await self._told(service, schedule.id, commands.PutSchedule(self._view.namespace, schedule, request.replace))

    async def _get(self, request: schedules.GetSchedule) -> api.ApiAnswer:
        shard = self._home(request.id).shard
        await shard.settled()
        entry = shard.session.state.schedules.entries.get(request.id)
        return (
            unknown_schedule(request.id)
            if entry is None
            else info(entry, max(1, min(request.due_times, MAX_DUE_TIMES)), self._view.ports.clock.now_ms())
        )

    async def _list(self, request: schedules.ListSchedules) -> api.ApiAnswer:
        limit = max(1, min(request.limit, PAGE))
        now_ms = self._view.ports.clock.now_ms()
        pages = [await page(service.shard, request.after, limit, now_ms) for service in tuple(self._view.partitions.values())]
        return merged(pages, limit, self._view.page_bytes)

    async def _delete(self, request: schedules.DeleteSchedule) -> api.ApiAnswer:
        answer = await self._home(request.id).shard.command(commands.DeleteSchedule(request.id))
        return answer if isinstance(answer, Refused) else api.Deleted()

    async def _pause(self, request: schedules.PauseSchedule) -> api.ApiAnswer:
        return await self._told(self._home(request.id), request.id, commands.PauseSchedule(request.id))

    async def _resume(self, request: schedules.ResumeSchedule) -> api.ApiAnswer:
        return await self._told(self._home(request.id), request.id, commands.ResumeSchedule(request.id))

    async def _trigger(self, request: schedules.TriggerSchedule) -> api.ApiAnswer:
        shard = self._home(request.id).shard
        flow = await self._flow_of(shard, request.id)
        if isinstance(flow, Refused):
            return flow
        return _started(await shard.command(commands.TriggerSchedule(request.id, request.run, flow)), [request.run])

    async def _backfill(self, request: schedules.BackfillSchedule) -> api.ApiAnswer:
        shard = self._home(request.id).shard
        flow = await self._flow_of(shard, request.id)
        if isinstance(flow, Refused):
            return flow
        session = shard.session
        entry = session.state.schedules.entries.get(request.id)
        if entry is None:
            return unknown_schedule(request.id)
        dues = _dues(entry, request.from_ms, request.to_ms)
        if isinstance(dues, Refused):
            return dues
        about = f"{entry.namespace}/{request.id}/{request.key}"
        runs = [scheduled_run_id(about, due_ms, shard.partition, session.partitions) for due_ms in dues]
        return _started(await shard.command(commands.BackfillSchedule(request.id, dues, request.key, flow)), runs)

    async def _flow_of(self, shard: Shard, name: str) -> CompiledFlow | Refused:
        entry = shard.session.state.schedules.entries.get(name)
        if entry is None:
            return unknown_schedule(name)
        flow = entry.schedule.flow
        return await self._flows.load(flow) or unknown_flow(flow)

    async def _told(self, service: PartitionService, name: str, command: commands.Command) -> api.ApiAnswer:
        answer = await service.shard.command(command)
        if isinstance(answer, Refused):
            return answer
        return await self._get(schedules.GetSchedule(name))

    def _home(self, name: str) -> PartitionService:
        for service in self._view.partitions.values():
            home = schedules.home_of(self._view.namespace, name, service.shard.session.partitions)
            if service.partition == home:
                return service
        raise PartitionMoving(f"the partition of schedule {name} is not here", hint="ask again")


async def page(shard: Shard, after: str, limit: int, now_ms: int) -> schedules.Schedules:
    """The first schedules of a partition with an id above `after`."""
    await shard.settled()
    entries = shard.session.state.schedules.entries
    names = heapq.nsmallest(limit + 1, (name for name in entries if name > after))
    return schedules.Schedules([_brief(info(entries[name], 1, now_ms)) for name in names[:limit]], more=len(names) > limit)


def merged(pages: Iterable[schedules.Schedules], limit: int, max_bytes: int) -> schedules.Schedules:
    """One page of several: nothing behind the end of one that has more."""
    pages = list(pages)
    ends = [one.schedules[-1].schedule.id for one in pages if one.more]
    known = sorted((entry for one in pages for entry in one.schedules), key=lambda entry: entry.schedule.id)
    found = [entry for entry in known if not ends or entry.schedule.id <= min(ends)][:limit]
    kept = fitting(found, lambda entry: len(encode(entry)), max_bytes)
    return schedules.Schedules(kept, more=bool(ends) or len(kept) < len(known))


def info(entry: Entry, due_times: int, now_ms: int) -> schedules.ScheduleInfo:
    """A schedule as the api tells it. What comes of a paused one is what would if it were resumed now."""
    schedule = entry.schedule
    after_ms, rule = now_ms if schedule.paused else entry.after_ms, rule_of(schedule)
    coming = [] if entry.is_finished else rule.coming(after_ms, due_times)
    if schedule.max_runs:
        coming = coming[: schedule.max_runs - entry.fired]
    status = PAUSED if schedule.paused else BLOCKED if rule.trouble else ACTIVE if coming or entry.waiting_ms is not None else FINISHED
    return schedules.ScheduleInfo(
        schedule, status, entry.created_ms, coming, entry.fired, entry.skipped, list(entry.live), entry.waiting_ms, entry.last_due_ms,
        entry.last_run, entry.skipped_due_ms, rule.trouble or entry.skipped_reason,
    )  # fmt: skip


def _brief(told: schedules.ScheduleInfo) -> schedules.ScheduleInfo:
    return structs.replace(told, schedule=structs.replace(told.schedule, input=b"", variables=None))


def _sample(schedule: schedules.Schedule, view: RunView) -> Submit:
    """A submission as the schedule will make it."""
    return Submit(RunId(""), view.namespace, schedule.flow, [schedule.input], schedule.variables, None, schedule.max_concurrency)


def _dues(entry: Entry, from_ms: int, to_ms: int) -> list[int] | Refused:
    if not 0 < from_ms <= to_ms:
        return Refused("SM-5244", "a backfill begins after 1970 and ends no earlier than it begins", "give --from and --to in that order")
    coming = rule_of(entry.schedule).coming(from_ms - 1, MAX_BACKFILL + 1)
    dues = [due_ms for due_ms in coming if due_ms <= to_ms]
    if not dues:
        return Refused("SM-5244", f"schedule {entry.schedule.id} is not due in that time", "`stepmesh schedule show` tells when it is")
    if len(dues) > MAX_BACKFILL:
        return Refused("SM-5244", f"there are more than {MAX_BACKFILL} due times in that time", "fill it in several pieces")
    return dues


def _started(answer: Answer, runs: list[RunId]) -> api.ApiAnswer:
    return answer if isinstance(answer, Refused) else schedules.ScheduleStarted(runs)
