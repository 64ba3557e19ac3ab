"""Schedules in the core: each due time starts one run, or none for a reason that is told; whatever clocks, crashes and other runs do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.orchestrator.core.engine import NOW, Engine, flow, kinds, ref, step

from stepmesh_broker.protocol.ids import FlowId, Namespace, Partition, RunId, partition_of, scheduled_run_id
from stepmesh_broker.protocol.messages import Accepted, ErrorCode, Failure, Refused
from stepmesh_broker.protocol.schedules import Schedule
from stepmesh_orchestrator.core import commands, events, schedule_events
from stepmesh_orchestrator.core.decide.firing import ENDED, MISSED
from stepmesh_orchestrator.core.effects import NeedFlow, SetScheduleTimer, WakeRun
from stepmesh_orchestrator.core.schedules import Entry
from stepmesh_orchestrator.core.snapshot import decode_state, encode_state, state_hash
from stepmesh_orchestrator.recurrence import rule_of

MINUTE = 60_000
WORK = flow([step("a")], ref("a"))
NAP = flow([step("a", "/builtin/sleep", {"duration": "1h"})], ref("a"))


class Clockwork(Engine):
    """An engine with one schedule, every minute from one minute after `NOW` on. `fired`: due times that started runs, in minutes."""

    def put(self, document: dict[str, Any] = WORK, *, replace: bool = False, known: bool = True, **fields: Any) -> Accepted | Refused:
        """Make the schedule."""
        compiled = self.shelf.put(document)
        if not known:
            del self.shelf.compiled[compiled.id, None]
        fields = {"every_ms": 0 if "cron" in fields else MINUTE, **fields}
        schedule = Schedule(fields.pop("id", "s"), FlowId(fields.pop("flow", compiled.id)), **fields)
        self.send(commands.PutSchedule(Namespace("default"), schedule, replace))
        return self.answer()

    def at(self, minutes: float) -> list[events.Event]:
        """It is so many minutes after `NOW`, and the timer rings if it is due."""
        self.session.now = NOW + round(minutes * MINUTE)
        timer = self.alarm()
        return self.send(commands.FireSchedule("s")) if timer is not None and timer <= self.session.now else []

    def alarm(self) -> int | None:
        """When the timer rings that was set last."""
        timers = [effect.due_ms for effect in self.effects if isinstance(effect, SetScheduleTimer)]
        return timers[-1] if timers else None

    @property
    def entry(self) -> Entry:
        """The schedule."""
        return self.state.schedules.entries["s"]

    @property
    def fired(self) -> list[float]:
        """By its times."""
        return [minutes(event.due_ms) for _, event in self.journal if isinstance(event, schedule_events.ScheduleFired) and not event.manual]

    @property
    def skipped(self) -> list[tuple[float, int, str]]:
        """Last due time, how many, why."""
        return [
            (minutes(event.due_ms), event.count, event.reason)
            for _, event in self.journal
            if isinstance(event, schedule_events.ScheduleSkipped)
        ]

    def end(self, run: RunId) -> list[events.Event]:
        """The run's only step succeeds."""
        return self.succeed("a", run=run)


def minutes(at_ms: int) -> float:
    return (at_ms - NOW) / MINUTE


def engine(document: dict[str, Any] = WORK, **fields: Any) -> Clockwork:
    made = Clockwork()
    assert made.put(document, **fields) == Accepted(RunId(""))
    return made


# --- due times -----------------------------------------------------------------------------------------------------


def test_a_due_time_starts_a_run_like_any_other() -> None:
    one = engine(input=b'{"n":1}', tags={"team": "search"}, max_concurrency=3, variables=b'{"v":2}')
    assert one.alarm() == NOW + MINUTE
    new = one.at(1)
    assert kinds(new)[:2] == ["RunCreated", "ScheduleFired"]
    created = new[0]
    assert isinstance(created, events.RunCreated)
    assert (created.inputs, created.limit, created.variables) == ([b'{"n":1}'], 3, b'{"v":2}')
    assert (created.tags, created.root, created.parent) == ({"team": "search", "schedule": "s"}, created.run, None)
    assert (one.entry.live, one.entry.last_run, one.alarm()) == ([created.run], created.run, NOW + 2 * MINUTE)
    assert one.dispatched() == ["a"]
    one.end(created.run)
    assert (one.entry.live, one.state.schedules.runs) == ([], {})


