"""Schedules of a deployment: asked for over the api, met by shards in virtual time, listed over partitions, alive after crashes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.simulation.virtual_loop import LoopTimeClock
from tests.unit.orchestrator.runtime.lab import ONE_STEP, Lab, js, run_id, until, virtual

from stepmesh.uuid7 import new_run_id_on
from stepmesh_broker.protocol import api
from stepmesh_broker.protocol import schedules as sched
from stepmesh_broker.protocol.ids import FlowId, partition_of
from stepmesh_broker.protocol.messages import Refused
from stepmesh_orchestrator.core import commands
from stepmesh_orchestrator.core.events import decode_turn
from stepmesh_orchestrator.core.schedule_events import ScheduleFired, ScheduleSkipped
from stepmesh_orchestrator.core.schedules import Entry
from stepmesh_orchestrator.runtime import schedule_requests
from stepmesh_orchestrator.runtime.agenda import Agenda
from stepmesh_orchestrator.runtime.wheel import Wheel
from stepmesh_orchestrator.store.memory import MemoryStore

NOOP: dict[str, Any] = {"name": "nothing", "steps": [{"id": "a", "component": "/builtin/noop", "input": 1}], "output": {"$step": "a"}}
NAP: dict[str, Any] = {
    "name": "nap",
    "steps": [{"id": "a", "component": "/builtin/sleep", "input": {"duration": "1h"}}],
    "output": {"$step": "a"},
}


async def put(lab: Lab, name: str = "s", document: dict[str, Any] = NOOP, replace: bool = False, **fields: Any) -> sched.ScheduleInfo:
    fields = fields if "cron" in fields else {"every_ms": 10_000, **fields}
    schedule = sched.Schedule(name, await lab.flow(document), **fields)
    return await lab.ask(sched.PutSchedule(schedule, replace), sched.ScheduleInfo)


async def get(lab: Lab, name: str = "s") -> sched.ScheduleInfo:
    return await lab.ask(sched.GetSchedule(name), sched.ScheduleInfo)


async def refused(lab: Lab, request: api.ApiRequest) -> str:
    return (await lab.ask(request, Refused)).code


async def runs_of(lab: Lab, name: str = "s") -> list[api.RunSummary]:
    found = (await lab.ask(api.ListRuns(limit=1_000), api.Runs)).runs
    return [run for run in found if run.tags is not None and run.tags.get("schedule") == name]


def now_ms() -> int:
    return LoopTimeClock().now_ms()


@virtual
async def test_runs_start_on_time_and_never_early() -> None:
    lab = await Lab().start()
    made = await put(lab)
    begun = now_ms()
    assert (made.status, made.next_ms, made.created_ms) == ("active", [begun + number * 10_000 for number in range(1, 6)], begun)
    await asyncio.sleep(35)
    runs = await runs_of(lab)
    assert [run.status for run in runs] == ["completed"] * 3
    late = sorted(run.created_ms - begun for run in runs)
    assert [round(one / 10_000) for one in late] == [1, 2, 3]
    assert all(0 <= one % 10_000 < 100 for one in late)
    info = await get(lab)
    assert (info.fired, info.skipped, info.live, info.last_due_ms) == (3, 0, [], begun + 30_000)
    assert info.last_run in {run.run for run in runs}
    await lab.stop()


@virtual
async def test_a_crash_makes_up_for_what_was_due_meanwhile() -> None:
    lab = await Lab().start()
    await put(lab, "one")
    await put(lab, "all", catch_up="all", overlap="allow")
    await put(lab, "none", catch_up="none", every_ms=100_000)
    await asyncio.sleep(15)
    await lab.node.abort()
    await asyncio.sleep(200)
    await lab.start()
    await until(
        lambda: (
            len(lab.shard.session.state.schedules.entries["all"].live) == 0 and lab.shard.session.state.schedules.entries["all"].fired > 20
        )
    )
    told = {name: ((await get(lab, name)).fired, (await get(lab, name)).skipped) for name in ("one", "all", "none")}
    assert told == {"one": (2, 19), "all": (21, 0), "none": (1, 1)}
    assert len(await runs_of(lab, "all")) == 21
    await lab.stop()


@virtual
async def test_an_orderly_restart_reads_schedules_from_a_snapshot() -> None:
    lab = await Lab().start()
    await put(lab, overlap="buffer_one")
    await asyncio.sleep(25)
    before = await get(lab)
    await lab.stop()
    await lab.start()
    assert await get(lab) == before
    await asyncio.sleep(10)
    assert (await get(lab)).fired == 3
    await lab.stop()


class _Stepping(LoopTimeClock):
    """A wall clock that somebody sets."""

    offset_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.offset_ms


async def stepping() -> tuple[Lab, _Stepping]:
    lab, clock = Lab(), _Stepping()
    lab.clock = clock
    return await lab.start(), clock


@virtual
async def test_a_clock_that_is_set_back_starts_nothing_twice() -> None:
    lab, clock = await stepping()
    await put(lab)
    await asyncio.sleep(35)
    clock.offset_ms = -30_000
    await asyncio.sleep(29)
    assert (await get(lab)).fired == 3
    await asyncio.sleep(8)
    assert ((await get(lab)).fired, (await get(lab)).skipped) == (4, 0)
    assert len(await runs_of(lab)) == 4
    await lab.stop()


@virtual
async def test_a_clock_that_is_set_ahead_is_noticed_within_a_minute_and_is_a_gap() -> None:
    lab, clock = await stepping()
    await put(lab, every_ms=3_600_000, catch_up="one")
    clock.offset_ms = 3 * 3_600_000 + 1
    await asyncio.sleep(61)
    assert ((await get(lab)).fired, (await get(lab)).skipped) == (1, 2)
    await lab.stop()


@virtual
async def test_schedules_and_their_runs_live_where_their_names_hash_to() -> None:
    lab = await Lab(partitions=4).start()
    names = [f"job-{number}" for number in range(20)]
    for name in names:
        await put(lab, name)
    homes = {name: sched.home_of(lab.namespace, name, 4) for name in names}
    for partition, service in lab.node.partitions.items():
        assert set(service.shard.session.state.schedules.entries) == {name for name in names if homes[name] == partition}
    assert len(set(homes.values())) == 4
    await asyncio.sleep(11)
    for name in names:
        (run,) = await runs_of(lab, name)
        assert run.partition == homes[name] == partition_of(run.run, 4)
    await lab.stop()


@virtual
async def test_lists_are_by_id_in_pages_over_all_partitions() -> None:
    lab = await Lab(partitions=4).start()
    names = sorted(f"job-{number}" for number in range(13))
    for name in names:
        await put(lab, name, input=b'{"large":1}', variables=b"{}")
    found: list[str] = []
    sizes: list[int] = []
    more = True
    while more:
        page = await lab.ask(sched.ListSchedules(found[-1] if found else "", 5), sched.Schedules)
        found += [one.schedule.id for one in page.schedules]
        sizes.append(len(page.schedules))
        more = page.more
        assert all((one.schedule.input, one.schedule.variables, len(one.next_ms)) == (b"", None, 1) for one in page.schedules)
    assert (found, sizes) == (names, [5, 5, 3])
    assert (await get(lab, names[0])).schedule.input == b'{"large":1}'
    await lab.stop()


def page_of(names: str, more: bool) -> sched.Schedules:
    infos = [sched.ScheduleInfo(sched.Schedule(name, FlowId("f")), "active", 0, [], 0, 0, []) for name in names]
    return sched.Schedules(infos, more)


@pytest.mark.parametrize(
    ("pages", "limit", "names", "more"),
    [
        ([("ac", False), ("bd", False)], 9, "abcd", False),
        ([("ac", False), ("bd", False)], 3, "abc", True),
        ([("ac", True), ("bd", False)], 9, "abc", True),
        ([("ac", True), ("bx", True), ("yz", False)], 9, "abc", True),
        ([], 9, "", False),
    ],
)
def test_a_page_ends_where_one_of_its_parts_has_more(pages: list[tuple[str, bool]], limit: int, names: str, more: bool) -> None:
    found = schedule_requests.merged([page_of(*page) for page in pages], limit, 10**6)
    assert ("".join(one.schedule.id for one in found.schedules), found.more) == (names, more)


def test_a_page_ends_where_a_message_does() -> None:
    assert len(schedule_requests.merged([page_of("abcd", False)], 9, 100).schedules) in (1, 2, 3)


@virtual
async def test_a_flow_that_a_schedule_names_is_not_deleted() -> None:
    lab = await Lab().start()
    made = await put(lab)
    assert await refused(lab, api.DeleteFlow(made.schedule.flow)) == "SM-5013"
    await lab.ask(sched.DeleteSchedule("s"), api.Deleted)
    await lab.ask(api.DeleteFlow(made.schedule.flow), api.Deleted)
    assert await refused(lab, sched.GetSchedule("s")) == "SM-5240"
    await lab.stop()


@virtual
async def test_a_flow_that_the_store_lost_is_told_and_costs_nothing_else() -> None:
    lab = await Lab().start()
    await put(lab)
    await put(lab, "other", {**NOOP, "name": "other"})
    await asyncio.sleep(11)
    assert isinstance(lab.store, MemoryStore)
    await lab.store.delete_flow((await get(lab)).schedule.flow)
    await lab.restart()
    await asyncio.sleep(20)
    info = await get(lab)
    assert (info.status, info.fired, info.skipped) == ("active", 1, 2)
    assert "there is no flow with id" in info.skipped_reason
    assert (await get(lab, "other")).fired == 3
    assert await refused(lab, sched.TriggerSchedule("s", run_id(7))) == "SM-5004"
    await lab.stop()


@virtual
async def test_a_flow_that_is_not_at_hand_is_loaded() -> None:
    lab = await Lab().start()
    await put(lab)
    lab.node.flows.forget_all()
    await asyncio.sleep(11)
    assert (await get(lab)).fired == 1
    await lab.stop()


@virtual
async def test_what_cannot_be_is_refused_at_once() -> None:
    lab = await Lab().start()
    flow = await lab.flow(NOOP)
    for schedule, code in (
        (sched.Schedule("s", flow, cron="61 * * * *"), "SM-5250"),
        (sched.Schedule("s", flow, cron="* * * * *", time_zone="Berlin"), "SM-5251"),
        (sched.Schedule("s", flow), "SM-5252"),
        (sched.Schedule("s", FlowId("0" * 64), every_ms=1_000), "SM-5004"),
        (sched.Schedule("s", flow, b"{", every_ms=1_000), "SM-5001"),
        (sched.Schedule("s", flow, every_ms=1_000, max_concurrency=-1), "SM-5002"),
        (sched.Schedule("s", flow, every_ms=1_000, until_ms=1), "SM-5243"),
    ):
        assert await refused(lab, sched.PutSchedule(schedule)) == code
    assert (await lab.ask(sched.ListSchedules(), sched.Schedules)).schedules == []
    await lab.stop()


@virtual
async def test_pause_resume_trigger_and_backfill() -> None:
    lab = await Lab(partitions=3).start()
    made = await put(lab, cron="*/5 * * * *", time_zone="Europe/Berlin", overlap="allow")
    paused = await lab.ask(sched.PauseSchedule("s"), sched.ScheduleInfo)
    assert (paused.status, paused.schedule.paused) == ("paused", True)
    await asyncio.sleep(400)
    assert (await get(lab)).fired == 0
    run = new_run_id_on(sched.home_of(lab.namespace, "s", 3), 3)
    for _ in range(2):
        assert (await lab.ask(sched.TriggerSchedule("s", run), sched.ScheduleStarted)).runs == [run]
    assert (await lab.ended(run)).summary.status == "completed"
    resumed = await lab.ask(sched.ResumeSchedule("s"), sched.ScheduleInfo)
    assert (resumed.status, resumed.next_ms[0] > now_ms()) == ("active", True)
    first = made.next_ms[0]
    fill = sched.BackfillSchedule("s", first, first + 300_000, "k")
    started = (await lab.ask(fill, sched.ScheduleStarted)).runs
    assert len(started) == 2
    assert (await lab.ask(fill, sched.ScheduleStarted)).runs == started
    for run in started:
        await lab.ended(run)
    assert len(await runs_of(lab)) == 3
    await lab.stop()


@pytest.mark.parametrize(("due_times", "code"), [(1_000, None), (1_001, "SM-5244")])
def test_a_backfill_is_so_long_at_most(due_times: int, code: str | None) -> None:
    @virtual
    async def filled() -> None:
        lab = await Lab().start()
        begun = (await put(lab, overlap="allow", paused=True, anchor_ms=0)).created_ms
        first = begun // 10_000 * 10_000
        fill = sched.BackfillSchedule("s", first, first + (due_times - 1) * 10_000, "k")
        if code is None:
            assert len((await lab.ask(fill, sched.ScheduleStarted)).runs) == due_times
        else:
            assert await refused(lab, fill) == code
        await lab.stop()

    filled()


@virtual
async def test_a_backfill_without_a_due_time_is_refused() -> None:
    lab = await Lab().start()
    begun = (await put(lab)).created_ms
    for start, end in ((begun + 1, begun + 9_999), (begun + 20_000, begun + 10_000), (0, begun)):
        assert await refused(lab, sched.BackfillSchedule("s", start, end, "k")) == "SM-5244"
    await lab.stop()


@virtual
async def test_cancel_other_ends_a_run_that_is_dormant() -> None:
    lab = await Lab(dormant_ms=1_000).start()
    await put(lab, document=NAP, overlap="cancel_other", every_ms=60_000)
    await asyncio.sleep(70)
    (first,) = (await get(lab)).live
    assert first in lab.shard.session.state.dormant
    await until(lambda: first in lab.shard.session.state.finished)
    await asyncio.sleep(5)
    info = await get(lab)
    assert (first in info.live, len(info.live)) == (False, 1)
    assert (await lab.ended(first)).summary.status == "cancelled"
    await lab.stop()


@virtual
async def test_many_schedules_of_one_moment_are_all_met() -> None:
    lab = await Lab().start()
    flow = await lab.flow(NOOP)
    for number in range(450):
        await lab.ask(
            sched.PutSchedule(sched.Schedule(f"s{number}", flow, every_ms=3_600_000, anchor_ms=now_ms() // 1000 * 1000 + 60_000)),
            sched.ScheduleInfo,
        )
    await asyncio.sleep(62)
    fired = [event.schedule for event in await events_of(lab, ScheduleFired)]
    assert (len(fired), len(set(fired))) == (450, 450)
    assert await events_of(lab, ScheduleSkipped) == []
    await lab.stop()


async def events_of(lab: Lab, kind: type) -> list[Any]:
    frames = [frame.payload async for frame in lab.journal.read(next(iter(lab.node.partitions)))]
    return [event for payload in frames for event in decode_turn(payload).events if isinstance(event, kind)]


@virtual
async def test_the_history_of_its_run_is_that_of_a_run() -> None:
    lab = await Lab().start()
    await put(lab, document=ONE_STEP, input=js({"n": 1}))
    await asyncio.sleep(11)
    (task,) = await lab.take()
    assert task.input == b'{"n":1}'
    await lab.finish(task)
    (run,) = await runs_of(lab)
    await lab.ended(run.run)
    told = await lab.ask(api.GetEvents(run.run), api.Events)
    assert [event.kind for event in told.events][:2] == ["run_created", "item_started"]
    assert told.ended
    await lab.stop()


@virtual
async def test_a_schedule_whose_zone_is_not_known_here_is_blocked_and_costs_nothing_else() -> None:
    lab = await Lab().start()
    await put(lab)
    moon = sched.Schedule("moon", await lab.flow(NOOP), cron="* * * * *", time_zone="Moon/Tranquility")
    await lab.shard.command(commands.PutSchedule(lab.namespace, moon, False))  # SM-5243
    lab.shard.session.state.schedules.entries["moon"] = Entry(lab.namespace, moon, now_ms(), now_ms())  # as another machine left it
    await lab.shard.command(commands.FireSchedule("moon"))
    listed = (await lab.ask(sched.ListSchedules(), sched.Schedules)).schedules
    assert [(one.schedule.id, one.status) for one in listed] == [("moon", "blocked"), ("s", "active")]
    assert "Moon/Tranquility" in listed[0].skipped_reason
    await asyncio.sleep(11)
    assert (await get(lab)).fired == 1
    await lab.stop()


def test_an_agenda_has_one_time_for_each() -> None:
    agenda = Agenda()
    assert agenda.next_due() is None
    agenda.set("a", 10)
    agenda.set("a", 30)
    agenda.set("b", 20)
    agenda.set("b", 20)
    assert (agenda.next_due(), agenda.due(25, 9), agenda.next_due()) == (20, ["b"], 30)
    agenda.set("c", 5)
    agenda.set("d", 6)
    assert agenda.due(100, 2) == ["c", "d"]
    assert agenda.due(100, 2) == ["a"]
    agenda.set("a", 1)
    assert agenda.due(100, 2) == ["a"]


def test_a_dormant_run_that_is_needed_now_comes_first_however_far_its_time_is() -> None:
    times = {run_id(number): now for number, now in ((1, 10**9), (2, 5_000))}
    wheel = Wheel(times.get)
    for run, when in times.items():
        wheel.put(run, when)
    assert wheel.due(1_000, 9) == []
    wheel.changed.clear()
    wheel.hurry(run_id(1), 1_000)
    assert wheel.changed.is_set()
    assert (wheel.next_due(), wheel.due(1_000, 9)) == (1_000, [run_id(1)])
    wheel.hurry(run_id(3), 1_000)
    assert wheel.due(1_000, 9) == [], "it is not dormant any more"
