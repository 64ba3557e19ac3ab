"""Versions of the code of durable functions: which one a function belongs to, which is unfit for it, and what happens when code comes."""

from __future__ import annotations

import pytest
from tests.unit.orchestrator.core.engine import kinds
from tests.unit.orchestrator.core.test_functions import BEGAN, Body, issued, sleeping

from stepmesh_broker.protocol.histories import Began
from stepmesh_orchestrator.core.commands import CodeCame, PauseRun, RestTree, ResumeRun
from stepmesh_orchestrator.core.evolve.functions import MOST_UNFIT
from stepmesh_orchestrator.core.functions import Function

HERE = CodeCame("py", frozenset(("/saga", "/other")))


def function_of(body: Body) -> Function:
    """Of the run's only step."""
    function = body.item().function(0)
    assert function is not None
    return function


def blocked(version: str = "2+def") -> Body:
    body = Body()
    body.turn(BEGAN, issued("r/a"), idle=True, blocked="SM-1001 …", version=version)
    return body


def test_a_function_belongs_to_the_code_that_issued_last() -> None:
    body = Body()
    body.turn(BEGAN, sleeping(10), idle=True, version="1+abc")
    assert function_of(body).pinned() == "1+abc"
    body.ring(10)
    body.again()
    body.turn(version="2+def")
    assert function_of(body).pinned() == "1+abc", "code that only reads takes nothing over"
    body.turn(issued("r/a"), version="2+def")
    assert function_of(body).pinned() == "2+def"
    body.restart()
    assert function_of(body).pinned() == "2+def"


def test_an_image_without_a_version_has_that_of_the_first_record() -> None:
    assert Function([Began(0, "1+abc")]).pinned() == "1+abc"
    assert Function().pinned() == ""


def test_a_body_that_begins_anew_belongs_to_the_code_that_takes_it_then() -> None:
    body = Body()
    body.turn(BEGAN, sleeping(60_000), continued=b"2", version="1+abc")
    assert function_of(body).pinned() == ""


def test_which_code_cannot_go_on_is_remembered_until_some_code_goes_on() -> None:
    body = blocked()
    for version in ("3+fed", "2+def"):
        body.send(HERE)
        body.again()
        body.turn(idle=True, blocked="SM-1001 …", version=version)
    assert function_of(body).unfit == ["2+def", "3+fed"]
    body.restart()
    assert function_of(body).unfit == ["2+def", "3+fed"]
    body.send(HERE)
    body.again()
    body.turn(issued("r/b"), version="4+abc")
    assert (function_of(body).unfit, function_of(body).blocked) == ([], "")


@pytest.mark.parametrize("more", [0, 1])
def test_so_many_versions_are_remembered(more: int) -> None:
    body = blocked("0")
    for number in range(1, MOST_UNFIT + more):
        body.send(HERE)
        body.again()
        body.turn(idle=True, blocked="SM-1001 …", version=f"{number}")
    unfit = function_of(body).unfit
    assert (len(unfit), "0" in unfit, unfit[-1]) == (MOST_UNFIT, not more, f"{MOST_UNFIT - 1 + more}")


def test_code_that_comes_brings_back_what_is_blocked_at_once() -> None:
    body = blocked()
    body.send(HERE)
    assert kinds(body.new) == ["StepDispatched"]
    body.send(HERE)
    assert not body.new, "a worker has it"


@pytest.mark.parametrize("came", [CodeCame("py", frozenset(("/other",))), CodeCame("gpu", frozenset(("/saga",)))])
def test_other_code_brings_back_nothing(came: CodeCame) -> None:
    body = blocked()
    body.send(came)
    assert not body.new


def test_what_waits_for_something_else_is_left_alone() -> None:
    body = Body()
    body.turn(BEGAN, sleeping(60_000), idle=True)
    body.send(HERE)
    assert not body.new


def test_a_paused_run_gets_the_code_when_it_goes_on() -> None:
    body = blocked()
    body.send(PauseRun(body.run, ""))
    body.send(HERE)
    assert "StepDispatched" not in kinds(body.new)
    body.send(ResumeRun(body.run))
    assert "StepDispatched" in kinds(body.new)


@pytest.mark.parametrize("is_blocked", [True, False])
def test_what_is_blocked_stays_in_memory(is_blocked: bool) -> None:
    body = Body()
    body.turn(BEGAN, sleeping(3_600_000), idle=True)
    if is_blocked:
        body = blocked()
        for _ in range(8):  # until its next try is far away
            body.ring(function_of(body).due_ms - body.session.now)
            body.again()
            body.turn(idle=True, blocked="SM-1001 …")
    body.send(RestTree(body.live().tree.root, 1_000_000))
    assert ("TreeDormant" in kinds(body.new)) is not is_blocked