def test_the_id_of_a_run_follows_from_schedule_and_due_time_and_is_at_home() -> None:
    one = Clockwork()
    one.session.state.partition, one.session.partitions = Partition(5), 16
    one.put()
    one.at(1)
    (run,) = one.entry.live
    assert run == scheduled_run_id("default/s", NOW + MINUTE, Partition(5), 16)
    assert partition_of(run, 16) == 5
    assert int(run.replace("-", "")[:12], 16) == NOW + MINUTE
    assert run[14] == "7"
    assert run[19] in "89ab"


def test_early_nothing_happens() -> None:
    one = engine()
    assert one.send(commands.FireSchedule("s")) == []
    one.session.now = NOW + MINUTE - 1
    assert one.send(commands.FireSchedule("s")) == []
    assert one.alarm() == NOW + MINUTE


def test_a_timer_of_a_schedule_that_is_gone_is_nothing() -> None:
    one = engine()
    one.send(commands.DeleteSchedule("s"))
    assert one.at(5) == []
    assert one.fired == []


def test_jitter_makes_it_later_by_what_the_rule_says() -> None:
    one = engine(jitter_ms=50_000)
    starts = rule_of(one.entry.schedule).starts_ms(NOW + MINUTE)
    assert one.alarm() == starts > NOW + MINUTE
    one.session.now = starts - 1
    assert one.send(commands.FireSchedule("s")) == []
    one.session.now = starts
    one.send(commands.FireSchedule("s"))
    assert one.fired == [1]


def test_its_end_is_after_so_many_runs_or_at_a_time() -> None:
    one, other = engine(max_runs=2, overlap="allow"), engine(until_ms=NOW + 2 * MINUTE, overlap="allow")
    for clock in (one, other):
        for minute in range(1, 5):
            clock.at(minute)
        assert clock.fired == [1, 2]
        assert clock.skipped == []


def test_a_run_that_its_end_allows_no_more_is_not_made_up_for() -> None:
    one = engine(max_runs=2, overlap="allow", catch_up="all")
    one.at(5)
    assert (one.fired, one.skipped, one.entry.is_finished) == ([1, 2], [], True)


# --- catch-up ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "fired", "skipped"),
    [
        ({"catch_up": "one"}, [5], [(4, 4, MISSED)]),
        ({"catch_up": "all"}, [1, 2, 3, 4, 5], []),
        ({"catch_up": "all", "catch_up_max": 2}, [4, 5], [(3, 3, MISSED)]),
        ({"catch_up": "all", "catch_up_window_ms": 3 * MINUTE}, [3, 4, 5], [(2, 2, MISSED)]),
        ({"catch_up": "none"}, [5], [(4, 4, MISSED)]),
    ],
)
def test_after_a_gap_the_policy_says_what_is_made_up_for(fields: dict[str, Any], fired: list[int], skipped: list[Any]) -> None:
    one = engine(overlap="allow", **fields)
    one.restart()
    one.at(5.5)
    assert (one.fired, one.skipped) == (fired, skipped)
    assert (one.entry.fired, one.entry.skipped) == (len(fired), 5 - len(fired))
    one.at(6)
    assert one.fired == [*fired, 6]


def test_without_catch_up_what_is_late_is_only_told() -> None:
    one = engine(every_ms=60 * MINUTE, catch_up="none")
    one.at(62)
    assert (one.fired, one.skipped) == ([], [(60, 1, MISSED)])
    one.at(120.5)
    assert one.fired == [120]


# --- clocks --------------------------------------------------------------------------------------------------------


def test_a_clock_that_goes_back_starts_nothing_twice() -> None:
    one = engine(overlap="allow")
    for minute in (1, 2, 3):
        one.at(minute)
    for minute in (1.5, 2, 2.5, 3, 3.5):
        assert one.at(minute) == []
        one.send(commands.FireSchedule("s"))
    one.restart()
    assert one.at(2.5) == []
    one.at(4)
    assert (one.fired, one.skipped) == ([1, 2, 3, 4], [])


def test_a_clock_that_leaps_ahead_is_a_gap() -> None:
    one = engine(overlap="allow", catch_up="all", catch_up_max=2)
    one.at(1)
    one.at(1_000)
    assert (one.fired, one.skipped) == ([1, 999, 1_000], [(998, 997, MISSED)])


