"""Durable functions in the core where two things meet: a cancel and code that cannot go on, two drivers, a retry and its queue."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.orchestrator.core.engine import Engine, flow, js, kinds, ref, step
from tests.unit.orchestrator.core.test_functions import BEGAN, Body, issued, sleeping

from stepmesh_broker.protocol.histories import Issued, Kind, Settled
from stepmesh_broker.protocol.messages import ErrorCode
from stepmesh_orchestrator.core.commands import CancelRun
from stepmesh_orchestrator.core.snapshot import state_hash


class Beside(Body):
    """A function `f`, with a step `g` beside it. `more`: fields of `Submit`."""

    def __init__(self, **more: Any) -> None:
        Engine.__init__(self)
        self.submit(flow([step("f", "/py/saga"), step("g")], [ref("f"), ref("g")]), 1, **more)
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
    assert body.turn(BEGAN, issued("r/a"), number=1, base=0).gone, "its task came twice, and it believes that it is the first"
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
