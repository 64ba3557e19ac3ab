"""Places, permits and breakers where they meet pauses, durable functions and each other: nothing is kept by who goes no further."""

from __future__ import annotations

import msgspec
import pytest
from tests.unit.orchestrator.core.engine import Engine, flow, parent_of, ref, step
from tests.unit.orchestrator.core.test_breakers import AWAY, ONE, Storm, opened
from tests.unit.orchestrator.core.test_functions import BEGAN, Body, issued, sleeping
from tests.unit.orchestrator.core.test_gates import Door, document

from stepmesh_broker.protocol.histories import CancelAsked, Kind
from stepmesh_broker.protocol.ids import Partition, RunId
from stepmesh_broker.protocol.letters import Unsubscribe
from stepmesh_broker.protocol.permit_letters import PermitAsk, PermitGrant, PermitReturn
from stepmesh_orchestrator.core.commands import CancelRun, PauseRun, ResumeRun, ServeKeys, TakeLetter
from stepmesh_orchestrator.core.effects import Send
from stepmesh_orchestrator.core.events import WaitOver
from stepmesh_orchestrator.core.functions import call_document
from stepmesh_orchestrator.core.snapshot import decode_state, encode_state, state_hash

OTHER = RunId("01900000-0000-7000-8000-00000000aaaa")
RATED = RunId("01900000-0000-7000-8000-00000000ffff")


def test_a_body_that_begins_anew_gives_its_place_back() -> None:
    body = Body()
    places = body.session.places
    assert places is not None
    for _ in range(3):
        body.turn(BEGAN, sleeping(60_000), continued=b"2")
        body.again()

    assert places.pools["py"].taken == 1

    body.succeed("f", 1)
    assert places.pools["py"].taken == 0
    assert not places.held


def test_a_body_that_begins_anew_gives_its_permit_back() -> None:
    body = Body(concurrencyKey={"$literal": "db"}, concurrencyLimit=1)
    body.turn(BEGAN, continued=b"2")

    assert body.again().attempt == 2
    assert list(body.session.granted) == [f"{body.run}/0/0/2"]
    body.succeed("f", 1)
    assert not body.state.permits.keys


def test_a_body_that_begins_anew_waits_no_more_for_what_it_awaited() -> None:
    body = Body()
    body.turn(BEGAN, issued("r/paid", Kind.EVENT, {"key": "k"}, "paid"), continued=b"2")

    (over,) = [event for event in body.new if isinstance(event, WaitOver)]
    assert (over.name, over.key, over.position) == ("paid", "k", 0)
    sent = [effect.letter for effect in body.new_effects if isinstance(effect, Send)]
    assert sent[-1] == Unsubscribe("paid", "k", over.waiter, over.scope)


def test_a_paused_run_is_no_canary() -> None:
    storm = opened()
    paused, other = storm.come(), storm.come()
    storm.engine.send(PauseRun(paused, "look"))

    storm.wait()
    assert storm.flying() == [other]
    storm.engine.succeed("a", run=other)
    storm.engine.send(ResumeRun(paused))

    assert storm.flying() == [paused]


def test_a_run_that_is_paused_alone_tries_the_component_when_it_goes_on() -> None:
    storm = opened()
    paused = storm.come()
    storm.engine.send(PauseRun(paused, "look"))
    storm.wait()
    assert not storm.engine.session.canaries
    assert storm.flying() == []

    storm.engine.send(ResumeRun(paused))

    assert storm.flying() == [paused]


def test_an_attempt_whose_run_waits_for_functions_to_clean_up_is_no_canary() -> None:
    storm, body = Storm(), Body()
    storm.engine = body
    storm.runs = [RunId("unknown")] * 2  # behind the run of the body
    for _ in range(10):
        body.fail("a", AWAY, run=storm.come())
    body.submit(flow([step("f", "/py/saga"), step("b")], {"f": ref("f"), "b": ref("b")}), run=OTHER)
    body.turn(BEGAN)
    free = storm.come()
    body.send(CancelRun(OTHER, "enough"))

    storm.wait()

    assert storm.flying() == [free]