def test_after_a_clock_that_was_wrong_a_resume_begins_anew_and_still_starts_nothing_twice() -> None:
    one = engine(overlap="allow")
    one.at(1)
    one.at(10_000)
    one.session.now = NOW + MINUTE // 2
    one.send(commands.PauseSchedule("s"))
    one.send(commands.ResumeSchedule("s"))
    assert one.alarm() == NOW + MINUTE
    one.at(1)
    assert one.fired == [1, 10_000]
    assert one.skipped[-1] == (1, 1, f"run {scheduled_run_id('default/s', NOW + MINUTE, Partition(0), 1)} was started for it before")
    one.at(2)
    assert one.fired == [1, 10_000, 2]


# --- overlap -------------------------------------------------------------------------------------------------------


def test_skip_starts_nothing_while_a_run_lives() -> None:
    one = engine()
    one.at(1)
    (first,) = one.entry.live
    one.at(2)
    assert (one.fired, one.skipped) == ([1], [(2, 1, f"overlap: run {first} has not ended")])
    one.end(first)
    one.at(3)
    assert one.fired == [1, 3]


def test_allow_runs_beside() -> None:
    one = engine(overlap="allow")
    for minute in (1, 2, 3):
        one.at(minute)
    assert len(one.entry.live) == 3


def test_buffer_one_waits_with_one_and_skips_the_rest() -> None:
    one = engine(overlap="buffer_one")
    one.at(1)
    (first,) = one.entry.live
    one.at(2)
    assert (one.entry.waiting_ms, kinds(one.new)) == (NOW + 2 * MINUTE, ["ScheduleWaits"])
    one.at(3)
    assert one.skipped == [(3, 1, f"overlap: run {first} has not ended, and an earlier due time waits already")]
    one.session.now = NOW + round(3.5 * MINUTE)
    one.end(first)
    assert one.alarm() == one.session.now
    one.send(commands.FireSchedule("s"))
    assert (one.fired, one.entry.waiting_ms) == ([1, 2], None)
    assert one.alarm() == NOW + 4 * MINUTE


def test_what_waits_goes_on_after_a_crash() -> None:
    one = engine(overlap="buffer_one")
    one.at(1)
    (first,) = one.entry.live
    one.at(2)
    one.end(first)
    one.restart()
    assert one.alarm() == one.session.now
    one.send(commands.FireSchedule("s"))
    assert one.fired == [1, 2]


def test_what_waits_is_let_go_of_by_a_pause_and_by_another_policy() -> None:
    for change in (
        lambda clock: clock.send(commands.PauseSchedule("s")),
        lambda clock: clock.put(overlap="skip", replace=True),
        lambda clock: clock.put(overlap="buffer_one", paused=True, replace=True),
    ):
        one = engine(overlap="buffer_one")
        one.at(1)
        one.at(2)
        change(one)
        assert one.entry.waiting_ms is None
        assert one.skipped == [(2, 1, "the schedule was paused or changed while it waited")]


def test_cancel_other_ends_the_run_before() -> None:
    one = engine(overlap="cancel_other")
    one.at(1)
    (first,) = one.entry.live
    one.at(2)
    (second,) = one.entry.live
    assert (first != second, one.state.finished[first][1]) == (True, "cancelled")
    assert one.result(run=first)["error"]["message"] == ENDED
    assert kinds(one.new)[:2] == ["RunCreated", "ScheduleFired"], "the new run is there before the old one goes"


@pytest.mark.parametrize("crash", [False, True])
def test_cancel_other_brings_a_dormant_run_back_to_cancel_it(crash: bool) -> None:
    one = Clockwork(dormant_ms=1_000)
    one.put(NAP, overlap="cancel_other")
    one.at(1)
    (first,) = one.entry.live
    left = one.send(commands.RestTree(first, published=1_000_000))[0]
    assert isinstance(left, events.TreeDormant)
    one.at(2)
    second = one.entry.live[1]
    assert (one.entry.live, one.entry.ends) == ([first, second], [first])
    assert WakeRun(first) in one.new_effects
    if crash:
        one.restart()
        one.send(commands.FireSchedule("s"))
        assert WakeRun(first) in one.new_effects
    one.at(3)
    assert one.entry.ends == [first], "it is to be ended once"
    third = one.entry.live[-1]
    frame = next(iter(one.state.dormant.frames))
    one.send(commands.WakeTree(first, frame, left.image, one.shelf))
    assert (one.entry.live, one.entry.ends, one.state.finished[first][1]) == ([third], [], "cancelled")
    assert one.state.finished[second][1] == "cancelled"


# --- flows ---------------------------------------------------------------------------------------------------------


