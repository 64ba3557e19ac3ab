"""Leases: who may hold a task, for how long, and which frames are lost."""

from __future__ import annotations

import pytest

from stepmesh_broker.protocol.ids import Position, RunId, WorkerId
from stepmesh_broker.protocol.messages import Progress, TaskRef, Verdict
from stepmesh_orchestrator.runtime.leases import ADOPTED_S, FORGOTTEN_S, LEASE_MS, TIMEOUT_GRACE_S, Flight, Key, Leases

W1, W2 = WorkerId("w1"), WorkerId("w2")
RUN = RunId("r")
KEY: Key = (RUN, 0, 0)
LEASE_S = LEASE_MS / 1000
TICK = 1e-6


def task(attempt: int = 1, step: int = 0) -> TaskRef:
    return TaskRef(RUN, 0, step, attempt)


def keys(count: int) -> list[Key]:
    return [(RUN, 0, step) for step in range(count)]


def flight(leases: Leases, *of: Key, position: int | None = 1, pool: str = "p", adopted: bool = False) -> Flight:
    made = Flight(pool, None if position is None else Position(position), list(of), adopted=adopted)
    leases.launch(made)
    return made


def lost(leases: Leases, floor: int = 0, idle: bool = False, now: float = 0.0, grace: float = 2.0) -> list[Flight]:
    return leases.lost("p", Position(floor), idle, now, grace)


# --- claims ---


def test_the_first_claim_is_granted_for_the_length_of_a_lease() -> None:
    leases = Leases()
    assert leases.claim(task(), W1, 10.0, 0) is Verdict.GRANTED
    assert leases.held[KEY].expires == 10.0 + LEASE_S
    assert leases.held[KEY].deadline is None


def test_a_time_limit_gives_the_lease_a_deadline() -> None:
    leases = Leases()
    leases.claim(task(), W1, 10.0, 1_500)
    assert leases.held[KEY].deadline == 10.0 + 1.5 + TIMEOUT_GRACE_S


@pytest.mark.parametrize("at", [0.0, LEASE_S - TICK, LEASE_S, LEASE_S + TICK])
def test_another_worker_never_takes_a_lease_over(at: float) -> None:
    leases = Leases()
    leases.claim(task(), W1, 0.0, 0)
    assert leases.claim(task(), W2, at, 0) is Verdict.HELD, "one that ran out is ended by the sweeper, which counts the loss"
    assert leases.held[KEY].worker == W1


@pytest.mark.parametrize("said", ["claimed while it ran", "heartbeat"])
def test_who_runs_it_already_does_not_get_a_copy(said: str) -> None:
    leases = Leases()
    if said == "heartbeat":
        leases.renew(Progress(task()), W1, 0.0, 0)
    else:
        leases.claim(task(), W1, 0.0, 0, running=True)
    assert leases.claim(task(), W1, 1.0, 0) is Verdict.HELD
    assert leases.claim(task(), W1, 1.0, 0, running=True) is Verdict.GRANTED


def test_the_holder_may_claim_again_as_after_a_lost_answer() -> None:
    leases = Leases()
    leases.claim(task(), W1, 0.0, 0)
    assert leases.claim(task(), W1, 3.0, 0) is Verdict.GRANTED
    assert leases.held[KEY].expires == 3.0 + LEASE_S


def test_a_lease_of_an_older_attempt_bars_nobody() -> None:
    leases = Leases()
    leases.claim(task(1), W1, 0.0, 0)
    assert leases.claim(task(2), W2, 0.0, 0) is Verdict.GRANTED
    assert leases.held[KEY].attempt == 2


@pytest.mark.parametrize(("at", "verdict"), [(3.0 - TICK, Verdict.NOT_READY), (3.0, Verdict.GRANTED)])
def test_after_a_recovery_the_worker_of_before_is_waited_for(at: float, verdict: Verdict) -> None:
    leases = Leases(recovered={KEY}, recovered_until=3.0)
    assert leases.claim(task(), W2, at, 0) is verdict


def test_after_a_recovery_the_worker_that_runs_it_has_it() -> None:
    leases = Leases(recovered={KEY}, recovered_until=3.0)
    assert leases.claim(task(), W1, 0.0, 0, running=True) is Verdict.GRANTED


def test_the_worker_of_before_a_recovery_is_believed_at_once() -> None:
    leases = Leases(recovered={KEY}, recovered_until=3.0)
    assert leases.renew(Progress(task()), W1, 1.0, 0) is Verdict.GRANTED
    assert leases.claim(task(), W2, 2.0, 0) is Verdict.HELD
    assert not leases.recovered


