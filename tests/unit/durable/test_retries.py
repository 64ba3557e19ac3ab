"""Attempts of local steps: how many, when, and which failures are worth another one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.simulation.virtual_loop import run_virtual
from tests.unit.durable.bodies import BEGAN_MS, RUN

from stepmesh.durable import wf
from stepmesh.durable.app import App
from stepmesh.durable.attempts import StepInfo
from stepmesh.durable.durations import BadDuration
from stepmesh.durable.errors import Fatal, OutsideRun, RetryAfter, StepFailed
from stepmesh.durable.execution import Execution, State
from stepmesh.durable.retrying import NEVER, Retry, delay_ms
from stepmesh.durable.steps import Step
from stepmesh.durable.testing import env
from stepmesh.errors import InvalidInput, RetryLater
from stepmesh_broker.errors import StepmeshError
from stepmesh_broker.protocol.histories import Settled, Tried

KEY = f"{RUN}/r/charge"


def test_the_delay_doubles_up_to_the_longest_and_is_the_same_everywhere() -> None:
    policy = Retry(max=9, backoff="1s..10s")
    delays = [delay_ms(policy, KEY, attempt, ValueError()) for attempt in range(1, 10)]
    assert delays == [delay_ms(policy, KEY, attempt, ValueError()) for attempt in range(1, 10)]
    for delay, longest in zip(delays[:-1], (1_000, 2_000, 4_000, 8_000, 10_000, 10_000, 10_000, 10_000), strict=True):
        assert delay is not None
        assert longest / 2 <= delay <= longest
    assert delays[-1] is None
    assert delay_ms(policy, f"{KEY}#2", 1, ValueError()) != delays[0]
    assert delay_ms(Retry(max=2**63, backoff=5), KEY, 10_000, ValueError()) <= 5_000  # type: ignore[operator]


@pytest.mark.parametrize(
    ("policy", "problem", "is_tried"),
    [
        (NEVER, ValueError(), False),
        (Retry(), ValueError(), True),
        (Retry(), Fatal("no"), False),
        (Retry(), StepmeshError("no"), False),
        (Retry(), InvalidInput("no"), False),
        (Retry(on=OSError), ConnectionError(), True),
        (Retry(on=(OSError, KeyError)), ValueError(), False),
        (Retry(on=lambda problem: "soon" in str(problem)), ValueError("soon"), True),
        (Retry(on=lambda problem: "soon" in str(problem)), ValueError("never"), False),
        (NEVER, RetryAfter(1), True),
        (Retry(max=1), RetryAfter(1), False),
        (NEVER, RetryLater(1), True),
        (Retry(on=OSError), RetryAfter(1), True),
    ],
)
def test_what_is_worth_another_attempt(policy: Retry, problem: BaseException, is_tried: bool) -> None:
    assert (delay_ms(policy, KEY, 1, problem) is not None) == is_tried


def test_a_wish_is_kept_to_the_end_of_the_attempts() -> None:
    assert [delay_ms(NEVER, KEY, attempt, RetryAfter("30s")) for attempt in (1, 3, 4)] == [30_000, 30_000, None]
    assert [delay_ms(Retry(max=2), KEY, attempt, RetryAfter("30s")) for attempt in (1, 2)] == [30_000, None]


@pytest.mark.parametrize("make", [lambda: Retry(max=0), lambda: Retry(backoff="soon"), lambda: RetryAfter("soon")])
def test_a_policy_that_makes_no_sense_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(BadDuration) as caught:
        make()
    assert caught.value.code == "SM-1070"


async def test_a_step_is_tried_until_it_is_done_at_its_times() -> None:
    seen: list[StepInfo] = []

    async def charge() -> str:
        seen.append(wf.step())
        if len(seen) < 3:
            raise ConnectionError(f"attempt {len(seen)}")
        return "paid"

    step: Step[[], str] = Step(charge, retry=Retry(max=5, backoff="1m"))

    async def body() -> str:
        return await step()

    workflow = App("orders").workflow(body)
    async with env(workflow) as t:
        run = await t.start(workflow)
        assert await run.result() == "paid"
        t.crash_at_every_record(run)
    assert [one.attempt for one in seen] == [1, 2, 3]
    assert {(one.name, one.id, one.idempotency_key) for one in seen} == {("charge", "r/charge", f"{run.id}/r/charge")}
    first, second, last = run.records[1:]
    assert isinstance(first, Tried)
    assert isinstance(second, Tried)
    assert isinstance(last, Settled)
    assert (first.failure.message, second.attempt, last.attempt) == ("attempt 1", 2, 3)
    assert first.at_ms + 30_000 <= first.due_ms <= first.at_ms + 60_000
    assert second.at_ms == first.due_ms
    assert last.at_ms == second.due_ms


async def test_a_step_that_fails_for_good_says_how_often_it_was_tried() -> None:
    async def charge() -> None:
        raise ConnectionError("refused")

    async def body() -> Any:
        try:
            await Step(charge, retry=Retry(max=2))()
        except StepFailed as problem:
            return [problem.attempts, problem.code.name, str(problem)]

    workflow = App("orders").workflow(body)
    async with env(workflow) as t:
        assert await (await t.start(workflow)).result() == [2, "COMPONENT_FAILED", "charge failed after 2 attempts: refused"]


def attempt_of(step: Step[[], Any]) -> Any:
    """What its first attempt is recorded as."""
    execution = Execution(step, BEGAN_MS, RUN)
    (local,) = execution.turn().local.values()
    execution.drop()
    return asyncio.run(local.once(lambda: BEGAN_MS + 5))


def test_an_attempt_that_takes_too_long_is_ended_and_may_be_tried_again() -> None:
    async def endless() -> None:
        await asyncio.Event().wait()

    ended = attempt_of(Step(endless, timeout="10ms"))
    assert isinstance(ended, Settled)
    assert ended.failure is not None
    assert (ended.failure.code, ended.failure.message) == (1, "the attempt ran longer than 0.01 s")
    assert isinstance(attempt_of(Step(endless, timeout="10ms", retry=Retry(max=2))), Tried)


def test_a_timeout_of_the_step_itself_is_its_failure() -> None:
    async def raises() -> None:
        raise TimeoutError("of the service")

    ended = attempt_of(Step(raises, timeout=60))
    assert (ended.failure.code, ended.failure.message) == (3, "of the service")


def test_an_ordinary_function_runs_in_a_thread_of_its_own_and_knows_its_step() -> None:
    def where() -> list[Any]:
        return [threading.current_thread().name.rpartition("_")[0], wf.step().attempt]

    assert attempt_of(Step(where)).value == b'["stepmesh-step",1]'


def test_a_step_that_cancels_itself_or_exits_has_failed() -> None:
    async def cancels() -> None:
        raise asyncio.CancelledError

    def exits() -> None:
        raise SystemExit(3)

    assert "cancelled itself" in attempt_of(Step(cancels)).failure.message
    assert "sys.exit(3)" in attempt_of(Step(exits)).failure.message


def test_an_ordinary_function_that_raises_stop_iteration_has_failed() -> None:
    def takes_of_nothing() -> int:
        return next(iter([]))

    ended = attempt_of(Step(takes_of_nothing, timeout="20s"))
    assert (ended.failure.code, ended.failure.message) == (3, "the step raised StopIteration")


@pytest.mark.parametrize(("pause", "is_silent"), [(9.9, False), (10.1, True)])
def test_an_attempt_gives_signs_of_life_or_is_ended(pause: float, is_silent: bool) -> None:
    async def slow() -> str:
        for _ in range(3):
            wf.step().heartbeat()
            await asyncio.sleep(pause)
        return "done"

    async def main() -> Any:
        execution = Execution(Step(slow, heartbeat="10s", retry=Retry(max=2)), BEGAN_MS, RUN)
        (local,) = execution.turn().local.values()
        execution.drop()
        return await local.once(lambda: BEGAN_MS)

    ended = run_virtual(main())
    if not is_silent:
        assert ended.value == b'"done"'
        return
    assert isinstance(ended, Tried)
    assert (ended.failure.code, ended.failure.message) == (1, "the attempt gave no sign of life for 10 s")


def test_an_ordinary_function_gives_them_from_its_thread() -> None:
    release = threading.Event()

    def speaks() -> str:
        wf.step().heartbeat()
        return "spoke"

    def is_silent() -> None:
        release.wait(20)

    assert attempt_of(Step(speaks, heartbeat=60)).value == b'"spoke"'
    try:
        assert "no sign of life for 0.01 s" in attempt_of(Step(is_silent, heartbeat="10ms")).failure.message
    finally:
        release.set()


def test_a_timeout_within_an_attempt_that_gives_signs_is_its_own() -> None:
    async def raises() -> None:
        raise TimeoutError("of the service")

    assert attempt_of(Step(raises, heartbeat=60)).failure.message == "of the service"
    with pytest.raises(BadDuration, match="no time at all"):
        Step(raises, heartbeat=0)


async def test_who_waits_for_an_attempt_may_cancel_it() -> None:
    began = asyncio.Event()

    async def endless() -> None:
        began.set()
        await asyncio.Event().wait()

    execution = Execution(Step(endless), BEGAN_MS, RUN)
    (local,) = execution.turn().local.values()
    execution.drop()
    task = asyncio.create_task(local.once(lambda: BEGAN_MS))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_record_of_an_attempt_does_not_move_the_body() -> None:
    async def body() -> str:
        return await wf.run("charge", lambda: "x", retry=Retry(max=3))

    execution = Execution(body, BEGAN_MS, RUN)
    turn = execution.turn()
    failed = turn.local["r/charge"].failed(ConnectionError("no"), BEGAN_MS + 1)
    assert isinstance(failed, Tried)
    again = execution.turn([*turn.commands, failed])
    assert (again.state, again.commands) == (State.IDLE, [])
    local = again.local["r/charge"]
    assert (local.attempt, local.due_ms) == (2, failed.due_ms)
    execution.drop()


def test_what_a_step_knows_is_refused_elsewhere() -> None:
    with pytest.raises(OutsideRun) as caught:
        wf.step()
    assert "test_retries.py:" in str(caught.value)
    assert "in the function of a step" in caught.value.hint
