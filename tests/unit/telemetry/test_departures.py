"""Attempts in flight: what lands counts once, for the attempt that was dispatched last, and nothing is kept of what is over."""

from __future__ import annotations

from stepmesh_broker.protocol.ids import RunId, WorkerId
from stepmesh_broker.protocol.messages import ErrorCode, Failure, Result, Results, Task
from stepmesh_orchestrator.core.events import Event, ItemEnded, RunEnded, StepFailed, StepRetrying
from stepmesh_orchestrator.telemetry.departures import Departures, Landed
from stepmesh_orchestrator.telemetry.digest import Digest, digest
from stepmesh_orchestrator.telemetry.observer import TurnRecord

RUN = RunId("r")
LOST = Failure(ErrorCode.UNREACHABLE, "silent")


def task(step: int, attempt: int = 1, item: int = 0) -> Task:
    return Task(RUN, item, step, attempt, 1, f"s{step}", "/c", b"null")


def results(*found: Result) -> list[Results]:
    return [Results(WorkerId("w"), "j", list(found))]


def result(step: int, attempt: int = 1, item: int = 0, started_us: int = 1_500_000) -> Result:
    return Result(RUN, item, step, attempt, b"1", None, started_us, 250)


def flying(*tasks: Task) -> Departures:
    departures = Departures()
    departures.launch({"cpu": list(tasks)}, 1_000)
    return departures


def turn(departures: Departures, events: list[Event], batches: list[Results] | None = None) -> Digest:
    return digest(TurnRecord(2_000, events, {}, batches or [], 0, 0.0), departures)


def test_a_result_lands_once() -> None:
    departures = flying(task(0))
    landed = departures.land(results(result(0), result(0)))
    assert list(landed) == [(RUN, 0, 0)]
    assert landed[RUN, 0, 0].departed.pool == "cpu"
    assert landed[RUN, 0, 0].worker == "w"
    assert departures.land(results(result(0))) == {}
    assert len(departures) == 0


def test_a_result_of_another_attempt_or_of_nothing_known_does_not_land() -> None:
    departures = flying(task(0, attempt=2))
    assert departures.land(results(result(0, attempt=1), result(1, attempt=2), result(0, attempt=2, item=9))) == {}
    assert len(departures) == 1


def test_the_wait_is_never_negative() -> None:
    departed = flying(task(0)).land(results(result(0)))[RUN, 0, 0].departed
    assert Landed(departed, result(0, started_us=1_500_000), "w").queue_s == 0.5
    assert Landed(departed, result(0, started_us=999_000), "w").queue_s == 0.0
    assert Landed(departed, None, "").queue_s == 0.0


def test_an_attempt_that_failed_without_a_result_is_given_up() -> None:
    departures = flying(task(0), task(1))
    found = turn(departures, [StepRetrying(RUN, 0, 0, 1, LOST, 3_000, True), StepFailed(RUN, 0, 1, LOST)])
    assert {key[2]: landed.result for key, landed in found.landed.items()} == {0: None, 1: None}
    assert len(found.notable) == 2
    assert len(departures) == 0


def test_a_failure_with_a_result_keeps_it() -> None:
    departures = flying(task(0))
    found = turn(departures, [StepFailed(RUN, 0, 0, LOST)], results(result(0)))
    assert found.landed[RUN, 0, 0].result == result(0)


def test_what_is_in_flight_when_its_item_ends_is_abandoned() -> None:
    departures = flying(task(0), task(1), task(0, item=1))
    found = turn(departures, [ItemEnded(RUN, 0, b"1")], results(result(0)))
    assert {step: left.attempt for step, left in found.abandoned[RUN, 0].items()} == {1: 1}
    assert len(departures) == 1


def test_nothing_is_kept_of_a_run_that_ended() -> None:
    departures = flying(task(0), task(0, item=1))
    turn(departures, [RunEnded(RUN, "cancelled")])
    assert len(departures) == 0
    assert departures.land(results(result(0))) == {}