# --- heartbeats ---


def test_a_heartbeat_renews_and_keeps_the_progress_but_not_the_deadline() -> None:
    leases = Leases()
    leases.claim(task(), W1, 0.0, 10_000)
    said = Progress(task(), 0.5, b'{"row":5}')
    assert leases.renew(said, W1, 4.0, 10_000) is Verdict.GRANTED
    lease = leases.held[KEY]
    assert (lease.expires, lease.deadline, lease.progress) == (4.0 + LEASE_S, 10.0 + TIMEOUT_GRACE_S, said)


def test_a_heartbeat_for_an_unclaimed_task_is_a_claim() -> None:
    leases = Leases()
    assert leases.renew(Progress(task(), 0.1), W1, 0.0, 0) is Verdict.GRANTED
    assert leases.held[KEY].worker == W1
    assert leases.held[KEY].progress == Progress(task(), 0.1)


@pytest.mark.parametrize("at", [0.0, LEASE_S - TICK, LEASE_S, LEASE_S + TICK])
def test_a_second_worker_is_told_to_drop_its_copy(at: float) -> None:
    leases = Leases()
    leases.claim(task(), W1, 0.0, 0)
    assert leases.renew(Progress(task()), W2, at, 0) is Verdict.HELD


# --- expiry ---


@pytest.mark.parametrize(("at", "expected"), [(LEASE_S, 0), (LEASE_S + TICK, 1)])
def test_a_silent_worker_loses_its_task(at: float, expected: int) -> None:
    leases = Leases()
    leases.claim(task(), W1, 0.0, 0)
    found = leases.expired(at)
    assert len(found) == expected
    assert all(not late for _, _, late in found)


@pytest.mark.parametrize(("at", "expected"), [(1.0 + TIMEOUT_GRACE_S, 0), (1.0 + TIMEOUT_GRACE_S + TICK, 1)])
def test_an_attempt_over_its_time_is_late_however_often_its_worker_is_heard(at: float, expected: int) -> None:
    leases = Leases()
    leases.claim(task(), W1, 0.0, 1_000)
    leases.renew(Progress(task()), W1, at, 1_000)
    found = leases.expired(at)
    assert [late for _, _, late in found] == [True] * expected


def test_while_the_broker_is_away_silence_proves_nothing() -> None:
    leases = Leases()
    leases.claim(task(), W1, 0.0, 0)
    leases.claim(task(step=1), W1, 90.0, 0)
    leases.excuse(50.0)
    assert leases.held[KEY].expires == 50.0 + LEASE_S
    assert leases.held[RUN, 0, 1].expires == 90.0 + LEASE_S, "an excuse never shortens a lease"


# --- flights ---


def test_landing_forgets_flight_and_lease_and_names_the_pool() -> None:
    leases = Leases(recovered={KEY})
    frame = flight(leases, KEY)
    leases.claim(task(), W1, 0.0, 0)
    assert leases.land(KEY) == "p"
    assert (leases.flights, leases.held, leases.recovered, frame.open) == ({}, {}, set(), 0)
    assert leases.land(KEY) is None


def test_a_frame_that_is_over_leaves_nothing_behind() -> None:
    leases = Leases()
    for number in range(1, 1_001):
        flight(leases, KEY, position=number)
        leases.land(KEY)
    assert lost(leases) == []
    assert leases.by_pool == {}


@pytest.mark.parametrize(("floor", "found"), [(4, 0), (5, 1), (6, 1)])
def test_a_frame_is_lost_when_the_broker_is_done_with_it(floor: int, found: int) -> None:
    leases = Leases()
    frame = flight(leases, KEY, position=5)
    assert lost(leases, floor, now=0.0) == []
    assert lost(leases, floor, now=2.0) == [frame] * found


@pytest.mark.parametrize(("waited", "found"), [(2.0 - TICK, 0), (2.0, 1)])
def test_results_have_a_grace_to_arrive_in(waited: float, found: int) -> None:
    leases = Leases()
    flight(leases, KEY)
    lost(leases, floor=1, now=0.0)
    assert len(lost(leases, floor=1, now=waited)) == found


