"""Which trees may leave memory, what is left of them, and that what comes back is what left."""

from __future__ import annotations

import weakref
from typing import Any

import msgspec
import pytest
from tests.unit.orchestrator.core.engine import NOW, ROOT, Engine, flow, js, ref, step

from stepmesh_broker.protocol.ids import FlowId, Partition, RunId
from stepmesh_broker.protocol.messages import Refused
from stepmesh_orchestrator.core import events
from stepmesh_orchestrator.core.commands import RestTree, WakeTree
from stepmesh_orchestrator.core.decide import dormancy
from stepmesh_orchestrator.core.dormant import MAX_FRAME, UNIT_MS, Dormant, frame_of, place_of, wakes_ms_of
from stepmesh_orchestrator.core.effects import SetTimer, TreeLeft
from stepmesh_orchestrator.core.evolve.dormancy import restore
from stepmesh_orchestrator.core.snapshot import decode_state, encode_state, state_hash
from stepmesh_orchestrator.core.state import SLEEPING, Item, State

DAY_MS = 24 * 3_600_000


def nap(name: str = "s", ms: Any = DAY_MS, **more: Any) -> dict[str, Any]:
    return step(name, "/builtin/sleep", {"duration_ms": ms, "passthrough": "slept"}, **more)


def rest(engine: Engine, root: RunId = ROOT) -> list[Any]:
    return engine.send(RestTree(root, engine.state.sequence))


def wake(engine: Engine, left: events.TreeDormant, frame: int | None = None) -> list[Any]:
    at = frame_of(engine.state.dormant.places[left.run]) if frame is None else frame
    return engine.send(WakeTree(left.run, at, left.image, engine.shelf))


def test_it_leaves_a_number_and_comes_back_as_it_was() -> None:
    engine = Engine()
    engine.submit(flow([nap(), step("b", input=ref("s"))], ref("b")), 1, 2)
    before = encode_state(engine.state, places=True)

    (left,) = rest(engine)

    assert (engine.state.runs, engine.state.trees, len(engine.state.dormant)) == ({}, {}, 1)
    assert engine.new_effects == [TreeLeft(ROOT, NOW + DAY_MS)]
    (woken,) = wake(engine, left)
    assert woken == events.TreeWoken(ROOT, left.image)
    assert [effect.due_ms for effect in engine.new_effects if isinstance(effect, SetTimer)] == [NOW + DAY_MS] * 2
    engine.state.sequence -= 2
    assert encode_state(engine.state, places=True) == before
    assert len(engine.state.dormant) == 0


def test_a_snapshot_keeps_where_it_is() -> None:
    engine = Engine()
    engine.submit(flow([nap()], ref("s")))
    awake = encode_state(engine.state)
    rest(engine)
    kept = decode_state(encode_state(engine.state), engine.shelf)
    assert kept.dormant.places == engine.state.dormant.places
    assert kept.dormant.flows == engine.state.dormant.flows
    assert kept.dormant.first_frame == engine.state.dormant.first_frame
    assert state_hash(kept) == state_hash(engine.state)
    assert len(encode_state(engine.state)) < len(awake) / 2


@pytest.mark.parametrize(("ms", "leaves"), [(29_999, False), (30_000, True)])
def test_only_a_far_timer_is_worth_it(ms: int, leaves: bool) -> None:
    engine = Engine(dormant_ms=30_000)
    engine.submit(flow([nap(ms=ms)], ref("s")))
    assert bool(rest(engine)) == leaves


def test_the_nearest_timer_counts() -> None:
    engine = Engine()
    engine.submit(flow([nap("a"), nap("b", 1_000)], [ref("a"), ref("b")]))
    assert not rest(engine)


def test_a_task_in_flight_keeps_it() -> None:
    engine = Engine()
    engine.submit(flow([nap("a"), step("b")], [ref("a"), ref("b")]))
    assert not rest(engine)
    engine.succeed("b", 1)
    assert rest(engine)


def test_a_retry_that_waits_is_a_timer() -> None:
    engine = Engine()
    policy = {"action": "retry", "maxRetries": 1, "backoff": {"type": "constant", "initial": "1h", "jitter": 0}}
    engine.submit(flow([step("a", onError=policy)], ref("a")))
    engine.fail("a")
    (left,) = rest(engine)
    wake(engine, left)
    engine.fire()
    assert engine.tasks[-1].attempt == 2


@pytest.mark.parametrize(("items", "leaves"), [(dormancy.MAX_ITEMS, True), (dormancy.MAX_ITEMS + 1, False)])
def test_a_tree_of_many_items_stays(items: int, leaves: bool) -> None:
    engine = Engine(item_window=1)
    engine.submit(flow([nap()], ref("s")), *[None] * items)
    assert bool(rest(engine)) == leaves