def test_a_flow_that_is_not_at_hand_is_fetched_first() -> None:
    one = engine(known=False)
    one.at(1)
    assert one.fired == []
    assert [effect for effect in one.new_effects if isinstance(effect, NeedFlow)] == [NeedFlow(one.entry.schedule.flow.encode(), None)]
    one.send(commands.FireSchedule("s"))
    assert not [effect for effect in one.new_effects if isinstance(effect, NeedFlow)], "it is asked for once"
    one.session.now += 5_000
    one.resolve(WORK)
    assert (one.fired, one.skipped) == ([1], [])
    assert one.alarm() == NOW + 2 * MINUTE


def test_a_flow_that_is_gone_is_the_reason() -> None:
    one = engine(known=False)
    one.at(1)
    one.resolve(failure=Failure(ErrorCode.INVALID_INPUT, "there is no flow with that id"))
    assert (one.fired, one.skipped) == ([], [(1, 1, "there is no flow with that id")])
    assert (one.entry.skipped_reason, one.alarm()) == ("there is no flow with that id", NOW + 2 * MINUTE)


def test_a_crash_while_its_flow_is_fetched_loses_nothing() -> None:
    one = engine(known=False)
    one.at(1)
    one.restart()
    one.send(commands.FireSchedule("s"))
    one.resolve(WORK)
    assert one.fired == [1]


def test_what_waited_is_met_once_its_flow_is_there() -> None:
    one = engine(overlap="buffer_one")
    one.at(1)
    (first,) = one.entry.live
    one.at(2)
    one.end(first)
    one.shelf.compiled.clear()
    one.send(commands.FireSchedule("s"))
    assert one.fired == [1]
    one.resolve(WORK)
    assert one.fired == [1, 2]


def test_two_schedules_wait_for_one_flow() -> None:
    one = engine(known=False)
    one.put(id="t", known=False)
    one.session.now = NOW + MINUTE
    one.send(commands.FireSchedule("s"))
    one.send(commands.FireSchedule("t"))
    one.resolve(WORK)
    assert one.fired == [1, 1]


def test_an_input_that_the_flow_refuses_is_the_reason() -> None:
    one = engine(flow([step("a")], ref("a"), inputSchema={"type": "object", "required": ["n"]}), input=b"{}")
    one.at(1)
    assert one.fired == []
    assert one.skipped[0][2].startswith("SM-5001 INVALID_INPUT")


# --- by hand -------------------------------------------------------------------------------------------------------


def test_the_same_definition_again_changes_nothing() -> None:
    one = engine()
    one.session.now += 30_000
    assert one.put() == Accepted(RunId(""), existing=True)
    assert one.new == []
    one.at(1)
    assert one.fired == [1]


def test_another_definition_is_refused_unless_it_replaces() -> None:
    one = engine()
    answer = one.put(overlap="allow")
    assert isinstance(answer, Refused)
    assert (answer.code, one.new) == ("SM-5241", [])
    assert one.put(overlap="allow", replace=True) == Accepted(RunId(""), existing=True)
    assert kinds(one.new) == ["ScheduleSet"]


def test_a_change_that_leaves_the_times_as_they_are_passes_over_none() -> None:
    one = engine(overlap="allow")
    one.session.now = NOW + 2 * MINUTE + 1
    one.put(overlap="allow", catch_up="all", replace=True)
    assert one.fired == [1, 2]


def test_a_change_of_times_begins_now() -> None:
    one = engine(overlap="allow")
    one.session.now = NOW + 2 * MINUTE + 1
    one.put(overlap="allow", catch_up="all", every_ms=2 * MINUTE, replace=True)
    assert (one.fired, one.alarm()) == ([], NOW + 4 * MINUTE + 1)


def test_an_interval_keeps_its_anchor_while_its_length_stays() -> None:
    one = engine(overlap="allow")
    one.session.now = NOW + MINUTE // 2
    one.put(overlap="skip", replace=True)
    assert (one.entry.schedule.anchor_ms, one.alarm()) == (NOW, NOW + MINUTE)


def test_an_anchor_to_come_is_the_first_due_time() -> None:
    one = engine(anchor_ms=NOW + 10 * MINUTE + 7)
    assert one.alarm() == NOW + 10 * MINUTE + 7


def test_what_would_never_be_due_is_refused() -> None:
    for fields in ({"until_ms": NOW}, {"cron": "0 0 29 2 *", "until_ms": NOW + MINUTE}, {"anchor_ms": NOW + 5, "until_ms": NOW + 4}):
        answer = Clockwork().put(**fields)
        assert isinstance(answer, Refused)
        assert answer.code == "SM-5243"