def test_an_attempt_without_a_key_is_no_canary() -> None:
    storm = opened()
    storm.come(flow([step("a", concurrencyKey={"$input": "api"}, concurrencyLimit=1)], ref("a")))
    other = storm.come()

    storm.wait()

    assert storm.flying() == [other]


def test_an_attempt_that_waits_for_its_key_is_no_canary() -> None:
    storm = opened()
    holder = storm.come(flow([step("a", "/py/other", concurrencyKey={"$literal": "db"}, concurrencyLimit=1)], ref("a")))
    storm.come(flow([step("a", concurrencyKey={"$literal": "db"}, concurrencyLimit=1)], ref("a")))
    other = storm.come()

    storm.wait()

    assert storm.flying() == [holder, other]


def test_a_canary_that_is_a_function_and_goes_idle_is_a_success() -> None:
    body = Body()
    storm = Storm()
    storm.engine = body
    for number in range(10):
        run = RunId(f"01900000-0000-7000-8000-00000000f0{number:02x}")
        body.submit(flow([step("a", "/py/saga")], ref("a")), run=run)
        body.fail("a", AWAY, run=run)
    assert storm.is_open
    function, other = (RunId(f"01900000-0000-7000-8000-00000000f1{number:02x}") for number in range(2))
    for run in (function, other):
        body.submit(flow([step("f", "/py/saga")], ref("f")), run=run)
    storm.wait()
    body.run = function
    body.driver, body.number, body.base = 7, 0, 0

    body.turn(BEGAN, sleeping(60_000), idle=True)

    assert body.item(run=other).holds_slot(0)
    assert not storm.is_open


def test_a_paused_run_can_be_cancelled_and_its_function_cleans_up() -> None:
    body = Body()
    body.turn(BEGAN, sleeping(60_000), idle=True)
    body.send(PauseRun(body.run, "look"))

    body.send(CancelRun(body.run, "enough"))

    assert body.again().attempt == 2
    assert isinstance(body.history()[-1], CancelAsked)
    body.succeed("f", "done")
    assert body.result()["error"]["message"] == "enough"


def test_a_run_that_waits_for_its_functions_to_clean_up_opens_no_items() -> None:
    body = Body()
    batch = RunId("01900000-0000-7000-8000-00000000beef")
    body.submit(flow([step("f", "/py/saga")], ref("f")), 1, 2, 3, run=batch, max_concurrency=1)
    body.turn(BEGAN)
    body.send(CancelRun(batch, "enough"))

    body.turn(sleeping(60_000), idle=True, base=2)

    assert body.live(batch).next_item == 1
    body.restart()
    assert body.live(batch).next_item == 1


def test_sub_runs_that_a_function_cleans_up_with_begin() -> None:
    body, undo = Body(), issued("r/undo", Kind.CALL, 1, "/py/undo")
    body.shelf.put(msgspec.json.decode(call_document(undo)))
    body.turn(BEGAN)
    body.send(CancelRun(body.run, "enough"))

    body.turn(undo, idle=True, base=2)

    assert body.tasks[-1].component == "/undo"


def test_a_cancel_beside_a_sub_run_that_outlived_its_parent() -> None:
    body = Body()
    body.submit(flow([step("a")], ref("a")), run=OTHER)
    starter = body.tasks[-1]
    plain, batch = (RunId(f"01900000-0000-7000-8000-00000000b00{number}") for number in range(2))
    body.submit(flow([step("b")], ref("b")), 1, 2, run=plain, parent=parent_of(starter, "plain"), max_concurrency=1)
    body.submit(flow([step("f", "/py/saga")], ref("f")), run=batch, parent=parent_of(starter, "batch"))
    body.turn(BEGAN)
    body.succeed("a", 1, run=OTHER)
    body.send(CancelRun(batch, "enough"))

    body.succeed("b", 1, run=plain)

    assert body.live(plain).next_item == 2


