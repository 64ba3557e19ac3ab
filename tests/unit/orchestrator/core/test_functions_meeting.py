"""Durable functions in the core where two things meet: a cancel and code that cannot go on, two drivers, a retry and its queue."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.orchestrator.core.engine import Engine, flow, js, kinds, ref, step
from tests.unit.orchestrator.core.test_functions import BEGAN, Body, issued, sleeping

from stepmesh_broker.protocol.histories import CancelAsked, Issued, Kind, Settled, decode_records
from stepmesh_broker.protocol.messages import ErrorCode
from stepmesh_orchestrator.core.commands import CancelRun, PauseRun
from stepmesh_orchestrator.core.events import StepDispatched
from stepmesh_orchestrator.core.snapshot import state_hash


class Beside(Body):
    """A function `f`, with a step `g` beside it. `more`: fields of `Submit`."""

    def __init__(self, *inputs: int, **more: Any) -> None:
        Engine.__init__(self)
        self.submit(flow([step("f", "/py/saga"), step("g")], [ref("f"), ref("g")]), *inputs or (1,), **more)
        self.driver, self.number, self.base = 1, 0, 0


@pytest.mark.parametrize("how", ["diverged", "gone"])
def test_a_cancelled_function_whose_code_cannot_go_on_does_not_keep_its_run(how: str) -> None:
    body = Body()
    body.turn(BEGAN, sleeping(60_000), idle=True)
    body.send(CancelRun(body.run, "enough"))
    assert kinds(body.new) == ["RunCancelling", "HistoryGrew", "StepDispatched"]
    body.again()
    if how == "diverged":
        body.turn(idle=True, blocked="SM-1001")
    else:
        body.fail("f", ErrorCode.COMPONENT_NOT_FOUND, "no component /saga")
    assert "RunCancelled" in kinds(body.new)
    assert body.result()["error"]["message"] == "enough"


def test_a_second_driver_that_lacks_what_the_first_one_said_doubles_nothing() -> None:
    body = Body()
    body.turn(BEGAN, issued("r/a"), Settled("r/a", 0, b"1"))
    before = body.history()
    body.driver += 1
    answer = body.turn(BEGAN, issued("r/a"), number=1, base=0)
    assert answer.gone, "its task came twice, and it believes that it is the first"
    assert answer.why == "its task came twice, and another worker took this activation further"
    assert body.history() == before


def test_a_retry_that_waits_for_a_slot_is_the_same_after_a_replay() -> None:
    body = Beside(max_concurrency=1)
    body.turn(BEGAN, issued("r/a"))
    body.give_up("f")
    assert kinds(body.new)[-1] == "StepDispatched", "the other one has the slot"
    body.fire()
    assert not body.new
    before = state_hash(body.state)
    body.restart()
    assert state_hash(body.state) == before


def test_a_function_that_begins_anew_waits_for_no_events_of_before() -> None:
    body = Body(onError={"action": "retry", "maxRetries": 1})
    body.turn(BEGAN, Issued("r/paid", Kind.EVENT, "paid", "", js({"key": "k"}), "orders.py:7", 0, js({"since_ms": 0})))
    body.fail("f")
    assert kinds(body.new) == ["StepRetrying", "WaitOver"]


def test_a_function_that_shows_itself_while_its_run_is_cancelled_is_told() -> None:
    body = Beside()
    body.turn(BEGAN, sleeping(60_000), idle=True)
    late = body.task_ref("g")
    body.send(CancelRun(body.run, "enough"))
    body.driver += 1
    answer = body.turn(BEGAN, issued("r/approval", Kind.PROMISE), task=late, number=1, base=0, idle=True)
    assert not answer.left
    assert answer.records is not None
    assert answer.records[-1] == CancelAsked(body.session.now, "enough")


def test_a_body_that_begins_anew_while_it_is_cancelled_is_told_once_more() -> None:
    body = Body()
    body.turn(BEGAN, sleeping(60_000))
    body.send(CancelRun(body.run, "enough"))
    body.turn(continued=b"2", base=2)
    task = body.again()
    assert decode_records(task.history) == [CancelAsked(body.session.now, "enough")]
    answer = body.turn(BEGAN, sleeping(60_000))
    assert answer.records is None, "its first word may follow what it was asked"
    function = body.item().function(0)
    assert function is not None
    assert function.began() == BEGAN


def test_nothing_of_a_cancelled_run_starts_while_its_function_cleans_up() -> None:
    body = Beside(max_concurrency=1)
    body.turn(BEGAN, sleeping(60_000))
    body.send(CancelRun(body.run, "enough"))
    body.turn(issued("r/undo", Kind.CALL, "/py/undo"))
    assert body.turn(idle=True).left
    assert kinds(body.new) == ["HistoryGrew", "FunctionIdle"], "its slot is not for the step that waits for one"
    body.restart()
    assert not [event for event in body.new if isinstance(event, StepDispatched)]
    body.ring(60_000)
    assert kinds(body.new) == ["HistoryGrew", "StepDispatched"], "it goes on itself"


@pytest.mark.parametrize("cancelled", [True, False])
def test_no_item_of_a_cancelled_run_begins(cancelled: bool) -> None:
    body = Beside(1, 2, max_concurrency=2)
    body.turn(BEGAN, sleeping(60_000))
    if cancelled:
        body.send(CancelRun(body.run, "enough"))
    body.turn(idle=True)
    body.turn(idle=True)
    assert (1 in body.live().items) is not cancelled


def test_a_cancel_ends_a_pause_so_that_functions_can_clean_up() -> None:
    body = Beside(max_concurrency=1)
    body.turn(BEGAN, sleeping(60_000))
    body.send(PauseRun(body.run, "look"))
    assert body.turn(idle=True).left
    body.send(CancelRun(body.run, "enough"))
    assert kinds(body.new) == ["RunCancelling", "HistoryGrew", "RunResumed", "StepDispatched"]
    body.again()
    body.succeed("f", "undone")
    assert "RunCancelled" in kinds(body.new)