@pytest.mark.parametrize(("schedules", "refused"), [(2, False), (3, True)])
def test_a_partition_has_so_many_schedules_at_most(schedules: int, refused: bool) -> None:
    one = Clockwork(max_schedules=2)
    for number in range(schedules):
        answer = one.put(id=f"s{number}")
    assert isinstance(answer, Refused) == refused
    assert not refused or (answer.code, len(one.state.schedules.entries)) == ("SM-5242", 2)  # type: ignore[union-attr]  # see above


def test_a_pause_starts_nothing_and_a_resume_makes_up_for_nothing() -> None:
    one = engine(overlap="allow", catch_up="all")
    one.at(1)
    one.send(commands.PauseSchedule("s"))
    assert one.answer() == Accepted(RunId(""))
    one.send(commands.PauseSchedule("s"))
    assert (one.answer(), one.new) == (Accepted(RunId(""), existing=True), [])
    one.at(3)
    assert one.fired == [1]
    one.session.now = NOW + 4 * MINUTE + 1
    one.send(commands.ResumeSchedule("s"))
    assert one.alarm() == NOW + 5 * MINUTE
    one.at(5)
    assert (one.fired, one.skipped) == ([1, 5], [])


def test_one_that_is_made_paused_waits_for_its_resume() -> None:
    one = engine(paused=True)
    assert one.alarm() is None
    one.send(commands.ResumeSchedule("s"))
    assert one.alarm() == NOW + MINUTE


def test_a_deleted_schedule_leaves_its_runs_alone() -> None:
    one = engine()
    one.at(1)
    (run,) = one.entry.live
    one.send(commands.DeleteSchedule("s"))
    assert (one.state.schedules.entries, one.state.schedules.runs) == ({}, {})
    one.end(run)
    assert one.state.finished[run][1] == "completed"


def test_nobody_is_told_so() -> None:
    one = Clockwork()
    compiled = one.shelf.put(WORK)
    for command in (
        commands.DeleteSchedule("x"),
        commands.PauseSchedule("x"),
        commands.ResumeSchedule("x"),
        commands.TriggerSchedule("x", RunId("r"), compiled),
        commands.BackfillSchedule("x", [1], "k", compiled),
    ):
        one.send(command)
        answer = one.answer()
        assert isinstance(answer, Refused)
        assert (answer.code, one.new) == ("SM-5240", [])


def test_a_trigger_starts_a_run_whatever_else_runs_once_per_id() -> None:
    one = engine(overlap="cancel_other")
    compiled = one.shelf.put(WORK)
    one.at(1)
    run = RunId("01900000-0000-7000-8000-00000000abcd")
    for existing in (False, True):
        one.send(commands.TriggerSchedule("s", run, compiled))
        assert one.answer() == Accepted(run, existing)
    assert (len(one.entry.live), one.fired, one.entry.fired, one.entry.last_run) == (2, [1], 1, run)
    one.send(commands.PauseSchedule("s"))
    one.send(commands.TriggerSchedule("s", RunId("01900000-0000-7000-8000-00000000abce"), compiled))
    assert len(one.entry.live) == 3


def test_a_trigger_of_another_partition_is_refused() -> None:
    one = engine()
    one.session.partitions = 64
    run = next(name for number in range(99) if partition_of(name := RunId(f"run-{number}"), 64) != 0)
    one.send(commands.TriggerSchedule("s", run, one.shelf.put(WORK)))
    answer = one.answer()
    assert isinstance(answer, Refused)
    assert answer.code == "SM-5245"


def test_a_trigger_with_a_flow_that_was_changed_meanwhile_is_to_be_asked_again() -> None:
    one = engine()
    one.send(commands.TriggerSchedule("s", RunId("r"), one.shelf.put(NAP)))
    answer = one.answer()
    assert isinstance(answer, Refused)
    assert answer.code == "SM-5246"


def test_a_backfill_starts_all_at_once_and_again_nothing() -> None:
    one = engine()
    compiled = one.shelf.put(WORK)
    dues = [NOW - minute * MINUTE for minute in range(5, 0, -1)]
    backfill = commands.BackfillSchedule("s", dues, "monday", compiled)
    one.send(backfill)
    assert one.answer() == Accepted(RunId(""))
    assert [minutes(event.due_ms) for event in one.new if isinstance(event, schedule_events.ScheduleFired)] == [-5, -4, -3, -2, -1]
    assert len(one.entry.live) == 5
    assert one.entry.after_ms == NOW, "its own times go on as they were"
    one.send(backfill)
    assert one.new == []
    one.send(replace(backfill, key="tuesday"))
    assert len(one.entry.live) == 10, "another key is another backfill"