@pytest.mark.parametrize(("children", "leaves"), [(dormancy.MAX_RUNS - 1, True), (dormancy.MAX_RUNS, False)])
def test_a_tree_of_many_runs_stays(children: int, leaves: bool) -> None:
    engine = Engine()
    inner = {"$literal": {"steps": [nap()], "output": ref("s")}}
    steps = [step(f"e{number}", "/builtin/eval", {"flow": inner}) for number in range(children)]
    engine.shelf.texts[js(inner["$literal"])] = engine.shelf.put(inner["$literal"])
    engine.submit(flow(steps, [ref(one["id"]) for one in steps]))
    assert len(engine.state.runs) == children + 1
    assert bool(rest(engine)) == leaves


def test_a_large_image_stays() -> None:
    for size, leaves in ((dormancy.MAX_IMAGE_BYTES // 2, True), (dormancy.MAX_IMAGE_BYTES, False)):
        engine = Engine()
        engine.submit(flow([nap()], ref("s")), "x" * size)
        assert bool(rest(engine)) == leaves


def test_no_frame_above_the_last_one_that_has_a_number_holds_an_image() -> None:
    for sequence, leaves in ((MAX_FRAME - 1, True), (MAX_FRAME, False)):
        engine = Engine()
        engine.submit(flow([nap()], ref("s")))
        engine.state.sequence = sequence
        assert bool(rest(engine)) == leaves


def test_an_image_of_another_time_is_ignored() -> None:
    engine = Engine()
    engine.submit(flow([nap()], ref("s")))
    (left,) = rest(engine)
    assert not wake(engine, left, frame_of(engine.state.dormant.places[ROOT]) + 1)
    assert wake(engine, left)
    assert not engine.send(WakeTree(ROOT, 2, left.image, engine.shelf))
    assert not engine.send(WakeTree(RunId("nobody"), 2, left.image, engine.shelf))
    assert not rest(engine, RunId("nobody"))


def test_it_is_cancelled_only_in_memory() -> None:
    engine = Engine()
    engine.submit(flow([nap()], ref("s")))
    (left,) = rest(engine)
    assert not engine.cancel()
    refused = engine.answer()
    assert isinstance(refused, Refused)
    assert refused.code == "SM-5120"
    wake(engine, left)
    engine.cancel()
    assert not engine.state.runs


def test_what_was_done_is_not_done_again() -> None:
    engine = Engine()
    engine.submit(flow([step("a"), nap("b")], [ref("a"), ref("b")]))
    engine.succeed("a", 7)
    (left,) = rest(engine)
    wake(engine, left)
    item = engine.state.runs[ROOT].items[0]
    assert item.outcomes == [b"7", None]
    assert item.phases[1] == SLEEPING
    engine.fire()
    assert b'[7,"slept"]' in (engine.new[-2].output or b"")


def test_a_view_of_a_dormant_run_leaves_no_memory_behind() -> None:
    """Items and runs hold each other, and no collector looks for them: 8 KB were lost each time that somebody looked at a run asleep."""
    engine = Engine()
    engine.submit(flow([nap()], ref("s")), 1, 2)
    (left,) = rest(engine)
    state = State(Partition(0))
    (run,) = restore(state, ROOT, left.image, engine.shelf)
    inputs = [weakref.ref(_mark(item)) for item in run.items.values()]
    assert [mark() is None for mark in inputs] == [False, False]
    del run, state
    assert [mark() is None for mark in inputs] == [True, True]


def _mark(item: Item) -> Any:
    """Something that lives as long as the item."""
    mark: Any = Engine()
    item.outcomes.append(mark)
    return mark


def test_a_newer_image_is_refused() -> None:
    image = msgspec.msgpack.encode([99, 0, [], []])
    with pytest.raises(ValueError, match="format 99"):
        restore(State(Partition(0)), ROOT, image, Engine().shelf)


# --- the index ---


@pytest.mark.parametrize("frame", [1, MAX_FRAME])
@pytest.mark.parametrize("wakes_ms", [0, UNIT_MS - 1, UNIT_MS, NOW, 10**15])
def test_a_place_is_one_number_of_64_bits(frame: int, wakes_ms: int) -> None:
    place = place_of(frame, wakes_ms)
    assert place < 1 << 64
    assert frame_of(place) == frame
    last = ((1 << (64 - 35)) - 1) * UNIT_MS
    assert wakes_ms_of(place) == min(wakes_ms // UNIT_MS * UNIT_MS, last)


def test_the_oldest_frame_that_is_needed_is_known() -> None:
    index, flow_id = Dormant(), FlowId("f")
    assert index.first_frame is None
    for frame, run in ((3, "a"), (3, "b"), (5, "c")):
        index.add([(RunId(run), flow_id)], place_of(frame, NOW))
    index.remove([(RunId("a"), flow_id)])
    assert index.first_frame == 3
    index.remove([(RunId("b"), flow_id)])
    assert (index.first_frame, index.flows, len(index)) == (5, {flow_id: 1}, 1)
    index.remove([(RunId("c"), flow_id)])
    assert (index.first_frame, index.flows, index.encoded()) == (None, {}, b"")
