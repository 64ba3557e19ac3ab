"""Pausing a tree: what stops, what counts all the same, what time does meanwhile, and that it goes on exactly where it stood."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.orchestrator.core.engine import NOW, ROOT, Engine, flow, kinds, parent_of, ref, step
from tests.unit.orchestrator.core.test_dormancy import nap, rest, wake

from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.messages import Accepted, ErrorCode, Refused, TaskRef
from stepmesh_orchestrator.core import events
from stepmesh_orchestrator.core.commands import CancelRun, FireTimer, PauseRun, ResumeRun, WakeSteps
from stepmesh_orchestrator.core.effects import SetTimer
from stepmesh_orchestrator.core.explain import explain
from stepmesh_orchestrator.core.rows import RunRow
from stepmesh_orchestrator.core.snapshot import SNAPSHOT_FORMAT, decode_state, encode_state, state_hash

CHAIN = flow([step("a"), step("b", input=ref("a"))], ref("b"))


def pause(engine: Engine, run: RunId = ROOT) -> list[Any]:
    return engine.send(PauseRun(run, "maintenance"))


def resume(engine: Engine, run: RunId = ROOT) -> list[Any]:
    return engine.send(ResumeRun(run))


def refused(engine: Engine) -> str:
    answer = engine.answer()
    assert isinstance(answer, Refused)
    assert answer.hint
    return answer.code


def statuses(engine: Engine, run: RunId = ROOT) -> list[str]:
    return [row.status for row in engine.session.rows if isinstance(row, RunRow) and row.run == run]


def test_what_is_in_flight_ends_and_counts_and_nothing_new_starts() -> None:
    engine = Engine()
    engine.submit(CHAIN)
    assert pause(engine) == [events.RunPaused(ROOT, "maintenance")]
    assert engine.answer() == Accepted(ROOT)

    assert kinds(engine.succeed("a", 1)) == ["StepSucceeded"]

    assert resume(engine) == [events.RunResumed(ROOT), events.StepDispatched(ROOT, 0, 1, 1)]
    engine.succeed("b", 2)
    assert engine.result() == {"outcome": "success", "result": 2}
    assert statuses(engine) == ["running", "paused", "running", "completed"]


def test_items_do_not_start() -> None:
    engine = Engine()
    engine.submit(CHAIN, 1, 2, 3, max_concurrency=1)
    pause(engine)
    engine.succeed("a", 1)
    assert engine.live().next_item == 1
    assert kinds(resume(engine)) == ["RunResumed", "StepDispatched"]


def test_a_run_whose_last_task_ends_meanwhile_is_over() -> None:
    engine = Engine()
    engine.submit(flow([step("a")], ref("a")))
    pause(engine)
    assert kinds(engine.succeed("a", 1)) == ["StepSucceeded", "ItemEnded", "RunEnded"]
    assert not engine.state.trees
    resume(engine)
    assert refused(engine) == "SM-5221"


def test_both_may_be_asked_twice() -> None:
    engine = Engine()
    engine.submit(CHAIN)
    pause(engine)
    assert pause(engine) == []
    assert engine.answer() == Accepted(ROOT, existing=True)
    resume(engine)
    assert resume(engine) == []
    assert engine.answer() == Accepted(ROOT, existing=True)


@pytest.mark.parametrize("command", [PauseRun, ResumeRun])
def test_who_is_refused(command: Any) -> None:
    body = flow([step("w")], ref("w"))
    engine = Engine()
    engine.shelf.put(body)
    engine.submit(flow([step("s", "/builtin/eval", {"flow": {"$literal": body}})], ref("s")))
    child = engine.tasks[0].run
    more = ("",) if command is PauseRun else ()

    engine.send(command(child, *more))
    assert refused(engine) == "SM-5220"
    assert ROOT in engine.answer().hint  # type: ignore[union-attr]  # it is a refusal
    engine.send(command(RunId("nobody"), *more))
    assert refused(engine) == "SM-5003"
    engine.cancel(ROOT)
    engine.send(command(ROOT, *more))
    assert refused(engine) == "SM-5221"


def test_the_whole_tree_stands_still() -> None:
    body = flow([step("w", input={"$input": "$"}), step("x", input=ref("w"))], ref("x"))
    engine = Engine()
    engine.shelf.put(body)
    engine.submit(flow([step("m", "/builtin/map", {"workflow": {"$literal": body}, "items": [1, 2]})], ref("m")), max_concurrency=1)
    child = engine.tasks[0].run
    pause(engine)
    assert statuses(engine, child)[-1] == "paused"

    engine.succeed("w", 1, run=child)

    assert engine.dispatched() == []
    resume(engine)
    assert engine.dispatched() == ["x"]
    assert statuses(engine, child)[-1] == "running"


def test_a_component_may_start_a_sub_run_which_waits() -> None:
    child = RunId("child")
    engine = Engine()
    engine.submit(flow([step("t")], ref("t")))
    pause(engine)
    engine.submit(flow([step("w")], ref("w")), run=child, parent=parent_of(engine.tasks[0]))
    assert engine.dispatched() == []
    assert statuses(engine, child) == ["paused"]
    resume(engine)
    assert engine.dispatched() == ["w"]


def test_a_tree_whose_root_is_over_can_go_on() -> None:
    child = RunId("child")
    engine = Engine()
    engine.submit(flow([step("t")], ref("t")))
    engine.submit(flow([step("w")], ref("w")), run=child, parent=parent_of(engine.tasks[0]))
    pause(engine)
    engine.succeed("t", 1, run=ROOT)
    assert ROOT not in engine.state.runs
    assert statuses(engine, child)[-1] == "paused"
    resume(engine)
    assert statuses(engine, child)[-1] == "running"


def test_a_sleep_ends_at_its_time_but_not_before_it_is_resumed() -> None:
    engine = Engine()
    engine.submit(flow([nap(ms=10_000), step("b", input=ref("s"))], ref("b")))
    pause(engine)
    assert engine.fire() == []
    engine.session.now = NOW + 60_000

    assert kinds(resume(engine)) == ["RunResumed"]
    (timer,) = [effect for effect in engine.new_effects if isinstance(effect, SetTimer)]
    assert timer.due_ms == NOW + 10_000

    assert kinds(engine.send(FireTimer(timer.task))) == ["StepSucceeded", "StepDispatched"]


def test_a_sleep_that_is_not_over_yet_goes_on_sleeping() -> None:
    engine = Engine()
    engine.submit(flow([nap(ms=10_000)], ref("s")))
    pause(engine)
    resume(engine)
    assert engine.fire(early_ms=1) == []
    assert kinds(engine.fire()) == ["StepSucceeded", "ItemEnded", "RunEnded"]


def test_a_task_that_fails_is_tried_again_only_afterwards() -> None:
    engine = Engine()
    engine.submit(flow([step("a", onError={"action": "retry"})], ref("a")))
    pause(engine)
    assert kinds(engine.fail("a")) == ["StepRetrying"]
    assert engine.fire() == []
    resume(engine)
    assert engine.fire() == [events.StepDispatched(ROOT, 0, 0, 2)]


def test_it_can_be_cancelled() -> None:
    engine = Engine()
    engine.submit(CHAIN, 1, 2)
    pause(engine)
    assert kinds(engine.send(CancelRun(ROOT, "enough")))[0] == "RunCancelled"
    assert not engine.state.trees
    assert statuses(engine)[-1] == "cancelled"


def test_explain_says_so_first() -> None:
    engine = Engine()
    engine.submit(CHAIN)
    engine.succeed("a", 1)
    pause(engine)
    engine.succeed("b", 1, attempt=9)
    causes = explain(engine.state, engine.live(), NOW)
    assert [cause.kind for cause in causes] == ["paused", "running", "waiting"]
    assert causes[0].since_ms == NOW
    assert f"stepmesh resume {ROOT}" in causes[0].text


def test_what_is_queued_says_that_it_waits_for_the_pause() -> None:
    engine = Engine()
    engine.submit(CHAIN)
    pause(engine)
    engine.succeed("a", 1)
    causes = explain(engine.state, engine.live(), NOW)
    assert [cause.kind for cause in causes] == ["paused", "queued", "waiting"]
    assert "paused" in causes[1].text


def test_it_survives_a_crash_and_a_snapshot() -> None:
    engine = Engine()
    engine.submit(CHAIN)
    assert encode_state(engine.state)[1] == 1
    pause(engine)
    engine.succeed("a", 1)
    before = state_hash(engine.state)

    kept = decode_state(encode_state(engine.state), engine.shelf)
    assert state_hash(kept) == before
    assert kept.trees[ROOT].paused_ms == NOW
    assert encode_state(engine.state)[1] == SNAPSHOT_FORMAT

    assert engine.restart() == []
    resume(engine)
    assert engine.dispatched() == ["b"]


def test_pausing_changes_the_hash_of_a_state() -> None:
    engine = Engine()
    engine.submit(CHAIN)
    running = state_hash(engine.state)
    pause(engine)
    engine.state.sequence -= 1
    assert state_hash(engine.state) != running


def test_it_may_become_dormant_and_comes_back_paused() -> None:
    engine = Engine()
    engine.submit(flow([nap(), step("b", input=ref("s"))], ref("b")))
    pause(engine)
    (left,) = rest(engine)
    pause(engine)
    assert refused(engine) == "SM-5120"
    wake(engine, left)
    assert engine.live().tree.paused_ms == NOW
    assert engine.fire() == []
    assert [row.status for row in engine.session.rows if isinstance(row, RunRow)][-1] == "paused"
    resume(engine)
    assert kinds(engine.fire()) == ["StepSucceeded", "StepDispatched"]


# --- waking -----------------------------------------------------------------------------------------------------


def test_a_sleep_is_skipped() -> None:
    engine = Engine()
    engine.submit(flow([nap(), step("b", input=ref("s"))], ref("b")))
    command = WakeSteps(ROOT, [engine.task_ref("s")])

    assert kinds(engine.send(command)) == ["StepWoken", "StepSucceeded", "StepDispatched"]

    assert engine.answer() == Accepted(ROOT)
    assert engine.send(command) == []
    assert engine.answer() == Accepted(ROOT, existing=True)


def test_a_paused_run_that_is_woken_goes_on_when_it_is_resumed() -> None:
    engine = Engine()
    engine.submit(flow([nap(), step("b", input=ref("s"))], ref("b")))
    pause(engine)
    assert kinds(engine.send(WakeSteps(ROOT, [engine.task_ref("s")]))) == ["StepWoken"]
    engine.restart()
    resume(engine)
    timer = engine.timer()
    assert timer.due_ms == NOW
    assert kinds(engine.send(FireTimer(timer.task))) == ["StepSucceeded", "StepDispatched"]


@pytest.mark.parametrize("change", [{"item": 1}, {"step": 9}, {"step": -1}, {"attempt": 2}, {"run": RunId("other")}])
def test_only_the_sleep_that_is_named_is_woken(change: dict[str, Any]) -> None:
    engine = Engine()
    engine.submit(flow([nap()], ref("s")))
    named = engine.task_ref("s")
    other = TaskRef(**{"run": named.run, "item": named.item, "step": named.step, "attempt": named.attempt, **change})
    assert engine.send(WakeSteps(ROOT, [other])) == []


def test_a_retry_is_no_sleep() -> None:
    engine = Engine()
    engine.submit(flow([step("a", onError={"action": "retry"})], ref("a")))
    engine.fail("a", ErrorCode.COMPONENT_FAILED)
    assert engine.send(WakeSteps(ROOT, [engine.task_ref("a")])) == []


def test_what_is_woken_is_here() -> None:
    engine = Engine()
    engine.send(WakeSteps(ROOT, []))
    assert refused(engine) == "SM-5003"
    engine.submit(flow([nap()], ref("s")))
    rest(engine)
    engine.send(WakeSteps(ROOT, []))
    assert refused(engine) == "SM-5120"
