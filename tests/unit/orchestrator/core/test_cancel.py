"""Cancelling a run: what stops, what is told to whom, what is left on record."""

from __future__ import annotations

from tests.unit.orchestrator.core.engine import Engine, flow, js, kinds, parent_of, ref, step

from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.messages import Accepted, Refused
from stepmesh_orchestrator.core.commands import EndTask
from stepmesh_orchestrator.core.effects import RunOver, StopTask
from stepmesh_orchestrator.core.projection import apply
from stepmesh_orchestrator.core.rows import ItemRow, RunRow
from stepmesh_orchestrator.core.state import State

TWO = flow([step("a"), step("b")], [ref("a"), ref("b")])


def replayed_rows(engine: Engine) -> list[RunRow | ItemRow]:
    """The rows that a replay gives."""
    state, rows = State(engine.state.partition), []
    for at_ms, event in engine.journal:
        apply(state, event, at_ms, engine.shelf, rows)
    return rows


def test_a_replay_gives_the_same_rows_when_a_step_was_queued() -> None:
    engine = Engine()
    engine.submit(TWO, max_concurrency=1)

    engine.cancel()

    assert engine.ended_steps() == {"a": "cancelled"}
    assert [row for row in replayed_rows(engine) if isinstance(row, ItemRow)] == [
        row for row in engine.session.rows if isinstance(row, ItemRow)
    ]


def test_a_retry_that_waits_for_a_slot_is_on_record() -> None:
    engine = Engine()
    engine.submit(TWO, max_concurrency=1)
    engine.give_up("a")
    assert engine.dispatched() == ["b"]
    engine.fire()

    engine.cancel()

    assert engine.ended_steps() == {"a": "cancelled", "b": "cancelled"}


def test_items_end_as_cancelled_and_workers_are_told() -> None:
    engine = Engine()
    engine.submit(TWO, 1, 2, 3, max_concurrency=2)
    references = [engine.task_ref("a"), engine.task_ref("b")]

    assert kinds(engine.cancel()) == ["RunCancelled", "ItemEnded", "RunEnded"]

    assert [effect.task for effect in engine.new_effects if isinstance(effect, StopTask)] == references
    assert RunOver(engine.run) in engine.new_effects
    assert engine.answer() == Accepted(engine.run)
    assert engine.result() == {"outcome": "failed", "error": {"code": "CANCELLED", "message": "enough"}}
    (last,) = [row for row in engine.session.rows if isinstance(row, RunRow) and row.finished_ms]
    assert (last.status, last.completed, last.failed, last.cancelled, last.total) == ("cancelled", 0, 0, 3, 3)


def test_a_tree_lets_go_of_its_items_when_it_ends() -> None:
    engine = Engine()
    engine.submit(TWO, 1, 2, max_concurrency=1)
    tree = engine.live().tree
    assert tree.queue

    engine.cancel()

    assert not tree.queue
    assert not tree.pending


def test_a_result_that_comes_after_is_dropped() -> None:
    engine = Engine()
    engine.submit(TWO)
    result = engine._result("a", 0, None, None, js(1))
    engine.cancel()

    assert engine.send(EndTask(result)) == []
    assert engine.session.stale_results == 1


def test_a_run_that_is_over_stays_as_it_is() -> None:
    engine = Engine()
    engine.submit(flow([], 1))

    assert engine.cancel() == []
    assert engine.answer() == Accepted(engine.run, existing=True)


def test_a_run_that_nobody_knows_is_refused() -> None:
    engine = Engine()

    assert engine.cancel(RunId("nobody")) == []
    answer = engine.answer()
    assert isinstance(answer, Refused)
    assert answer.code == "SM-5003"


def test_sub_runs_stop_first() -> None:
    body = flow([step("w")], ref("w"))
    middle = flow([step("e", "/builtin/eval", {"flow": {"$literal": body}})], ref("e"))
    engine = Engine()
    engine.shelf.put(body)
    engine.shelf.put(middle)
    engine.submit(flow([step("s", "/builtin/eval", {"flow": {"$literal": middle}}), step("t")], [ref("s"), ref("t")]))

    found = engine.cancel()

    assert kinds(found) == ["RunCancelled", "ItemEnded", "RunEnded"] * 3
    assert found[-1].run == engine.run
    assert not engine.state.runs
    assert not engine.state.trees


def test_a_sub_run_alone_can_be_stopped_and_its_step_goes_on() -> None:
    body = flow([step("w")], ref("w"))
    engine = Engine()
    engine.shelf.put(body)
    engine.submit(flow([step("m", "/builtin/map", {"workflow": {"$literal": body}, "items": [1, 2], "max_concurrency": 1})], ref("m")))
    child = engine.tasks[0].run

    engine.cancel(child)

    result = engine.result()["result"]
    assert [one["error"]["code"] for one in result["results"]] == ["CANCELLED", "CANCELLED"]
    assert (result["successful"], result["failed"]) == (0, 2)
    engine.cancel(child)
    assert isinstance(engine.answer(), Refused)  # its tree is over


def test_a_sub_run_of_a_component_that_is_over_is_known_while_its_tree_lives() -> None:
    child = RunId("child")
    engine = Engine()
    engine.submit(flow([step("t")], ref("t")))
    engine.submit(flow([], 1), run=child, parent=parent_of(engine.tasks[0]))

    engine.cancel(child)

    assert engine.answer() == Accepted(child, existing=True)


def test_sub_runs_of_the_core_leave_nothing_behind() -> None:
    body = flow([], 1)
    engine = Engine()
    engine.shelf.put(body)
    engine.submit(flow([step("m", "/builtin/map", {"workflow": {"$literal": body}, "items": [1, 2]}), step("t")], [ref("m"), ref("t")]))

    assert engine.live().tree.ended == {}
    assert engine.live().children == []
