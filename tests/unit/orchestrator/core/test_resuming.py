"""A run is let go on: blocked functions are tried again at once, and go to another version of their code where one is named. What a worker
of the old version is doing ends and counts; a crash, an image and another activation change nothing of it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.orchestrator.core.engine import NOW, Engine, flow, js, kinds, ref, step
from tests.unit.orchestrator.core.test_function_builds import blocked, function_of
from tests.unit.orchestrator.core.test_functions import BEGAN, Body, issued, sleeping

from stepmesh_broker.protocol.histories import Kind, Settled, Tried, decode_records, encode_records
from stepmesh_broker.protocol.messages import Accepted, ErrorCode, Failure, Refused, Task
from stepmesh_orchestrator.core.commands import CodeCame, FailAttempt, PauseRun, ResumeRun
from stepmesh_orchestrator.core.decide.parking import BLOCKED_MS
from stepmesh_orchestrator.core.decide.versions import named
from stepmesh_orchestrator.core.effects import Answered
from stepmesh_orchestrator.core.function_events import FunctionResumed
from stepmesh_orchestrator.core.functions import image_of
from stepmesh_orchestrator.core.snapshot import decode_state, encode_state, state_hash

OLD, NEW = "1+abc", "2+def"
ALIVE = frozenset((("py", "/saga", OLD), ("py", "/saga", NEW), ("gpu", "/saga", "4+fed"), ("py", "/other", "5+fed")))


def resume(engine: Engine, version: str = "", alive: frozenset[tuple[str, str, str]] = ALIVE) -> Any:
    """The answer."""
    engine.send(ResumeRun(engine.run, version, alive))
    (answered,) = [effect for effect in engine.new_effects if isinstance(effect, Answered)]
    return answered.answer


def waiting() -> Body:
    """On a timer, with its body alive in a worker of the old version."""
    body = Body()
    body.turn(BEGAN, sleeping(60_000), idle=True, version=OLD)
    return body


def brings(task: Task) -> tuple[int, bytes, bytes]:
    """What a worker could go on from without asking."""
    return task.driver, task.history, task.news


def checked(body: Body) -> None:
    """After a crash, and from a snapshot, the state is what it is."""
    state = body.state
    found = decode_state(encode_state(state), body.shelf)
    assert state_hash(found) == state_hash(state)
    known = function_of(body)
    body.restart()
    assert image_of(function_of(body)) == image_of(known)


# --- trying again -----------------------------------------------------------------------------------------------------


def test_what_is_blocked_is_tried_again_at_once_and_with_every_version() -> None:
    body = blocked(NEW)
    assert (function_of(body).unfit, function_of(body).blocks) == ([NEW], 1)
    assert resume(body) == Accepted(body.run)
    assert kinds(body.new) == ["FunctionResumed", "StepDispatched"]
    assert (function_of(body).unfit, function_of(body).blocks) == ([], 0)
    body.again()
    body.turn(idle=True, blocked="SM-1001 …", version=NEW)
    assert function_of(body).due_ms == body.session.now + BLOCKED_MS[0], "as after its first try"


def test_what_is_tried_just_now_is_left_alone() -> None:
    body = blocked(NEW)
    resume(body)
    assert resume(body) == Accepted(body.run, existing=True)
    assert not body.new


def test_nothing_is_blocked() -> None:
    body = waiting()
    assert resume(body) == Accepted(body.run, existing=True)
    assert not body.new


def test_the_end_of_a_pause_tries_again_too() -> None:
    body = blocked(NEW)
    body.send(PauseRun(body.run, ""))
    assert resume(body) == Accepted(body.run)
    assert kinds(body.new) == ["RunResumed", "FunctionResumed", "StepDispatched"]


@pytest.mark.parametrize("version", ["", OLD])
def test_a_crash_before_the_worker_has_it_loses_no_time(version: str) -> None:
    body = blocked(NEW)
    resume(body, version)
    body.journal, body.positions = body.journal[:-1], body.positions[:-1]  # it was not dispatched yet
    body.restart()
    assert "StepDispatched" not in kinds(body.new)
    body.ring(0)
    assert kinds(body.new) == ["StepDispatched"]


# --- another version --------------------------------------------------------------------------------------------------


def test_a_function_that_waits_goes_to_the_other_version_at_once() -> None:
    body = waiting()
    assert resume(body, "2") == Accepted(body.run)
    assert body.new[0] == FunctionResumed(body.run, 0, 0, NEW)
    assert kinds(body.new) == ["FunctionResumed", "StepDispatched"]
    assert function_of(body).pinned() == NEW
    task = body.again()
    assert brings(task) == (0, b"", b""), "so the old one's worker asks, and is told whose it is"
    assert task.records == 2
    checked(body)
    assert body.turn(idle=True, version=NEW).left
    assert function_of(body).pinned() == NEW


def test_later_activations_and_crashes_keep_it() -> None:
    body = waiting()
    resume(body, NEW)
    body.again()
    body.turn(idle=True, version=NEW)
    body.ring(60_000)
    task = body.again()
    assert (task.driver, task.history, decode_records(task.news)) == (2, b"", [Settled("r/sleep", NOW + 60_000)]), (
        "its own body may be alive"
    )
    body.turn(issued("r/a"), version=NEW)
    checked(body)
    assert function_of(body).pinned() == NEW


def test_a_crash_before_the_new_worker_has_it() -> None:
    body = waiting()
    resume(body, NEW)
    body.journal, body.positions = body.journal[:-1], body.positions[:-1]
    assert kinds(body.restart()) == ["StepDispatched"]
    assert brings(body.tasks[-1]) == (0, b"", b"")


def test_said_again_it_changes_nothing() -> None:
    body = waiting()
    resume(body, NEW)
    for _ in range(2):
        assert resume(body, NEW) == Accepted(body.run, existing=True)
        assert not body.new
        body.again()
        body.turn(idle=True, version=NEW)


def test_it_is_blocked_as_ever_and_goes_back() -> None:
    body = waiting()
    resume(body, NEW)
    body.again()
    body.turn(idle=True, blocked="SM-1001 …", version=NEW)
    function = function_of(body)
    assert (function.pinned(), function.unfit, function.blocked) == (NEW, [NEW], "SM-1001 …")
    checked(body)
    assert resume(body, OLD) == Accepted(body.run)
    assert kinds(body.new) == ["FunctionResumed", "StepDispatched"]
    body.again()
    assert body.turn(idle=True, version=OLD).left
    assert (function_of(body).pinned(), function_of(body).blocked) == (OLD, "")
    body.ring(60_000)
    body.again()
    body.turn(issued("r/a"), version=OLD)
    checked(body)


def test_when_its_worker_is_gone_other_code_may_still_take_it_over() -> None:
    body = waiting()
    resume(body, NEW)
    body.again()
    assert body.turn(idle=True, version="3+fed").left
    assert kinds(body.new) == ["HistoryGrew", "FunctionIdle", "StepDispatched"], "once, the other one may have been on its way"
    body.again()
    body.turn(issued("r/a"), version="3+fed")
    assert function_of(body).pinned() == "3+fed"


def test_a_pause_ends_and_a_refusal_leaves_it() -> None:
    body = waiting()
    body.send(PauseRun(body.run, ""))
    assert isinstance(resume(body, "9"), Refused)
    assert (not body.new, bool(body.live().tree.paused_ms)) == (True, True)
    assert resume(body, NEW) == Accepted(body.run)
    assert kinds(body.new) == ["RunResumed", "FunctionResumed", "StepDispatched"]


# --- while a worker has it --------------------------------------------------------------------------------------------


def test_a_step_that_is_under_way_ends_and_counts() -> None:
    body = Body()
    body.turn(BEGAN, issued("r/a"), issued("r/b"), version=OLD)
    assert resume(body, NEW) == Accepted(body.run)
    assert kinds(body.new) == ["FunctionResumed"]
    answer = body.turn(Settled("r/a", 0, b"1"), version=OLD)
    assert (answer.left, answer.gone, kinds(body.new)) == (False, False, ["HistoryGrew"]), "r/b goes on"
    checked(body)
    answer = body.turn(Settled("r/b", 0, b"2"), issued("r/note", Kind.ATTRIBUTE), version=OLD)
    assert (answer.left, answer.records) == (True, []), "no worker keeps its body"
    assert kinds(body.new) == ["HistoryGrew", "FunctionIdle", "StepDispatched"]
    assert function_of(body).pinned() == NEW, "what it issued last takes nothing over"
    task = body.again()
    assert (task.records, task.history, task.news) == (6, b"", b"")
    checked(body)
    body.turn(issued("r/c"), version=NEW)
    assert function_of(body).pinned() == NEW


@pytest.mark.parametrize("is_due", [True, False])
def test_a_step_that_is_to_be_tried_later_holds_nothing_up(is_due: bool) -> None:
    body = Body()
    body.turn(BEGAN, issued("r/a"), version=OLD)
    resume(body, NEW)
    failed = Tried("r/a", 0, 1, Failure(ErrorCode.WORKER_ERROR, "…"), 0 if is_due else 5_000)
    assert body.turn(failed, version=OLD).left is not is_due, "a worker may be trying it"


@pytest.mark.parametrize("base", [1, 0])
def test_what_may_be_done_again_holds_nothing_up(base: int) -> None:
    body = Body()
    body.turn(BEGAN, version=OLD)
    resume(body, NEW)
    ahead = issued("r/a"), Settled("r/a", NOW, b"1"), issued("r/b")
    assert body.turn(*ahead, exact=True, base=base, version=OLD).left, "the body went ahead of the history, so all of it is idempotent"
    assert len(function_of(body).records) == (4 if base else 1)


def test_a_worker_that_cannot_go_on_gives_it_over_too() -> None:
    body = blocked(NEW)
    body.send(CodeCame("py", frozenset(("/saga",))))
    body.again()
    resume(body, OLD)
    assert body.turn(idle=True, blocked="SM-1001 …", version=NEW).left
    assert kinds(body.new) == ["FunctionIdle", "StepDispatched"]
    assert not function_of(body).blocked


def test_the_new_version_may_have_the_activation_itself() -> None:
    body = waiting()
    body.ring(60_000)
    resume(body, NEW)
    assert kinds(body.new) == ["FunctionResumed"], "it is on its way to some worker"
    body.again()
    body.turn(issued("r/a"), version=NEW)
    assert not body.turn(Settled("r/a", 0, b"1"), version=NEW).left
    assert function_of(body).pinned() == NEW


def test_a_worker_that_is_lost_with_it() -> None:
    body = Body()
    body.turn(BEGAN, issued("r/a"), version=OLD)
    resume(body, NEW)
    body.send(FailAttempt(body.task_ref("f"), Failure(ErrorCode.UNREACHABLE, "its worker is gone")))
    body.fire()
    task = body.again()
    assert brings(task) == (0, b"", b""), "a body of the old version is of no use"
    body.turn(issued("r/b"), version=NEW)
    assert not body.turn(Settled("r/b", 0, b"1"), version=NEW).left


def test_it_is_said_while_other_code_may_take_over_what_belongs_to_it() -> None:
    body = Body()
    body.turn(BEGAN, issued("r/a"), version="3+fed")
    assert resume(body, OLD) == Accepted(body.run)
    assert resume(body, OLD) == Accepted(body.run, existing=True)
    body.turn(issued("r/b", Kind.ATTRIBUTE), version="3+fed")
    assert function_of(body).pinned() == OLD


# --- which one --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "found"),
    [
        ("3+4f2c1e9a", ["3+4f2c1e9a"]),
        ("3", ["3+4f2c1e9a"]),
        ("4", ["4+4f2caaaa", "4+9a77d0c1"]),
        ("3+4f", ["3+4f2c1e9a"]),
        ("9a77", ["4+9a77d0c1"]),
        ("4f2c", ["3+4f2c1e9a", "4+4f2caaaa"]),
        ("4f2c1", ["3+4f2c1e9a"]),
        ("33", []),
        ("3+9a", []),
        ("1", ["1"]),
    ],
)
def test_a_version_may_be_named_in_part(version: str, found: list[str]) -> None:
    assert named(version, ["1", "1+aa", "3+4f2c1e9a", "30+bbbb", "4+4f2caaaa", "4+9a77d0c1"]) == found


def refused(body: Engine, version: str, alive: frozenset[tuple[str, str, str]] = ALIVE) -> Refused:
    answer = resume(body, version, alive)
    assert isinstance(answer, Refused)
    assert not body.new
    assert answer.hint
    return answer


def test_a_version_that_no_live_worker_has_is_refused_with_those_that_live() -> None:
    answer = refused(waiting(), "4+fed")
    assert answer.code == "SM-1095"
    assert answer.message == "no live worker has version 4+fed. Versions that live workers have of /saga of pool py: 1+abc, 2+def"
    assert refused(waiting(), OLD, frozenset()).message.endswith("of /saga of pool py: none")


def test_a_version_that_may_be_several_is_refused_with_all_of_them() -> None:
    answer = refused(waiting(), "2", ALIVE | {("py", "/saga", "2+fff")})
    assert answer.code == "SM-1097"
    assert "2+def, 2+fff of /saga of pool py" in answer.message


@pytest.mark.parametrize("begun", [False, True])
def test_a_run_without_a_function_has_no_version(begun: bool) -> None:
    engine = Engine()
    engine.submit(flow([step("a", "/py/saga")], ref("a")))
    if begun:
        engine.succeed("a", 1)
        assert resume(engine, NEW).code == "SM-5221"
    else:
        assert refused(engine, NEW).code == "SM-1096"


def test_each_workflow_of_a_run_has_versions_of_its_own() -> None:
    body = Body()
    call = issued("r/call", Kind.CALL, {"n": 1}, "/py/other")
    body.shelf.put({"steps": [step("call", "/py/other", {"$input": "$"})], "output": ref("call")})
    body.turn(BEGAN, call, idle=True, version=OLD)
    below = body.tasks[-1].run
    body.turn(BEGAN, sleeping(60_000), idle=True, version="1+abc", task=body.task_ref("call", run=below))
    alive = ALIVE | {("py", "/other", "2+fff")}
    assert resume(body, NEW, alive) == Accepted(body.run)
    assert [event for event in body.new if isinstance(event, FunctionResumed)] == [FunctionResumed(body.run, 0, 0, NEW)]
    assert resume(body, "2", alive) == Accepted(body.run)
    assert [event for event in body.new if isinstance(event, FunctionResumed)] == [FunctionResumed(below, 0, 0, "2+fff")]


def test_a_history_that_is_long_does_not_travel_either() -> None:
    body = Body()
    body.turn(BEGAN, *(issued(f"r/{number}", Kind.ATTRIBUTE, "x" * 200) for number in range(200)), sleeping(60_000), idle=True, version=OLD)
    resume(body, NEW)
    assert brings(body.tasks[-1]) == (0, b"", b"")
    assert len(encode_records(body.history())) > 16 * 1024
    assert js(1) == b"1"