def test_the_grace_starts_anew_when_the_broker_has_it_after_all() -> None:
    leases = Leases()
    flight(leases, KEY, position=5)
    assert lost(leases, idle=True, now=0.0) == []
    assert lost(leases, floor=4, now=1.0) == []
    assert lost(leases, idle=True, now=2.0) == []
    assert len(lost(leases, idle=True, now=4.0)) == 1


def test_a_frame_that_is_not_published_yet_is_never_lost() -> None:
    leases = Leases()
    flight(leases, KEY, position=None)
    assert lost(leases, idle=True, now=0.0) == []
    assert lost(leases, idle=True, now=1_000.0, grace=0.0) == []


def handed(leases: Leases, now: float, handed_out: bool = True) -> list[Flight]:
    return leases.lost("p", Position(0), False, now, 2.0, handed_out)


def test_what_the_broker_forgot_behind_a_frame_that_is_long_in_hand_is_found() -> None:
    """The first one waits for what the second one is to do: the floor would never move."""
    leases = Leases()
    first = flight(leases, KEY, position=1)
    leases.claim(task(), W1, 0.0, 0)
    second = flight(leases, (RUN, 0, 1), position=2)
    assert handed(leases, 0.0) == []
    assert handed(leases, FORGOTTEN_S - TICK) == []
    assert handed(leases, FORGOTTEN_S) == [second]
    assert list(leases.by_pool["p"]) == [first]


def test_as_long_as_something_waits_in_the_pool_nothing_is_forgotten() -> None:
    leases = Leases()
    frame = flight(leases, KEY, position=1)
    assert handed(leases, 0.0) == []
    assert handed(leases, FORGOTTEN_S - 1, handed_out=False) == []
    assert handed(leases, FORGOTTEN_S) == []
    assert handed(leases, 2 * FORGOTTEN_S) == [frame]


def test_a_claimed_task_is_its_workers_not_the_brokers() -> None:
    leases = Leases()
    frame = flight(leases, *keys(2))
    leases.claim(task(), W1, 0.0, 0)
    assert lost(leases, floor=1, now=0.0, grace=0.0) == [frame]
    assert leases.open_keys(frame) == [(RUN, 0, 1)]


def test_a_frame_whose_tasks_are_all_claimed_is_watched_on() -> None:
    leases = Leases()
    frame = flight(leases, KEY)
    leases.claim(task(), W1, 0.0, 0)
    assert lost(leases, floor=1, now=100.0, grace=0.0) == []
    del leases.held[KEY]
    assert lost(leases, floor=1, now=101.0, grace=0.0) == [frame]


def test_a_task_that_is_sent_again_belongs_to_the_newer_frame_only() -> None:
    leases = Leases()
    older = flight(leases, *keys(2), position=1)
    newer = flight(leases, KEY, position=2)
    assert (older.open, newer.open) == (1, 1)
    assert leases.open_keys(older) == [(RUN, 0, 1)]
    leases.land(KEY)
    assert (older.open, newer.open) == (1, 0)


def test_a_frame_of_an_earlier_owner_lies_before_the_first_of_this_one() -> None:
    leases = Leases()
    adopted = flight(leases, KEY, position=None, adopted=True)
    flight(leases, (RUN, 9, 9), position=7)
    assert lost(leases, floor=6, now=0.0, grace=0.0) == [], "the pool is busy: it may still be in there"
    assert lost(leases, floor=7, now=1.0, grace=0.0)[0] is adopted


@pytest.mark.parametrize(("waited", "found"), [(ADOPTED_S - TICK, 0), (ADOPTED_S, 1)])
def test_a_frame_of_an_earlier_owner_in_a_busy_pool_is_not_waited_for_for_ever(waited: float, found: int) -> None:
    leases = Leases()
    flight(leases, KEY, position=None, adopted=True)
    assert lost(leases, floor=100, now=0.0) == []
    assert len(lost(leases, floor=100, now=waited)) == found


def test_a_dropped_frame_is_forgotten_but_not_what_was_sent_again() -> None:
    leases = Leases()
    frame = flight(leases, *keys(2), position=None)
    flight(leases, KEY, position=None, pool="q")
    assert leases.drop(frame) == [(RUN, 0, 1)]
    assert list(leases.flights) == [KEY]
    assert list(leases.by_pool) == ["q"]
    assert leases.drop(frame) == []


def test_how_often_a_task_was_published() -> None:
    leases = Leases()
    assert leases.dispatched(KEY) == 1
    leases.launch(Flight("p", None, [KEY], dispatch=3))
    assert leases.dispatched(KEY) == 3