def test_a_backfill_whose_input_is_refused_starts_nothing() -> None:
    picky = flow([step("a")], ref("a"), inputSchema={"type": "object"})
    one = engine(picky, input=b"1")
    one.send(commands.BackfillSchedule("s", [1, 2], "k", one.shelf.put(picky)))
    answer = one.answer()
    assert isinstance(answer, Refused)
    assert (answer.code, one.new) == ("SM-5001", [])


# --- replay --------------------------------------------------------------------------------------------------------


def test_a_snapshot_holds_schedules_and_without_them_is_one_that_earlier_releases_read() -> None:
    one = engine(overlap="buffer_one", tags={"a": "b"})
    one.at(1)
    one.at(2)
    restored = decode_state(encode_state(one.state), one.shelf)
    assert state_hash(restored) == state_hash(one.state)
    assert restored.schedules.runs == one.state.schedules.runs
    assert restored.schedules.entries["s"].waiting_ms == NOW + 2 * MINUTE
    one.send(commands.DeleteSchedule("s"))
    assert encode_state(one.state)[1] == 1


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["at", "at", "at", "end", "restart", "back", "trigger", "evict", "cancel"]), st.integers(1, 500)), max_size=25
)


@settings(deadline=None)
@given(
    ACTIONS,
    st.sampled_from(["skip", "buffer_one", "allow", "cancel_other"]),
    st.sampled_from(["one", "all", "none"]),
    st.sampled_from([0, 45_000]),
    st.sampled_from([0, 3 * MINUTE]),
)
def test_every_due_time_is_accounted_for_once(
    actions: list[tuple[str, int]], overlap: str, catch_up: str, jitter: int, window: int
) -> None:
    """Whatever happens in between: those that fired, wait or were skipped are all up to the last that was dealt with."""
    one = engine(overlap=overlap, catch_up=catch_up, catch_up_max=3, jitter_ms=jitter, catch_up_window_ms=window)
    now = 0.0
    for action, number in actions:
        if action == "at":
            now += number / 100
            one.at(now)
        elif action == "back":
            one.at(now - number / 100)
        elif action == "end" and one.entry.live:
            one.end(one.entry.live[number % len(one.entry.live)])
        elif action == "cancel" and one.entry.live:
            one.cancel(one.entry.live[number % len(one.entry.live)])
        elif action == "trigger":
            one.send(commands.TriggerSchedule("s", RunId(f"run-{len(one.journal)}-{number}"), one.shelf.put(WORK)))
        elif action == "restart":
            before = one.state.schedules.encoded()
            one.shelf.put(WORK)
            one.restart()
            assert one.state.schedules.encoded() == before
        elif action == "evict":
            one.shelf.compiled.clear()
        while one.session.awaiting_start:
            one.resolve(WORK)
        accounted(one)
    one.session.now = NOW + round((now + 10) * MINUTE)
    one.send(commands.FireSchedule("s"))
    while one.session.awaiting_start:
        one.resolve(WORK)
    accounted(one)
    assert minutes(one.entry.after_ms) >= int(now + 9), "none is left behind"


def accounted(one: Clockwork) -> None:
    fired = one.fired
    assert len(fired) == len(set(fired)), "a due time started two runs"
    waiting = 0 if one.entry.waiting_ms is None else 1
    assert len(fired) + sum(count for _, count, _ in one.skipped) + waiting == minutes(one.entry.after_ms)
    live = {run for run, created in ((run.id, run) for run in one.state.runs.values()) if created.tags and "schedule" in created.tags}
    assert set(one.entry.live) == live == set(one.state.schedules.runs)


def test_a_run_that_a_gate_of_its_flow_ended_at_once_does_not_live() -> None:
    one = engine()
    one.session.emit(schedule_events.ScheduleFired("s", NOW + MINUTE, RunId("gone")))
    assert (one.entry.live, one.state.schedules.runs, one.entry.last_run, one.entry.fired) == ([], {}, "gone", 1)
    one.take()
    one.restart()
    one.at(2)
    assert one.fired == [1, 2]
