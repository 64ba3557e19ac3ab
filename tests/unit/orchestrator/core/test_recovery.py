"""Snapshots, replays and what is derived afterwards: the same state, the same bytes, everything in flight listed again."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.unit.orchestrator.core.engine import Engine, Shelf, flow, ref, step

from stepmesh_broker.protocol.messages import ErrorCode, Failure
from stepmesh_orchestrator.core.events import TURN_FORMAT, Turn, decode_turn, encode_turn
from stepmesh_orchestrator.core.flow.routing import Router
from stepmesh_orchestrator.core.rebuild import in_flight, rebuild, task_again
from stepmesh_orchestrator.core.session import Session
from stepmesh_orchestrator.core.snapshot import SNAPSHOT_FORMAT, decode_state, encode_state, flows_in, state_hash
from stepmesh_orchestrator.core.state import RETRYING

BODY = flow([step("w", input={"$input": "$"})], ref("w"))
RICH = flow(
    [
        step("done"), step("failed", onError={"action": "useDefault"}), step("gone", skip=True), step("again"),
        step("flies", input=ref("done"), timeout="5s"),
        step("sleeps", "/builtin/sleep", {"duration_ms": 5_000}),
        step("child", "/builtin/map", {"workflow": {"$literal": BODY}, "items": [1, 2, 3]}),
        step("late", input=[ref("flies"), ref("sleeps")]),
    ],
    [ref(name) for name in ("done", "failed", "gone", "again", "child", "late")],
)  # fmt: skip


def rich() -> Engine:
    """Runs with steps in every recorded phase."""
    engine = Engine()
    engine.shelf.put(BODY)
    engine.submit(RICH, "x", variables={"v": 1}, run_key="k", tags={"t": "1"}, max_concurrency=4, traceparent="00-1")
    engine.succeed("done", {"a": 1})
    engine.fail("failed")
    engine.give_up("again")
    return engine


def restored(engine: Engine) -> Session:
    """A session over the snapshot of the state, derived again."""
    session = Session(decode_state(encode_state(engine.state), engine.shelf), engine.shelf, engine.session.router, engine.session.settings)
    session.now = engine.session.now
    rebuild(session)
    return session


def test_a_snapshot_is_the_state() -> None:
    engine = rich()

    session = restored(engine)

    assert session.events == []
    assert state_hash(session.state) == state_hash(engine.state)
    assert encode_state(session.state) == encode_state(engine.state)
    (run, other) = (engine.live(), session.state.runs[engine.run])
    assert (other.variables, other.tags, other.run_key, other.tree.live) == (run.variables, run.tags, run.run_key, run.tree.live)
    assert other.items[0].phases == run.items[0].phases
    assert other.items[0].times == run.items[0].times


def test_a_replay_is_the_state() -> None:
    engine = rich()
    before = state_hash(engine.state)

    assert engine.restart() == []
    assert state_hash(engine.state) == before


def test_timers_and_tasks_are_listed_again() -> None:
    engine = rich()
    timers = {effect.task: effect.due_ms for effect in engine.effects if hasattr(effect, "due_ms")}

    session = restored(engine)

    assert {effect.task: effect.due_ms for effect in session.effects if hasattr(effect, "due_ms")} == timers
    assert len(timers) == 2
    again = [task_again(session, item, at, 2) for item, at in in_flight(session.state)]
    expected = {(task.run, task.item, task.step): task for task in engine.tasks if task.step_id in ("flies", "w")}
    assert len(again) == 4
    for found in again:
        assert found is not None
        pool, task = found
        assert pool == "py"
        first = expected[task.run, task.item, task.step]
        assert task == msgspec.structs.replace(first, dispatch=2, claim_first=True)


def test_a_snapshot_says_which_flows_it_needs_and_misses_them() -> None:
    engine = rich()
    payload = encode_state(engine.state)

    assert {name for name, _ in flows_in(payload)} == {run.flow_id for run in engine.state.runs.values()}
    with pytest.raises(LookupError, match="is not loaded"):
        decode_state(payload, Shelf())


def test_overrides_are_part_of_what_is_needed() -> None:
    engine = Engine()
    overrides = b'{"a":{"value":{"component":"/py/other"}}}'
    engine.submit(flow([step("a")], ref("a")), overrides=overrides)
    assert engine.tasks[0].component == "/other"

    assert flows_in(encode_state(engine.state)) == [(engine.live().flow_id, overrides)]
    state = restored(engine).state
    assert state.runs[engine.run].flow.steps[0].component == "/py/other"


def test_a_retry_that_is_due_and_waits_for_a_slot_is_still_a_retry_on_record() -> None:
    engine = Engine()
    engine.submit(flow([step("a"), step("b")], [ref("a"), ref("b")]), max_concurrency=1)
    engine.give_up("a")
    before = state_hash(engine.state)
    assert engine.fire() == []  # b has the slot

    assert state_hash(engine.state) == before
    state = decode_state(encode_state(engine.state), engine.shelf)
    assert state.runs[engine.run].items[0].phases[0] == RETRYING


def test_the_hash_does_not_depend_on_what_is_confirmed_only() -> None:
    engine = rich()
    before = state_hash(engine.state)

    engine.state.confirmed = 9
    assert state_hash(engine.state) == before
    assert engine.state.confirmed == 9
    engine.state.inbox += 1
    assert state_hash(engine.state) != before


def test_a_task_is_not_made_again_when_its_route_is_gone() -> None:
    engine = rich()
    session = restored(engine)
    session.router = Router({})

    again = [task_again(session, item, at, 2) for item, at in in_flight(session.state)]
    assert [isinstance(one, Failure) and one.code for one in again] == [ErrorCode.COMPONENT_NOT_FOUND] * 4


def test_a_task_is_not_made_again_when_its_input_is_gone() -> None:
    engine = Engine()
    engine.submit(flow([step("a"), step("b", input=ref("a"))], ref("b")))
    engine.succeed("a")
    item = engine.item()
    item.outcomes[0] = Failure(2, "changed")

    assert task_again(engine.session, item, 1, 2) == Failure(2, "changed")


def test_an_ended_output_waits_for_what_must_execute_after_a_restart_too() -> None:
    engine = Engine()
    engine.submit(flow([step("side", mustExecute=True), step("a")], ref("a")))
    engine.succeed("a", 1)

    assert engine.restart() == []
    engine.succeed("side")
    assert engine.state.finished


def test_a_state_that_is_released_keeps_no_cycle() -> None:
    engine = Engine()
    engine.submit(flow([step("a"), step("b")], [ref("a"), ref("b")]), 1, 2, max_concurrency=1)
    run, tree = engine.live(), engine.live().tree

    engine.state.release()

    assert not engine.state.runs
    assert not engine.state.trees
    assert not run.items
    assert not tree.queue
    assert not tree.pending


# --- formats ---


def test_a_turn_survives_its_encoding() -> None:
    engine = rich()
    turn = Turn(TURN_FORMAT, 5, 6, 7, [event for _, event in engine.journal])

    assert decode_turn(encode_turn(turn)) == turn


@pytest.mark.parametrize("payload", [b"", b"\x00", b"[1]", encode_turn(Turn(TURN_FORMAT, 1, 1, 1, []))[:-1]])
def test_what_is_no_turn_is_refused(payload: bytes) -> None:
    with pytest.raises(ValueError):
        decode_turn(payload)


def test_newer_formats_are_refused() -> None:
    with pytest.raises(ValueError, match="format 3"):
        decode_turn(encode_turn(Turn(TURN_FORMAT + 2, 1, 1, 1, [])))
    image: list[Any] = msgspec.msgpack.decode(encode_state(rich().state))
    with pytest.raises(ValueError, match="format 4"):
        decode_state(msgspec.msgpack.encode([SNAPSHOT_FORMAT + 1, *image[1:]]), Shelf())


def test_what_is_no_snapshot_is_refused() -> None:
    with pytest.raises(ValueError):
        decode_state(b"nonsense", Shelf())
