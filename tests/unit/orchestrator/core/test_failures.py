"""Failures: which budget pays for another attempt, when it comes, and how an error is shown. Limits one under and one over."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.orchestrator.core.engine import Engine, flow, kinds, ref, step

from stepmesh_broker.protocol.messages import ErrorCode, Failure
from stepmesh_orchestrator.core.events import StepRetrying, Turn, decode_turn, encode_turn
from stepmesh_orchestrator.core.failures import MAX_DELAY_MS, Budget, delay_ms, error_json, flow_result, retry_budget
from stepmesh_orchestrator.core.flow.compiled import Backoff, ErrorAction, ErrorPolicy
from stepmesh_orchestrator.core.state import Wait

TRANSPORT = [ErrorCode.UNREACHABLE, ErrorCode.TIMEOUT]
COMPONENT = [ErrorCode.COMPONENT_FAILED, ErrorCode.RESOURCE_UNAVAILABLE]
NEVER = [code for code in ErrorCode if code not in TRANSPORT + COMPONENT]
RETRY = ErrorPolicy(ErrorAction.RETRY, max_retries=2)
KAPUT = Failure(ErrorCode.COMPONENT_FAILED, "kaput")


# --- budgets ---


@pytest.mark.parametrize("code", TRANSPORT)
@pytest.mark.parametrize("action", list(ErrorAction))
def test_transport_failures_are_retried_under_any_policy(code: ErrorCode, action: ErrorAction) -> None:
    failure, policy = Failure(code, ""), ErrorPolicy(action)

    assert retry_budget(failure, policy, None, 3) is Budget.TRANSPORT
    assert retry_budget(failure, policy, Wait(transport_used=2), 3) is Budget.TRANSPORT
    assert retry_budget(failure, policy, Wait(transport_used=3), 3) is None


@pytest.mark.parametrize("code", COMPONENT)
def test_component_failures_are_retried_when_the_policy_says_so(code: ErrorCode) -> None:
    failure = Failure(code, "")

    assert retry_budget(failure, ErrorPolicy(), None, 3) is None
    assert retry_budget(failure, ErrorPolicy(ErrorAction.USE_DEFAULT), None, 3) is None
    assert retry_budget(failure, RETRY, None, 3) is Budget.COMPONENT
    assert retry_budget(failure, RETRY, Wait(component_used=1), 3) is Budget.COMPONENT
    assert retry_budget(failure, RETRY, Wait(component_used=2), 3) is None


@pytest.mark.parametrize("action", list(ErrorAction))
def test_a_component_may_ask_for_its_retry(action: ErrorAction) -> None:
    failure = Failure(ErrorCode.COMPONENT_FAILED, "", None, 0)

    assert retry_budget(failure, ErrorPolicy(action), Wait(component_used=2), 3) is Budget.COMPONENT
    assert retry_budget(failure, ErrorPolicy(action), Wait(component_used=3), 3) is None


@pytest.mark.parametrize("code", NEVER)
def test_all_other_failures_are_never_retried(code: ErrorCode) -> None:
    assert retry_budget(Failure(code, "", None, 5), RETRY, None, 3) is None


# --- delays ---


@pytest.mark.parametrize(
    ("backoff", "delays"),
    [
        (Backoff("constant", 500, 60_000, jitter=0), [500, 500, 500, 500, 500, 500]),
        (Backoff("exponential", 1_000, 10_000, 2.0, 0), [1_000, 2_000, 4_000, 8_000, 10_000, 10_000]),
        (Backoff("exponential", 100, 10_000, 1.5, 0), [100, 150, 225, 337, 506, 759]),
        (Backoff("fibonacci", 100, 700, jitter=0), [100, 100, 200, 300, 500, 700]),
    ],
)
def test_delays_grow_up_to_the_maximum(backoff: Backoff, delays: list[int]) -> None:
    assert [delay_ms(backoff, retry, KAPUT, "") for retry in range(1, 7)] == delays


@pytest.mark.parametrize("kind", ["exponential", "fibonacci", "constant"])
def test_a_late_retry_does_not_overflow(kind: str) -> None:
    assert delay_ms(Backoff(kind, 60_000, 60_000, 1_000.0, 0), 1_000_000, KAPUT, "") == 60_000


def test_full_jitter_spreads_over_the_whole_delay_and_stays_in_it() -> None:
    delays = [delay_ms(Backoff("constant", 1_000), 1, KAPUT, f"run/{index}") for index in range(2_000)]

    assert all(0 <= delay <= 1_000 for delay in delays)
    assert min(delays) < 20
    assert max(delays) > 980
    assert 450 < sum(delays) / len(delays) < 550


def test_part_of_the_jitter_takes_part_of_the_delay() -> None:
    delays = [delay_ms(Backoff("constant", 1_000, jitter=0.2), 1, KAPUT, f"run/{index}") for index in range(500)]

    assert all(800 <= delay <= 1_000 for delay in delays)
    assert min(delays) < 820


def test_jitter_is_the_same_for_the_same_attempt() -> None:
    assert delay_ms(Backoff(), 3, KAPUT, "a/0/1/3") == delay_ms(Backoff(), 3, KAPUT, "a/0/1/3")
    assert len({delay_ms(Backoff(), 3, KAPUT, f"a/0/1/{attempt}") for attempt in range(20)}) > 15


@pytest.mark.parametrize(
    ("wish", "delay"), [(0, 0), (-5, 0), (70_000, 70_000), (MAX_DELAY_MS, MAX_DELAY_MS), (MAX_DELAY_MS + 1, MAX_DELAY_MS)]
)
def test_the_wish_of_the_component_goes_first_within_bounds(wish: int, delay: int) -> None:
    assert delay_ms(Backoff(), 1, Failure(ErrorCode.COMPONENT_FAILED, "", None, wish), "") == delay


def test_a_wish_for_ever_can_still_be_journaled() -> None:
    engine = Engine()
    engine.submit(flow([step("a")], ref("a")))

    found = engine.fail("a", retry_after_ms=2**64 - 1)

    assert decode_turn(encode_turn(Turn(1, 0, 1, 0, found))).events == found


# --- what a failed attempt does ---


def policy(**more: Any) -> dict[str, Any]:
    """A flow of one step with this `onError`."""
    return flow([step("a", onError=more)], ref("a"))


def test_both_budgets_are_spent_separately_and_attempts_count_up() -> None:
    engine = Engine(transport_max_retries=2)
    engine.submit(policy(action="retry", maxRetries=2))
    attempts = []
    for code in (ErrorCode.UNREACHABLE, ErrorCode.COMPONENT_FAILED, ErrorCode.TIMEOUT, ErrorCode.RESOURCE_UNAVAILABLE):
        (retrying,) = engine.fail("a", code)
        assert isinstance(retrying, StepRetrying)
        assert retrying.transport == (code in TRANSPORT)
        attempts.append(retrying.attempt)
        engine.fire()
    assert attempts == [1, 2, 3, 4]
    assert engine.item().attempt(0) == 5

    assert kinds(engine.fail("a")) == ["StepFailed", "ItemEnded", "RunEnded"]


def test_budgets_survive_a_restart() -> None:
    engine = Engine(transport_max_retries=1)
    engine.submit(policy())
    engine.give_up("a")
    engine.restart()
    engine.fire()

    assert kinds(engine.give_up("a"))[0] == "StepFailed"


def test_a_waiting_retry_holds_no_slot_and_keeps_its_due_time() -> None:
    engine = Engine(backoff=Backoff("constant", 5_000, jitter=0))
    engine.submit(flow([step("a"), step("b")], [ref("a"), ref("b")]), max_concurrency=1)

    engine.give_up("a")

    assert engine.dispatched() == ["b"]
    assert engine.timer().due_ms == engine.session.now + 5_000


def test_the_steps_own_backoff_is_for_its_own_failures() -> None:
    engine = Engine(backoff=Backoff("constant", 5_000, jitter=0))
    engine.submit(policy(action="retry", backoff={"type": "constant", "initial": "20ms", "jitter": 0}))

    engine.fail("a")
    assert engine.timer().due_ms == engine.session.now + 20
    engine.fire()
    engine.give_up("a")
    assert engine.timer().due_ms == engine.session.now + 5_000


def test_the_retry_starts_no_earlier_than_due() -> None:
    engine = Engine(backoff=Backoff("constant", 1_000, jitter=0))
    engine.submit(policy())
    engine.give_up("a")

    assert engine.fire(early_ms=1) == []
    assert kinds(engine.fire()) == ["StepDispatched"]
    assert engine.tasks[-1].attempt == 2


def test_a_task_that_took_its_workers_down_is_parked() -> None:
    engine = Engine(transport_max_retries=0)
    engine.submit(policy())

    engine.give_up("a")

    (parked,) = [effect for effect in engine.new_effects if type(effect).__name__ == "ParkTask"]
    assert (parked.step_id, parked.task.attempt, parked.reason) == ("a", 1, "gone")


def test_a_timeout_is_not_parked() -> None:
    engine = Engine(transport_max_retries=0)
    engine.submit(policy())

    engine.give_up("a", ErrorCode.TIMEOUT)

    assert not [effect for effect in engine.new_effects if type(effect).__name__ == "ParkTask"]


# --- how they are shown ---


def test_errors_show_the_name_of_their_code_and_their_data() -> None:
    assert error_json(KAPUT) == b'{"code":"COMPONENT_FAILED","message":"kaput"}'
    assert json.loads(error_json(Failure(8, 'a "b"', b'{"x":[1]}'))) == {
        "code": "EXPRESSION_FAILURE",
        "message": 'a "b"',
        "data": {"x": [1]},
    }


def test_flow_results() -> None:
    assert flow_result(b"[1]") == b'{"outcome":"success","result":[1]}'
    assert json.loads(flow_result(KAPUT)) == {"outcome": "failed", "error": {"code": "COMPONENT_FAILED", "message": "kaput"}}