def test_a_period_begins_anew_when_nobody_waits_any_more() -> None:
    door = Door(document(debounce={"period": "5s", "max": "8s"}))
    first = door.come()
    door.engine.submit(document(name="other", throttle={"rate": "1/d"}), {"customer": 7}, run=RATED)
    door.engine.cancel(RATED)  # its key is the first that is kept for its rate, before that of the period
    door.engine.cancel(door.runs[first])
    door.engine.session.now += 60_000

    second = door.come()

    assert door.going() == []
    assert door.wait() == 5_000
    assert door.going() == [second]


@pytest.mark.parametrize("paused", [False, True])
def test_a_later_run_lets_the_functions_of_the_one_before_clean_up(paused: bool) -> None:
    body = Body()
    body.send(CancelRun(body.run, "not of this test", force=True))
    saga = flow([step("f", "/py/saga")], ref("f"), name="saga", concurrency={"policy": "cancel_previous"})
    body.submit(saga, run=OTHER)
    body.turn(BEGAN, sleeping(60_000), idle=True)
    if paused:
        body.send(PauseRun(OTHER, "look"))
    body.submit(saga, run=RATED)
    body.run = OTHER

    assert isinstance(body.history()[-1], CancelAsked)
    assert not body.live(RATED).items
    body.again()
    body.succeed("f", "cleaned up")

    assert body.result()["error"]["message"] == "singleton: a later run came in its place"
    assert body.live(RATED).items


def test_a_place_whose_holder_is_lost_is_asked_for_by_who_is_turned_away() -> None:
    door = Door(document(concurrency={"policy": "skip"}))
    key, lost = "default/test/concurrency/", RunId("01900000-0000-7000-8000-00000000dead")
    door.engine.send(TakeLetter(PermitAsk(key, lost, Partition(1), [1, "skip", 0, 0, 0, 0])))  # it ended there, which was never told

    away = door.come()

    assert door.cancelled() == {away: "singleton: another run has its place"}
    assert Send(Partition(1), PermitGrant(key, lost)) in door.engine.new_effects
    door.engine.send(TakeLetter(PermitReturn(key, lost)))
    later = door.come()
    assert door.going() == [later]


def test_a_pool_keeps_nothing_of_runs_that_were_cancelled_while_they_waited() -> None:
    engine = Engine(pool_window=1)
    engine.submit(ONE, run=OTHER)
    engine.submit(ONE, 1, 2, run=RATED)

    engine.cancel(RATED)

    places = engine.session.places
    assert places is not None
    assert not any(lane.entries for lane in places.pools["py"].lanes.values())


def test_only_holders_for_whom_somebody_waits_are_asked_after() -> None:
    engine = Engine()
    rules: dict[str, list[int | str]] = {
        "full": [1, "queue", 0, 0, 0, 0],
        "roomy": [2, "queue", 0, 0, 0, 0],
        "rate": [0, "queue", 60_000_000, 1, 0, 0],
    }
    for key, rule in rules.items():
        for number in range(1 if key == "roomy" else 2):
            engine.send(TakeLetter(PermitAsk(key, RunId(f"{key}-{number}"), Partition(1), rule)))

    engine.send(ServeKeys(again=True, full=True))

    told = [effect.letter for effect in engine.new_effects if isinstance(effect, Send)]
    assert told == [PermitGrant("full", RunId("full-0"))]


def test_a_run_whose_items_have_all_begun_has_the_same_state_after_a_snapshot() -> None:
    engine = Engine()
    engine.submit(ONE)
    engine.live().seeds = {}
    again = decode_state(encode_state(engine.state), engine.shelf)
    for state in (engine.state, again):
        state.runs[engine.run].taken = {"a/b": [1]}

    assert state_hash(again) == state_hash(engine.state)
