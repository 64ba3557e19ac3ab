"""Runs that take over results of another one: which they may take, and that the steps which they have results of never run."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs
from tests.unit.orchestrator.core.engine import NOW, ROOT, Engine, Shelf, flow, js, kinds, ref, step

from stepmesh_broker.protocol.ids import Namespace, RunId, child_run_id
from stepmesh_broker.protocol.messages import Accepted, Submit
from stepmesh_orchestrator.core import events
from stepmesh_orchestrator.core.commands import StartRun
from stepmesh_orchestrator.core.events import RunSeeded
from stepmesh_orchestrator.core.evolve.dormancy import encode_tree, restore
from stepmesh_orchestrator.core.flow.plan import SKIPPED
from stepmesh_orchestrator.core.replica import Replica
from stepmesh_orchestrator.core.reuse import Given, seeds_of
from stepmesh_orchestrator.core.rows import ItemRow
from stepmesh_orchestrator.core.seeds import Seed, SeededRun
from stepmesh_orchestrator.core.snapshot import SNAPSHOT_FORMAT, decode_state, encode_state, state_hash
from stepmesh_orchestrator.core.state import State

CHAIN = [step("a", input={"$input": "x"}), step("b", input=ref("a")), step("c", input={"$input": "y"})]
OUTPUT = [ref("a"), ref("b"), ref("c")]
SOURCE = RunId("01900000-0000-7000-8000-00000000000f")


def taken(
    before: dict[str, Any],
    outcomes: dict[str, Any],
    *,
    value: Any = None,
    now: dict[str, Any] | None = None,
    instead: Any = None,
    variables: tuple[Any, Any] = ({}, {}),
    from_step: str | None = None,
    overrides: Any = None,
    defaulted: tuple[str, ...] = (),
) -> dict[str, Any]:
    """What is taken over, by the step's id: its value, or SKIPPED."""
    shelf = Shelf()
    old = shelf.put(before)
    new = old if now is None and overrides is None else shelf.put(now or before, None if overrides is None else js(overrides))
    known: list[Any] = [None] * len(old.steps)
    for name, outcome in outcomes.items():
        index = old.step_index(name)
        assert index is not None
        known[index] = SKIPPED if outcome is SKIPPED else js(outcome)
    past = Given.of(old, js(value), js(variables[0]), known)
    first = None if from_step is None else new.step_index(from_step)
    given = js(value if instead is None else instead)
    failed = [index for index in range(len(old.steps)) if old.steps[index].id in defaulted]
    found = seeds_of(past, failed, Given.of(new, given, js(variables[1])), first)
    return {new.steps[seed.step].id: SKIPPED if seed.output is None else seed.output for seed in found}


def same(**outputs: Any) -> dict[str, Any]:
    return {name: SKIPPED if value is SKIPPED else js(value) for name, value in outputs.items()}


def test_what_succeeded_is_taken_over_and_what_failed_is_not() -> None:
    document = flow(CHAIN, OUTPUT)
    assert taken(document, {"a": 1, "c": 3}, value={"x": 1, "y": 2}) == same(a=1, c=3)


def test_from_a_step_on_all_that_depends_on_it_runs_again() -> None:
    steps = [step("a"), step("b", input=ref("a")), step("c", input=ref("b")), step("d")]
    document = flow(steps, [ref("c"), ref("d")])
    results = {"a": 1, "b": 2, "c": 3, "d": 4}
    assert taken(document, results) == same(**results)
    assert taken(document, results, from_step="b") == same(a=1, d=4)
    assert taken(document, results, from_step="a") == same(d=4)


def test_a_changed_input_reaches_those_steps_whose_input_changes() -> None:
    document = flow(CHAIN, OUTPUT)
    results = {"a": 1, "b": 2, "c": 3}
    assert taken(document, results, value={"x": 1, "y": 2}, instead={"x": 1, "y": 5}) == same(a=1, b=2)
    assert taken(document, results, value={"x": 1, "y": 2}, instead={"x": 9, "y": 2}) == same(c=3)
    assert taken(document, results, value={"x": 1, "y": 2}, instead={"x": 1, "y": 2, "z": 3}) == same(**results)


