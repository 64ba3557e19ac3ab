"""Every live run says what it waits for."""

from __future__ import annotations

from typing import Any

from tests.unit.orchestrator.core.engine import Engine, flow, ref, step

from stepmesh_orchestrator.core.explain import explain
from stepmesh_orchestrator.core.flow.compiled import Backoff

BODY = flow([step("w")], ref("w"))
STEADY = Backoff("constant", 4_000, jitter=0)


def given(*steps: dict[str, Any], output: Any = None, **more: Any) -> Engine:
    """A run of these steps."""
    engine = Engine(backoff=STEADY)
    engine.shelf.put(BODY)
    engine.submit(flow(list(steps), ref(steps[-1]["id"]) if output is None else output), **more)
    return engine


def said(engine: Engine) -> dict[str, str]:
    """Step id → kind and text."""
    return {cause.step_id: f"{cause.kind}: {cause.text}" for cause in explain(engine.state, engine.live(), engine.session.now)}


def test_a_step_in_flight_and_one_that_needs_it() -> None:
    engine = given(step("a"), step("b", input=ref("a")))

    assert said(engine) == {
        "a": "running: attempt 1 of /py/work is with its pool",
        "b": "waiting: needs 'a'",
        "output": "waiting: needs 'b'",
    }


def test_a_retry_a_sleep_and_a_queue() -> None:
    engine = given(
        step("a"),
        step("z", "/builtin/sleep", {"duration": "2s"}),
        step("b"),
        step("c"),
        output=[ref(name) for name in "azbc"],
        max_concurrency=1,
    )
    engine.give_up("a")

    found = said(engine)
    assert found["a"] == "retrying: attempt 2 starts in 4.0 s after: gone"
    assert found["z"] == "sleeping: sleeps for 2.0 s more"
    assert found["b"].startswith("running")
    assert found["c"] == "queued: ready, waits for a slot (1 of 1 tasks in flight)"


def test_a_sub_run_tells_its_own_causes() -> None:
    engine = given(step("m", "/builtin/map", {"workflow": {"$literal": BODY}, "items": [1, 2], "max_concurrency": 1}), max_concurrency=0)
    causes = explain(engine.state, engine.live(), engine.session.now)
    child = engine.tasks[0].run

    assert (causes[0].kind, causes[0].text) == ("child", f"waits for its sub-run {child}")
    (pending,) = [cause for cause in causes if cause.kind == "pending"]
    assert (pending.run, pending.text) == (child, "1 items wait for a slot (no limit of tasks, 1 of 1 items)")
    assert [cause.step_id for cause in causes if cause.kind == "running"] == ["w"]


def test_a_flow_that_is_fetched() -> None:
    assert said(given(step("e", "/builtin/eval", {"flow_id": "x"})))["e"] == "fetching: waits for the flow of its sub-run to be loaded"


def test_a_default_that_waits() -> None:
    engine = given(step("spare"), step("a", onError={"action": "useDefault", "defaultValue": ref("spare")}))
    engine.fail("a")

    assert said(engine)["a"] == "fallback: failed (kaput); its default needs 'spare'"


def test_an_output_that_waits_for_what_must_execute() -> None:
    engine = given(step("side", mustExecute=True), output=1)

    assert said(engine)["output"] == "waiting: is ready; mustExecute steps are not: side"


def test_a_run_that_nothing_could_move_is_called_stuck() -> None:
    engine = given(step("a"))
    engine.live().items.clear()

    (cause,) = explain(engine.state, engine.live(), engine.session.now)
    assert cause.kind == "stuck"
