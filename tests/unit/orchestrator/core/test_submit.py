"""Submissions: accepted once per run id and run key, refused with a code before anything exists."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.orchestrator.core.engine import NOW, ROOT, Engine, flow, kinds, parent_of, ref, step

from stepmesh_broker.protocol.ids import Namespace, RunId
from stepmesh_broker.protocol.messages import Accepted, ErrorCode, ParentRef, Refused, Submit
from stepmesh_orchestrator.core.commands import StartRun
from stepmesh_orchestrator.core.events import RunCreated
from stepmesh_orchestrator.core.evolve.runs import forget_finished
from stepmesh_orchestrator.core.flow.limits import PAYLOAD_DEPTH

ONE = flow([step("a")], ref("a"))
OTHER = RunId("01900000-0000-7000-8000-000000000002")
CHILD = RunId("01900000-0000-7000-8000-00000000000c")
SCHEMAS = {
    "type": "object",
    "properties": {
        "input": {"type": "object", "required": ["x"]},
        "variables": {"type": "object", "required": ["v"], "properties": {"v": {"type": "integer"}, "w": {"type": "string"}}},
    },
}


def refused(engine: Engine) -> Refused:
    """The refusal of the last submission, which left nothing behind."""
    answer = engine.answer()
    assert isinstance(answer, Refused), answer
    assert engine.new == []
    return answer


def submit_raw(engine: Engine, document: dict[str, Any] = ONE, **fields: Any) -> None:
    """A submission with inputs and variables as bytes."""
    compiled = engine.shelf.put(document)
    engine.send(
        StartRun(Submit(**{"run": ROOT, "namespace": Namespace("default"), "flow": compiled.id, "inputs": [b"null"], **fields}), compiled)
    )


def test_a_run_is_created_its_items_start_and_it_is_accepted() -> None:
    engine = Engine()

    assert kinds(engine.submit(ONE, 1, 2)) == ["RunCreated", "ItemStarted", "StepDispatched", "ItemStarted", "StepDispatched"]
    assert engine.answer() == Accepted(ROOT)


def test_the_same_run_again_is_accepted_and_nothing_happens() -> None:
    engine = Engine()
    engine.submit(ONE)

    assert engine.submit(ONE) == []
    assert engine.answer() == Accepted(ROOT, existing=True)
    engine.succeed("a")
    assert engine.submit(ONE) == []
    assert engine.answer() == Accepted(ROOT, existing=True)


def test_a_run_key_names_the_first_run_while_it_lives_and_after() -> None:
    engine = Engine()
    engine.submit(ONE, run_key="k")

    engine.submit(ONE, run=OTHER, run_key="k")
    assert engine.answer() == Accepted(ROOT, existing=True)
    engine.succeed("a", run=ROOT)
    engine.submit(ONE, run=OTHER, run_key="k")
    assert engine.answer() == Accepted(ROOT, existing=True)


def test_a_run_key_belongs_to_its_namespace() -> None:
    engine = Engine()
    submit_raw(engine, run_key="k")
    submit_raw(engine, run=OTHER, run_key="k", namespace=Namespace("theirs"))

    assert engine.answer() == Accepted(OTHER)


def test_no_inputs_is_a_run_that_is_over_at_once() -> None:
    engine = Engine()
    submit_raw(engine, inputs=[])

    assert kinds(engine.new) == ["RunCreated", "RunEnded"]
    assert engine.state.finished[ROOT][1] == "completed"


# --- refusals ---


def test_the_number_of_inputs_has_a_limit() -> None:
    engine = Engine(max_items=3)
    submit_raw(engine, inputs=[b"1"] * 4)
    assert refused(engine).code == "SM-5002"

    submit_raw(engine, inputs=[b"1"] * 3)
    assert engine.answer() == Accepted(ROOT)


def test_max_concurrency_is_not_negative() -> None:
    engine = Engine()
    submit_raw(engine, max_concurrency=-1)
    assert refused(engine).code == "SM-5002"

    submit_raw(engine, max_concurrency=0)
    assert engine.answer() == Accepted(ROOT)


@pytest.mark.parametrize("text", [b"", b"{", b"1 1", b'"\xff"', b"[" * (PAYLOAD_DEPTH + 1) + b"]" * (PAYLOAD_DEPTH + 1)])
def test_inputs_and_variables_must_be_json(text: bytes) -> None:
    engine = Engine()

    submit_raw(engine, inputs=[b"1", text])
    assert refused(engine).code == "SM-5001"
    assert "input 1" in refused(engine).message
    submit_raw(engine, variables=text)
    assert refused(engine).code == "SM-5001"


def test_variables_must_be_an_object() -> None:
    engine = Engine()
    submit_raw(engine, variables=b"[1]")

    assert refused(engine).message == "variables are not a JSON object"


def test_inputs_are_held_against_the_schema() -> None:
    engine = Engine()
    submit_raw(engine, flow([], schemas=SCHEMAS), inputs=[b'{"x":1}', b"{}"], variables=b'{"v":1}')

    refusal = refused(engine)
    assert refusal.code == "SM-5001"
    assert refusal.message.startswith("INVALID_INPUT: input 1 does not match the flow's input schema: $")
    assert refusal.data is not None
    assert b"violations" in refusal.data


@pytest.mark.parametrize(
    ("given", "message"),
    [(None, "variables are missing: $.v: required"), (b'{"w":""}', "variables are missing"), (b'{"v":"x"}', "variables do not match")],
)
def test_variables_are_held_against_the_schema(given: bytes | None, message: str) -> None:
    engine = Engine()
    submit_raw(engine, flow([], schemas=SCHEMAS), inputs=[b'{"x":1}'], variables=given)

    assert message in refused(engine).message
    submit_raw(engine, flow([], schemas=SCHEMAS), inputs=[b'{"x":1}'], variables=b'{"v":1}')
    assert engine.answer() == Accepted(ROOT)


# --- runs that a component starts ---


def with_child(**more: Any) -> Engine:
    """A run whose component started a sub-run."""
    engine = Engine()
    engine.submit(flow([step("p")], ref("p")), variables={"v": 1}, max_concurrency=1)
    engine.submit(ONE, 7, run=CHILD, parent=parent_of(engine.tasks[0]), **more)
    engine.run = ROOT
    return engine


def test_a_component_may_start_a_sub_run_in_the_tree_of_its_run() -> None:
    engine = with_child()

    created = next(event for event in engine.new if isinstance(event, RunCreated))
    assert (created.root, created.variables) == (ROOT, b'{"v":1}')
    assert created.parent is not None
    assert created.parent.kind == "worker"
    assert engine.live(CHILD).tree is engine.live().tree
    assert engine.live().children == [CHILD]


def test_it_may_have_its_own_variables_and_limit() -> None:
    engine = Engine()
    engine.submit(flow([step("p")], ref("p")), variables={"v": 1})
    engine.submit(ONE, 7, 8, 9, run=CHILD, parent=parent_of(engine.tasks[0]), variables={}, max_concurrency=2)

    assert engine.live(CHILD).given == b"{}"
    assert len(engine.live(CHILD).items) == 2


def test_its_tasks_know_their_root_and_get_the_slot_of_the_task_that_waits_for_it() -> None:
    engine = with_child()
    assert engine.dispatched() == ["a"]  # the tree's limit is 1, and the parent's task is in flight too
    assert engine.tasks[-1].root == ROOT
    tree = engine.state.trees[ROOT]
    assert tree.in_flight == 1

    engine.succeed("a", run=CHILD)
    assert tree.in_flight == 1, "the parent's task has its slot again"
    engine.succeed("p")
    assert tree.in_flight == 0


def test_the_step_does_not_wait_for_it_and_the_tree_lives_as_long_as_it() -> None:
    engine = with_child()

    engine.succeed("p", 1)
    assert engine.result() == {"outcome": "success", "result": 1}
    assert ROOT in engine.state.trees
    engine.succeed("a", 2, run=CHILD)
    assert engine.result(run=CHILD)["result"] == 2
    assert not engine.state.trees
    assert not engine.state.runs


def test_it_is_cancelled_with_its_run() -> None:
    engine = with_child()

    engine.cancel()

    assert not engine.state.runs


def test_the_same_sub_run_again_is_accepted_even_when_it_is_over() -> None:
    engine = Engine()
    engine.submit(flow([step("p")], ref("p")))
    parent = parent_of(engine.tasks[0])
    engine.submit(flow([], 1), run=CHILD, parent=parent)

    assert engine.submit(flow([], 1), run=CHILD, parent=parent) == []
    assert engine.answer() == Accepted(CHILD, existing=True)


@pytest.mark.parametrize(
    "parent",
    [
        ParentRef(ROOT, RunId("nobody"), 0, 0, "k"), ParentRef(OTHER, ROOT, 0, 0, "k"), ParentRef(ROOT, ROOT, 1, 0, "k"),
        ParentRef(ROOT, ROOT, 0, 2, "k"), ParentRef(ROOT, ROOT, 0, -2, "k"), ParentRef(ROOT, ROOT, 0, 1, "k"),
    ],
)  # fmt: skip
def test_only_a_running_step_may_start_a_sub_run(parent: ParentRef) -> None:
    engine = Engine()
    engine.submit(flow([step("p"), step("q", input=ref("p"))], ref("q")))

    engine.submit(ONE, run=CHILD, parent=parent)

    assert refused(engine).code == "SM-5007"


def test_a_sub_run_need_not_be_given_required_variables() -> None:
    engine = Engine()
    engine.submit(flow([step("p")], ref("p")))
    engine.submit(flow([], {"$variable": "v"}, schemas=SCHEMAS), {"x": 1}, run=CHILD, parent=parent_of(engine.tasks[0]))

    assert engine.result(run=CHILD)["error"]["code"] == "EXPRESSION_FAILURE"


# --- what is remembered of ended runs ---


def ended(count: int, **more: Any) -> Engine:
    """Runs that ended, one each second."""
    engine = Engine()
    for index in range(count):
        engine.session.now = NOW + 1_000 * index
        engine.submit(flow([], index), run=RunId(f"run-{index}"), run_key=f"key-{index}", **more)
    return engine


def test_runs_that_ended_before_are_forgotten_with_their_keys() -> None:
    engine = ended(3)

    forget_finished(engine.state, NOW + 1_000, 100)
    assert list(engine.state.finished) == ["run-1", "run-2"]
    assert list(engine.state.keys) == ["default/key-1", "default/key-2"]
    engine.submit(flow([], 0), run=OTHER, run_key="key-0")
    assert engine.answer() == Accepted(OTHER)


def test_the_oldest_above_the_number_are_forgotten() -> None:
    engine = ended(3)

    forget_finished(engine.state, 0, 3)
    assert len(engine.state.finished) == 3
    forget_finished(engine.state, 0, 2)
    assert list(engine.state.finished) == ["run-1", "run-2"]
    forget_finished(engine.state, 0, 0)
    assert not engine.state.finished
    assert not engine.state.keys


def test_a_key_that_a_later_run_took_is_not_forgotten_with_the_first() -> None:
    engine = ended(1)
    engine.state.keys["default/key-0"] = OTHER

    forget_finished(engine.state, NOW + 1, 100)

    assert engine.state.keys == {"default/key-0": OTHER}


def test_a_live_run_is_not_forgotten() -> None:
    engine = Engine()
    engine.submit(ONE, run_key="k")

    forget_finished(engine.state, NOW + 10**12, 0)

    assert engine.state.keys == {"default/k": ROOT}


def test_the_key_of_a_sub_run_is_forgotten_in_the_end() -> None:
    engine = with_child(run_key="child")
    engine.succeed("p")
    engine.succeed("a", run=CHILD)
    assert engine.state.keys == {"default/child": CHILD}

    forget_finished(engine.state, NOW + 1, 100)

    assert engine.state.keys == {}
    assert engine.state.finished == {}


def test_a_failed_run_is_remembered_as_such() -> None:
    engine = Engine()
    engine.submit(ONE)
    engine.fail("a", ErrorCode.INVALID_INPUT)

    assert engine.state.finished == {ROOT: (NOW, "failed", None)}


SECRETIVE = flow(
    [],
    output=1,
    schemas={
        "type": "object",
        "properties": {"variables": {"type": "object", "properties": {"key": {"type": "string", "is_secret": True}}}},
    },
)


def test_a_secret_is_refused_where_the_journal_would_keep_it() -> None:
    engine = Engine()
    engine.submit(SECRETIVE, None, variables={"key": "hunter2"})
    answer = engine.answer()
    assert isinstance(answer, Refused)
    assert answer.code == "SM-5011"
    assert "'key'" in answer.message
    assert "hunter2" not in str(answer)


def test_a_secret_is_taken_where_nothing_rests() -> None:
    engine = Engine(secrets_may_rest=True)
    engine.submit(SECRETIVE, None, variables={"key": "hunter2"})
    assert isinstance(engine.answer(), Accepted)


@pytest.mark.parametrize(("deepest", "accepted"), [(2, True), (1, False)])
def test_sub_runs_of_components_have_a_deepest_level(deepest: int, accepted: bool) -> None:
    engine = Engine(max_depth=deepest)
    engine.submit(flow([step("p")], ref("p")))
    engine.submit(ONE, 7, run=CHILD, parent=parent_of(engine.tasks[0]))
    answer = engine.answer()
    assert isinstance(answer, Accepted) is accepted
    if isinstance(answer, Refused):
        assert answer.code == "SM-5002"
        assert "nested deeper than 1" in answer.message