def test_a_changed_variable_too() -> None:
    document = flow([step("a", input={"$variable": "v"}), step("b")], [ref("a"), ref("b")])
    assert taken(document, {"a": 1, "b": 2}, variables=({"v": 1}, {"v": 2})) == same(b=2)


def test_a_changed_flow_keeps_what_is_the_same_in_it() -> None:
    before = flow([step("a"), step("b", input=ref("a")), step("c")], [ref("b"), ref("c")])
    now = flow([step("z"), step("c", "/py/other"), step("a"), step("b", input={"n": ref("a")})], [ref("b"), ref("c")])
    assert taken(before, {"a": 1, "b": 2, "c": 3}, now=now) == same(a=1)


def test_an_override_reaches_its_step_and_those_behind() -> None:
    document = flow([step("a", input=1), step("b", input=ref("a")), step("c", input=2)], [ref("b"), ref("c")])
    assert taken(document, {"a": 1, "b": 2, "c": 3}, overrides={"a": {"value": {"input": 5}}}) == same(c=3)


def test_what_may_be_a_default_is_taken_over_only_where_nothing_is_changed() -> None:
    default = {"action": "useDefault", "defaultValue": {"$variable": "v"}}
    document = flow([step("a", onError=default)], ref("a"))
    assert taken(document, {"a": 0}, defaulted=("a",), variables=({"v": 0}, {"v": 0})) == same(a=0)
    assert taken(document, {"a": 0}, defaulted=("a",), variables=({"v": 0}, {"v": 1})) == {}
    assert taken(document, {"a": 0}, variables=({"v": 0}, {"v": 1})) == same(a=0), "it did not fail, so it is no default"
    assert taken(document, {"a": 0}, defaulted=("a",), overrides={"a": {"value": {"onError": {"defaultValue": 1}}}}) == {}


@pytest.mark.parametrize("component", ["/builtin/eval", "/builtin/map", "/builtin/iterate"])
def test_sub_runs_inherit_variables_and_are_not_the_same_under_others(component: str) -> None:
    document = flow([step("a", component, {"flow_id": "x"}), step("b")], [ref("a"), ref("b")])
    assert taken(document, {"a": 1, "b": 2}, variables=({"v": 0}, {"v": 1})) == same(b=2)
    assert taken(document, {"a": 1, "b": 2}, value=1, instead=2) == same(a=1, b=2)


def test_a_result_that_another_schema_does_not_allow_is_not_taken_over() -> None:
    def wanting(kind: str) -> dict[str, Any]:
        steps = {"type": "object", "properties": {"a": {"type": kind}}}
        return flow([step("a")], ref("a"), schemas={"type": "object", "properties": {"steps": steps}})

    document = flow([step("a")], ref("a"))
    assert taken(document, {"a": 1}, now=wanting("string")) == {}
    assert taken(document, {"a": 1}, now=wanting("integer")) == same(a=1)


def test_a_skip_is_taken_over_while_it_is_one() -> None:
    skip = {"$input": "skip"}
    after = step("b", input=ref("a", onSkip={"action": "useDefault", "defaultValue": 7}))
    document = flow([step("a", skip=skip), after], ref("b"))
    assert taken(document, {"a": SKIPPED, "b": 1}, value={"skip": True}) == same(a=SKIPPED, b=1)
    assert taken(document, {"a": SKIPPED, "b": 1}, value={"skip": True}, instead={"skip": False}) == {}


def test_a_branch_that_was_not_taken_may_be_missing() -> None:
    choice = {"$if": {"$input": "left"}, "then": ref("l"), "else": ref("r")}
    document = flow([step("l"), step("r"), step("b", input=choice)], ref("b"))
    assert taken(document, {"l": 1, "b": 2}, value={"left": True}) == same(l=1, b=2)
    assert taken(document, {"l": 1, "b": 2}, value={"left": True}, instead={"left": False}) == same(l=1)


def test_a_step_that_worked_on_a_failure_runs_again() -> None:
    choice = {"$if": ref("bad"), "then": 1, "else": 2}
    document = flow([step("bad"), step("b", input=choice)], ref("b"))
    assert taken(document, {"b": 5}) == {}


