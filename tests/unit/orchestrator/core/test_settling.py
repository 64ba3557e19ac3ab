"""`/approval`, and answers to waits by their tokens: what counts as a decision, who may decide, and what is said when it is too late."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.orchestrator.core.engine import NOW, ROOT, Engine, flow, js, kinds, ref, step

from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.letters import Unsubscribe, Waiter
from stepmesh_broker.protocol.messages import Accepted, Refused
from stepmesh_orchestrator.core.commands import SettleWait
from stepmesh_orchestrator.core.decide.settling import told_of_ended, waiter_row
from stepmesh_orchestrator.core.effects import Send
from stepmesh_orchestrator.core.rows import ItemRow

AT = "2023-11-14T22:13:20.000Z"
WAITER = Waiter(ROOT, 0, 0, 1)


def approval(**input: Any) -> Engine:
    """One that waits, beside a step that keeps the item alive."""
    engine = Engine()
    more = {"onError": input.pop("on_error")} if "on_error" in input else {}
    engine.submit(flow([step("ok", "/builtin/approval", input, **more), step("b")], [ref("ok"), ref("b")]))
    return engine


def settle(engine: Engine, value: Any, *, rejected: bool = False, waiter: Waiter = WAITER) -> Any:
    engine.send(SettleWait(waiter, js(value), rejected))
    return engine.answer()


@pytest.mark.parametrize(
    ("value", "rejected", "approved", "by", "comment"),
    [
        (None, False, True, None, None),
        (True, False, True, None, None),
        (False, False, False, None, None),
        ({"approved": True, "by": "ann", "comment": "fine"}, False, True, "ann", "fine"),
        ({"approved": False, "by": "ann"}, False, False, "ann", None),
        (None, True, False, None, None),
        ("too dear", True, False, None, "too dear"),
        ({"by": "ann", "comment": "no"}, True, False, "ann", "no"),
        ({"approved": True}, True, False, None, None),
    ],
)
def test_a_decision_is_the_output(value: Any, rejected: bool, approved: bool, by: str | None, comment: str | None) -> None:
    engine = approval(title="Send it?")

    assert settle(engine, value, rejected=rejected) == Accepted(ROOT)
    assert kinds(engine.new) == ["StepSucceeded"]
    engine.succeed("b", 1)
    assert engine.result()["result"][0] == {"approved": approved, "by": by, "comment": comment, "at": AT}


@pytest.mark.parametrize(
    "value", ["yes", 1, [], {}, {"approved": "yes"}, {"approved": None}, {"approved": True, "who": "me"}, {"by": "ann"}]
)
def test_what_is_no_decision_is_refused_and_the_step_waits_on(value: Any) -> None:
    engine = approval()
    answer = settle(engine, value)

    assert isinstance(answer, Refused)
    assert answer.code == "SM-5203"
    assert engine.new == []
    assert settle(engine, True) == Accepted(ROOT)


@pytest.mark.parametrize(("by", "allowed"), [("ann", True), ("bob", True), ("eve", False), (None, False)])
def test_only_those_who_are_named_may_decide(by: str | None, allowed: bool) -> None:
    answer = settle(approval(approvers=["ann", "bob"]), {"approved": True, "by": by})

    assert (answer == Accepted(ROOT)) is allowed
    assert allowed or (answer.code, "ann, bob" in answer.hint) == ("SM-5204", True)


def test_the_same_decision_again_is_no_refusal_and_another_one_is_too_late() -> None:
    engine = approval()
    settle(engine, {"approved": True, "by": "ann"})

    assert settle(engine, {"approved": True, "by": "ann"}) == Accepted(ROOT, existing=True)
    late = settle(engine, {"approved": False, "by": "ann"})
    assert (late.code, late.message) == ("SM-1060", f"this token is settled already at {AT}")


def test_a_wait_that_ended_by_its_time_has_expired() -> None:
    engine = approval(timeout="1h", on_error={"action": "useDefault", "defaultValue": None})
    engine.fire()

    answer = settle(engine, True)
    assert (answer.code, answer.message) == (
        "SM-1060",
        "this token is expired: its wait ended without an answer at 2023-11-14T23:13:20.000Z",
    )


@pytest.mark.parametrize("waiter", [Waiter(ROOT, 0, 1, 1), Waiter(ROOT, 0, 9, 1), Waiter(ROOT, 0, -1, 1), Waiter(ROOT, 0, 0, 1, "command")])
def test_a_token_of_what_does_not_wait_is_unknown(waiter: Waiter) -> None:
    answer = settle(approval(), True, waiter=waiter)

    assert (answer.code, answer.message) == ("SM-1060", "this token is unknown: no such wait is known")


@pytest.mark.parametrize("waiter", [Waiter(ROOT, 7, 0, 1), Waiter(RunId("gone"), 0, 0, 1)])
def test_a_token_of_an_item_that_is_over_has_expired(waiter: Waiter) -> None:
    assert settle(approval(), True, waiter=waiter).code == "SM-1060"


def test_what_the_read_model_says_of_an_ended_item_is_told() -> None:
    engine = approval()
    settle(engine, True)
    engine.succeed("b", 1)
    (row,) = [row for row in engine.session.rows if isinstance(row, ItemRow)]

    assert told_of_ended(waiter_row(WAITER, row.steps), SettleWait(WAITER, b"true")) == Accepted(ROOT, existing=True)
    late = told_of_ended(waiter_row(WAITER, row.steps), SettleWait(WAITER, b"false"))
    assert isinstance(late, Refused)
    assert late.message == f"this token is settled already at {AT}"
    unknown = told_of_ended(waiter_row(Waiter(ROOT, 0, 0, 2), row.steps), SettleWait(WAITER, b"true"))
    assert isinstance(unknown, Refused)
    assert "unknown" in unknown.message
    promise = Waiter(ROOT, 0, 0, 0, "r/promise#1")
    over = told_of_ended(waiter_row(promise, row.steps), SettleWait(promise, b"true"))
    assert isinstance(over, Refused)
    assert over.message == f"this token is expired: its step is over at {AT}"


def test_an_event_may_be_answered_by_token_too() -> None:
    engine = Engine()
    engine.submit(flow([step("w", "/builtin/wait_for_event", {"name": "paid", "key": "k"})], ref("w")))

    assert settle(engine, {"any": ["thing"]}) == Accepted(ROOT)
    assert [effect.letter for effect in engine.new_effects if isinstance(effect, Send)] == [Unsubscribe("paid", "k", WAITER, "default")]
    assert engine.result()["result"] == {"any": ["thing"]}


def test_an_event_that_is_rejected_fails_its_step() -> None:
    engine = Engine()
    engine.submit(flow([step("w", "/builtin/wait_for_event", {"name": "paid"})], ref("w")))
    settle(engine, {"why": "bankrupt"}, rejected=True)

    error = engine.result()["error"]
    assert (error["code"], error["data"]) == ("COMPONENT_FAILED", {"why": "bankrupt"})


@pytest.mark.parametrize(("value", "code"), [(b"{", "SM-5200"), (b'"' + b"x" * 99 + b'"', "SM-5201"), (b'"' + b"x" * 98 + b'"', None)])
def test_an_answer_is_json_of_a_size(value: bytes, code: str | None) -> None:
    engine = Engine(event_bytes=100)
    engine.submit(flow([step("w", "/builtin/wait_for_event", {"name": "paid"})], ref("w")))
    engine.send(SettleWait(WAITER, value))
    answer: Any = engine.answer()

    assert (answer.code if isinstance(answer, Refused) else None) == code


@pytest.mark.parametrize("value", [{"timeout": "soon"}, {"approvers": "ann"}, {"title": 1}, {"more": 1}, None])
def test_bad_input_is_told_at_once(value: Any) -> None:
    engine = Engine()
    engine.submit(flow([step("ok", "/builtin/approval", {"$literal": value})], ref("ok")))

    assert engine.result()["error"]["code"] == "INVALID_INPUT"


def test_an_approval_stands_after_a_crash() -> None:
    engine = approval(timeout="1h")
    engine.restart()

    assert engine.timer().due_ms == NOW + 3_600_000
    assert settle(engine, True) == Accepted(ROOT)