# --- runs that begin with them ----------------------------------------------------------------------------------


def start(engine: Engine, document: dict[str, Any], seeds: list[dict[str, Any]], **more: Any) -> list[events.Event]:
    """A run with an item for each of `seeds`, on its index."""
    compiled = engine.shelf.put(document)
    listed = [[Seed(_index(compiled, name), None if value is SKIPPED else js(value)) for name, value in one.items()] for one in seeds]
    submit = Submit(ROOT, Namespace("default"), compiled.id, [js(index) for index in range(len(seeds))], **more)
    engine.run = ROOT
    return engine.send(StartRun(submit, compiled, RunSeeded(ROOT, SOURCE, list(range(len(seeds))), listed)))


def _index(compiled: Any, name: str) -> int:
    index = compiled.step_index(name)
    assert isinstance(index, int)
    return index


def test_seeded_steps_are_not_dispatched() -> None:
    engine = Engine()
    found = start(engine, flow([step("a"), step("b", input=ref("a")), step("c")], [ref("b"), ref("c")]), [{"a": 5, "c": 7}])

    assert kinds(found) == ["RunCreated", "RunSeeded", "ItemStarted", "StepDispatched"]
    assert engine.answer() == Accepted(ROOT)
    (task,) = engine.tasks
    assert (task.step_id, task.input) == ("b", b"5")
    engine.succeed("b", 6)
    assert engine.result() == {"outcome": "success", "result": [6, 7]}
    (row,) = [row for row in engine.session.rows if isinstance(row, ItemRow)]
    assert [(one.step_id, one.status, one.attempt, one.started_ms) for one in row.steps] == [
        ("a", "success", 0, None), ("b", "success", 1, NOW), ("c", "success", 0, None),
    ]  # fmt: skip


def test_an_item_that_has_all_ends_at_once() -> None:
    engine = Engine()
    found = start(engine, flow([step("a", mustExecute=True), step("s")], [ref("a"), ref("s")]), [{"a": 5, "s": SKIPPED}])
    assert kinds(found) == ["RunCreated", "RunSeeded", "ItemStarted", "ItemEnded", "RunEnded"]
    assert engine.result() == {"outcome": "success", "result": [5, None]}


def test_what_only_a_seeded_step_needed_is_not_needed() -> None:
    engine = Engine()
    start(engine, flow([step("a"), step("b", input=ref("a")), step("c", input=ref("b"))], ref("c")), [{"b": 1}])
    assert [task.step_id for task in engine.tasks] == ["c"]
    engine.succeed("c", 2)
    assert engine.ended_steps() == {"b": "success", "c": "success"}


def test_each_item_has_its_own() -> None:
    engine = Engine()
    document = flow([step("a"), step("b", input=ref("a"))], ref("b"))
    start(engine, document, [{"a": 1}, {}, {"a": 3}], max_concurrency=1)
    assert engine.live().seeds == {2: [Seed(0, b"3")]}
    engine.succeed("b", 10)
    engine.succeed("a", 2, item=1)
    engine.succeed("b", 20, item=1)
    engine.succeed("b", 30, item=2)
    assert [engine.result(index)["result"] for index in range(3)] == [10, 20, 30]


def test_they_survive_a_crash_and_a_snapshot() -> None:
    engine = Engine()
    document = flow([step("a"), step("b", input=ref("a"))], ref("b"))
    start(engine, document, [{"a": 1}, {"a": 2}], max_concurrency=1)
    kept = decode_state(encode_state(engine.state), engine.shelf)
    assert state_hash(kept) == state_hash(engine.state)
    assert kept.runs[ROOT].seeds == {1: [Seed(0, b"2")]}
    assert encode_state(engine.state)[1] == SNAPSHOT_FORMAT

    engine.restart()
    engine.succeed("b", 10)
    engine.succeed("b", 20, item=1)
    assert [task.step_id for task in engine.tasks] == ["b", "b"]
    assert engine.result(1) == {"outcome": "success", "result": 20}


BODY = flow([step("w", input={"$input": "$"}), step("x", input=ref("w"))], ref("x"))
WITH_SUB_RUN = flow([step("a"), step("e", "/builtin/eval", {"flow": {"$literal": BODY}, "input": ref("a")})], ref("e", path="result"))


def start_with_sub_run(engine: Engine, **other: Any) -> RunId:
    """A run whose step `e` will start a sub-run of `BODY`, for which a result of `w` on input 5 is kept. `other`: fields of that."""
    body, compiled = engine.shelf.put(BODY), engine.shelf.put(WITH_SUB_RUN)
    child = child_run_id(ROOT, "0/1/1/0")
    kept = SeededRun(child, SOURCE, body.id, None, [b"5"], [[Seed(0, b"50")]])
    submit = Submit(ROOT, Namespace("default"), compiled.id, [b"null"])
    engine.run = ROOT
    engine.send(StartRun(submit, compiled, RunSeeded(ROOT, SOURCE, [0], [[]], [structs.replace(kept, **other)])))
    return child


def test_a_sub_run_begins_with_what_is_kept_for_it() -> None:
    engine = Engine()
    child = start_with_sub_run(engine)
    found = engine.succeed("a", 5)
    assert kinds(found) == ["StepSucceeded", "RunCreated", "RunSeeded", "ItemStarted", "StepDispatched"]
    assert (engine.tasks[-1].step_id, engine.tasks[-1].input) == ("x", b"50")
    assert engine.live().tree.inherited == {}
    engine.succeed("x", 1, run=child)
    assert engine.result()["result"] == {"outcome": "success", "result": 1}


@pytest.mark.parametrize(
    "other", [{"flow": "0" * 64}, {"variables": b"{}"}, {"inputs": [b"6"]}, {"run": RunId("other")}, {"inputs": [], "seeds": []}]
)
def test_it_must_be_the_same_sub_run(other: dict[str, Any]) -> None:
    engine = Engine()
    start_with_sub_run(engine, **other)
    assert kinds(engine.succeed("a", 5)) == ["StepSucceeded", "RunCreated", "ItemStarted", "StepDispatched"]
    assert engine.tasks[-1].step_id == "w"


def test_what_is_kept_for_a_sub_run_survives_a_crash_and_a_snapshot() -> None:
    engine = Engine()
    start_with_sub_run(engine)
    kept = decode_state(encode_state(engine.state), engine.shelf)
    assert state_hash(kept) == state_hash(engine.state)
    assert kept.trees[ROOT].inherited == engine.live().tree.inherited != {}
    image = encode_tree(engine.live().tree, [engine.live()])
    state = State(engine.state.partition)
    restore(state, ROOT, image, engine.shelf)
    assert state.trees[ROOT].inherited == engine.live().tree.inherited

    engine.restart()
    engine.succeed("a", 5)
    assert engine.tasks[-1].step_id == "x"


def test_a_submission_that_comes_twice_is_one_run() -> None:
    engine = Engine()
    document = flow([step("a")], ref("a"))
    start(engine, document, [{"a": 1}])
    assert start(engine, document, [{"a": 2}]) == []
    assert engine.answer() == Accepted(ROOT, existing=True)


def test_history_tells_of_them_with_the_start_of_the_item() -> None:
    engine = Engine()
    start(engine, flow([step("a"), step("b", input=ref("a")), step("s")], [ref("b"), ref("s")]), [{"a": 5, "s": SKIPPED}])
    replica = Replica(ROOT, engine.state.partition)
    compiled = engine.live().flow
    follows = [replica.take(event, 1_000_000 + index, at_ms, compiled) for index, (at_ms, event) in enumerate(engine.journal)]
    assert follows[2].reused == ((0, b"5"), (2, None))
    assert follows[2].needed == follows[2].ready == [1]


@pytest.mark.parametrize("gone", [True, False])
def test_a_replay_without_the_flow_passes(gone: bool) -> None:
    engine = Engine()
    start(engine, flow([step("a")], ref("a")), [{"a": 5}])
    replica = Replica(ROOT, engine.state.partition)
    for index, (at_ms, event) in enumerate(engine.journal):
        replica.take(event, 1_000_000 + index, at_ms, None if gone else engine.shelf.compiled[engine.journal[0][1].flow, None])  # type: ignore[union-attr]  # the first event is RunCreated
    assert replica.is_over()
