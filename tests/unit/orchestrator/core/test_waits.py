"""`/wait_for_event` and addresses: every waiter gets the event, once, whether it came before or after, whatever happens to letters."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.orchestrator.core.engine import NOW, ROOT, Engine, flow, js, kinds, ref, step

from stepmesh_broker.protocol.ids import Namespace, RunId, home_of, partition_of
from stepmesh_broker.protocol.letters import Deliver, Letter, Subscribe, Unsubscribe, Waiter
from stepmesh_broker.protocol.messages import EventKept, Refused, SendEvent, Submit
from stepmesh_orchestrator.core import events
from stepmesh_orchestrator.core.addresses import Place
from stepmesh_orchestrator.core.commands import KeepEvent, RestTree, StartRun, TakeLetter, WakeTree
from stepmesh_orchestrator.core.decide.addresses import ID, KEY, NAME
from stepmesh_orchestrator.core.decide.waits import RENEWED_MS
from stepmesh_orchestrator.core.effects import Answered, Effect, Send, SetTimer, TreeLeft
from stepmesh_orchestrator.core.evolve import addresses
from stepmesh_orchestrator.core.explain import explain
from stepmesh_orchestrator.core.snapshot import decode_state, encode_state, state_hash

OTHER = RunId("01900000-0000-7000-8000-000000000002")
PLACE = Place("default", "paid", "order-7")
DAY_MS = 24 * 3_600_000


def wait(name: str = "w", key: Any = "order-7", **more: Any) -> dict[str, Any]:
    on_error = {"onError": more.pop("on_error")} if "on_error" in more else {}
    return step(name, "/builtin/wait_for_event", {"name": "paid", "key": key, **more}, **on_error)


def waiting(*steps: dict[str, Any], **settings: Any) -> Engine:
    engine = Engine(**settings)
    waits = steps or (wait(),)
    engine.submit(flow(list(waits), {one["id"]: ref(one["id"]) for one in waits}))
    return engine


def letters(engine: Engine, effects: list[Effect] | None = None) -> list[Letter]:
    """What the last command wants told."""
    return [effect.letter for effect in (engine.new_effects if effects is None else effects) if isinstance(effect, Send)]


def post(engine: Engine) -> list[events.Event]:
    """Letters are brought, and what they cause, until there are none; all events of that."""
    found: list[events.Event] = []
    left = letters(engine)
    while left:
        found += engine.send(TakeLetter(left.pop(0)))
        left += letters(engine)
    return found


def send(engine: Engine, name: str = "paid", key: str = "order-7", id: str = "e1", data: Any = None) -> Any:
    engine.send(KeepEvent(SendEvent(Namespace("default"), name, key, id, js(data))))
    (answered,) = [effect for effect in engine.new_effects if isinstance(effect, Answered)]
    return answered.answer


def result(engine: Engine, run: RunId = ROOT) -> Any:
    return engine.result(run=run)["result"]


# --- before and after -------------------------------------------------------------------------------------


def test_a_wait_asks_at_the_home_of_its_address_and_holds_no_slot() -> None:
    engine = waiting()

    assert kinds(engine.new)[-1] == "StepAwaiting"
    assert letters(engine) == [Subscribe("paid", "order-7", Waiter(ROOT, 0, 0, 1), NOW, [], "default")]
    assert engine.live().tree.in_flight == 0
    post(engine)
    assert kinds(engine.new) == ["WaiterPlaced"]


def test_an_event_that_comes_after_the_wait_is_its_output() -> None:
    engine = waiting()
    post(engine)

    assert send(engine, data={"amount": 12}) == EventKept("e1", 1)
    assert kinds(post(engine)) == ["WaitOver", "StepSucceeded", "ItemEnded", "RunEnded", "WaiterLeft"]
    assert result(engine) == {"w": {"amount": 12}}
    assert not engine.state.addresses.made(PLACE).waiters


def test_an_event_that_came_before_the_wait_is_its_output() -> None:
    engine = Engine()
    assert send(engine, data=1) == EventKept("e1", 0)
    engine.submit(flow([wait()], ref("w")))
    post(engine)

    assert result(engine) == 1


@pytest.mark.parametrize(("since", "gets"), [(None, False), (10, True), (9.999, False), ("10s", True), ("2023-11-14T22:13:10Z", True)])
def test_only_events_since_the_start_of_the_run_count_unless_the_wait_says_since_when(since: Any, gets: bool) -> None:
    engine = Engine()
    engine.session.now = NOW - 10_000
    send(engine)
    engine.session.now = NOW
    engine.submit(flow([wait(**({} if since is None else {"since": since}))], ref("w")))
    post(engine)

    assert (ROOT not in engine.state.runs) is gets


def test_everybody_who_waits_gets_the_event() -> None:
    engine = Engine()
    for run in (ROOT, OTHER):
        engine.submit(flow([wait()], ref("w")), run=run)
        post(engine)

    assert send(engine, data=5) == EventKept("e1", 2)
    post(engine)
    assert (result(engine), result(engine, OTHER)) == (5, 5)


def test_an_address_is_name_and_key() -> None:
    engine = waiting()
    post(engine)

    assert send(engine, key="order-8", id="a").matched == 0
    assert send(engine, name="order", key="7", id="b").matched == 0
    assert send(engine, id="c").matched == 1


def test_without_a_key_the_run_has_an_address_of_its_own() -> None:
    engine = Engine()
    send(engine, key=ROOT, data="early")  # who chose the run's id can do that
    engine.session.now += 1_000
    engine.submit(flow([step("w", "/builtin/wait_for_event", {"name": "paid"})], ref("w")))
    post(engine)

    assert result(engine) == "early"


def test_a_key_may_be_a_number() -> None:
    engine = waiting(wait(key=7))
    post(engine)

    assert send(engine, key="7").matched == 1


@pytest.mark.parametrize(("key", "scope"), [("order-7", "acme"), (ROOT, "")])
def test_tenants_have_addresses_of_their_own_but_a_run_has_one(key: str, scope: str) -> None:
    engine = Engine()
    compiled = engine.shelf.put(flow([wait(key=key)], ref("w")))
    engine.send(StartRun(Submit(ROOT, Namespace("acme"), compiled.id, [b"null"]), compiled))
    post(engine)
    here, theirs = (KeepEvent(SendEvent(Namespace(name), "paid", key, name, b"1")) for name in ("default", "acme"))
    matched = []
    for event in (here, theirs):
        engine.send(event)
        matched += [effect.answer.matched for effect in engine.new_effects if isinstance(effect, Answered)]

    assert matched == ([0, 1] if scope else [1, 0])
    assert engine.state.addresses.get(Place(scope, "paid", key)) is not None


@pytest.mark.parametrize("place", [Place("", "a", "b/c"), Place("ns", "a", "b/c"), Place("ns", "a", ""), Place("", "ns", "a/b")])
def test_the_text_of_a_place_is_its_own(place: Place) -> None:
    assert Place.of(place.text) == place


# --- once -------------------------------------------------------------------------------------------------


def test_an_event_with_an_id_that_is_known_at_its_address_changes_nothing() -> None:
    engine = Engine()
    send(engine, data=1)

    assert send(engine, data=2) == EventKept("e1", 0, existing=True)
    assert engine.new == []
    assert send(engine, key="order-8", data=2) == EventKept("e1", 0)


def test_two_waits_of_a_run_at_one_address_get_two_events() -> None:
    engine = waiting(wait("a"), wait("b"))
    post(engine)

    send(engine, id="e1", data=1)
    post(engine)
    assert ROOT in engine.state.runs
    send(engine, id="e2", data=2)
    post(engine)
    assert sorted(result(engine).values()) == [1, 2]


def test_two_waits_of_a_run_one_after_the_other_get_two_events_that_came_before() -> None:
    engine = Engine()
    for number in (1, 2, 3):
        send(engine, id=f"e{number}", data=number)
    first = wait("a")
    second = wait("b")
    second["input"]["key"] = {"$if": {"$coalesce": [ref("a"), True]}, "then": "order-7"}
    engine.submit(flow([first, second], {"a": ref("a"), "b": ref("b")}))
    post(engine)

    assert result(engine) == {"a": 1, "b": 2}


def test_what_a_run_took_is_remembered_for_as_many_events_as_an_address_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "MAX_TAKEN", 2)
    engine = waiting(*(wait(f"w{number}") for number in range(4)), events_per_address=2)
    post(engine)
    for number in range(4):
        send(engine, id=f"e{number}", data=number)
        post(engine)
        if number < 3:
            assert len((engine.live().taken or {})["paid/order-7"]) == min(number + 1, 2)

    assert sorted(result(engine).values()) == [0, 1, 2, 3]


def test_an_event_that_is_delivered_again_is_taken_once() -> None:
    engine = waiting(wait("a"), step("after", "/py/work", ref("a")))
    post(engine)
    send(engine)
    (delivery,) = letters(engine)
    assert isinstance(delivery, Deliver)
    engine.send(TakeLetter(delivery))

    assert engine.send(TakeLetter(delivery)) == []
    assert letters(engine) == [Unsubscribe("paid", "order-7", delivery.waiter, "default")]


def test_a_waiter_that_asks_again_gets_the_same_event() -> None:
    engine = waiting()
    (asked,) = letters(engine)
    post(engine)
    send(engine, id="e1", data=1)
    send(engine, id="e2", data=2)

    assert engine.send(TakeLetter(asked)) == []
    (delivery,) = letters(engine)
    assert isinstance(delivery, Deliver)
    assert delivery.id == "e1"


def test_a_delivery_for_nobody_is_sent_off() -> None:
    engine = waiting()
    gone = [Waiter(OTHER, 0, 0, 1), Waiter(ROOT, 9, 0, 1), Waiter(ROOT, 0, 9, 1), Waiter(ROOT, 0, 0, 2), Waiter(ROOT, 0, 0, 1, "command")]
    for waiter in gone:
        assert engine.send(TakeLetter(Deliver("paid", "order-7", waiter, NOW, 5, "e1", NOW, b"1"))) == []
        assert letters(engine) == [Unsubscribe("paid", "order-7", waiter)]


# --- ends -------------------------------------------------------------------------------------------------


def test_a_wait_that_is_over_fails_at_once_and_is_no_lost_worker() -> None:
    engine = waiting(wait(timeout="1h"))
    post(engine)

    assert engine.timer().due_ms == NOW + 3_600_000
    assert kinds(engine.fire()) == ["WaitOver", "StepFailed", "ItemEnded", "RunEnded"]
    assert engine.result()["error"]["code"] == "TIMEOUT"
    assert kinds(post(engine)) == ["WaiterLeft"]


def test_a_default_may_stand_in_for_an_event_that_does_not_come() -> None:
    engine = waiting(wait(timeout=60, on_error={"action": "useDefault", "defaultValue": "nothing"}))
    engine.fire()

    assert result(engine) == {"w": "nothing"}


def test_a_cancelled_run_waits_no_more() -> None:
    engine = waiting()
    post(engine)
    engine.cancel()

    assert letters(engine) == [Unsubscribe("paid", "order-7", Waiter(ROOT, 0, 0, 1), "default")]
    assert send(engine).matched == 1  # the letter is on its way
    post(engine)


@pytest.mark.parametrize(
    "value",
    [
        {}, {"name": ""}, {"name": "a/b"}, {"name": "a\nb"}, {"name": "n" * (NAME + 1)}, {"name": "n", "key": "k" * (KEY + 1)},
        {"name": "n", "key": 1.5}, {"name": "n", "timeout": "soon"}, {"name": "n", "timeout": -1}, {"name": "n", "since": "once"},
        {"name": "n", "more": 1}, "n", None,
    ],
)  # fmt: skip
def test_bad_input_is_told_at_once(value: Any) -> None:
    engine = Engine()
    engine.submit(flow([step("w", "/builtin/wait_for_event", {"$literal": value})], ref("w")))

    assert engine.result()["error"]["code"] == "INVALID_INPUT"


@pytest.mark.parametrize("value", [{"name": "n" * NAME, "key": "k" * KEY}, {"name": "n", "key": "a/b", "timeout": 0, "since": "1h"}])
def test_good_input_waits(value: Any) -> None:
    engine = Engine()
    engine.submit(flow([step("w", "/builtin/wait_for_event", {"$literal": value})], ref("w")))

    assert kinds(engine.new)[-1] == "StepAwaiting"


# --- what is kept -----------------------------------------------------------------------------------------


def test_an_event_is_forgotten_after_its_time_and_with_it_that_it_was_there() -> None:
    engine = Engine(keep_events_ms=1_000)
    send(engine)
    engine.state.addresses.forget(NOW)
    assert send(engine).existing
    engine.state.addresses.forget(NOW + 1)

    assert (engine.state.addresses.places, engine.state.addresses.size) == ({}, 0)
    assert send(engine) == EventKept("e1", 0)


def test_no_more_events_of_an_address_are_kept_than_the_limit() -> None:
    engine = Engine(events_per_address=2)
    for number in range(1, 4):
        send(engine, id=f"e{number}")

    assert list(engine.state.addresses.made(PLACE).events) == ["e2", "e3"]
    engine.restart()
    assert list(engine.state.addresses.made(PLACE).events) == ["e2", "e3"]


@pytest.mark.parametrize(("size", "code"), [(100, None), (101, "SM-5201")])
def test_the_data_of_an_event_has_a_limit(size: int, code: str | None) -> None:
    answer = send(Engine(event_bytes=100), data="x" * (size - 2))

    assert (answer.code if isinstance(answer, Refused) else None) == code


def test_the_events_that_a_partition_keeps_have_a_limit() -> None:
    engine = Engine(kept_event_bytes=700)
    answers = [send(engine, id=f"e{number}", data="x" * 98) for number in range(3)]

    assert [isinstance(answer, EventKept) for answer in answers] == [True, True, False]
    assert answers[-1].code == "SM-5202"


@pytest.mark.parametrize(
    ("name", "key", "id", "data"),
    [("", "k", "e", b"1"), ("a/b", "k", "e", b"1"), ("n", "k\n", "e", b"1"), ("n", "k", "", b"1"), ("n", "k", "e" * (ID + 1), b"1"),
     ("n", "k", "e", b"{"), ("n", "k", "e", b"[" * 5000)],
)  # fmt: skip
def test_an_event_that_cannot_be_is_refused(name: str, key: str, id: str, data: bytes) -> None:
    engine = Engine()
    engine.send(KeepEvent(SendEvent(Namespace("default"), name, key, id, data)))

    answer: Any = engine.answer()
    assert isinstance(answer, Refused)
    assert answer.code == "SM-5200"
    assert engine.new == []


# --- crashes, rest ----------------------------------------------------------------------------------------


def test_after_a_crash_a_wait_asks_again_and_an_offer_is_told_again() -> None:
    engine = waiting()
    asked = letters(engine)
    engine.restart()
    assert letters(engine) == asked
    post(engine)
    send(engine, data=3)
    (offer,) = letters(engine)

    engine.restart()
    assert letters(engine) == [*asked, offer]
    post(engine)
    assert result(engine) == {"w": 3}


def test_a_snapshot_holds_what_is_kept_and_what_was_taken() -> None:
    engine = waiting(wait("a"), wait("b"))
    post(engine)
    send(engine, data=1)
    post(engine)

    state = decode_state(encode_state(engine.state), engine.shelf)
    assert state_hash(state) == state_hash(engine.state)
    assert state.runs[ROOT].taken == engine.live().taken == {"paid/order-7": [engine.state.addresses.made(PLACE).events["e1"].position]}
    assert state.addresses.size == engine.state.addresses.size
    state.addresses.forget(NOW + 1)
    assert not state.addresses.made(PLACE).events


def test_a_state_without_events_looks_as_it_did_before_there_were_any() -> None:
    engine = Engine()
    engine.submit(flow([step("a")], ref("a")))
    before = encode_state(engine.state)
    send(engine, id="gone")
    engine.state.addresses.forget(NOW + 1)

    assert encode_state(engine.state)[1:2] == before[1:2]  # the format


def test_a_tree_that_waits_may_rest_and_is_looked_at_now_and_then() -> None:
    engine = waiting()

    assert engine.send(RestTree(ROOT, engine.state.sequence - 1)) == [], "its letter may not have left"
    (left,) = engine.send(RestTree(ROOT, engine.state.sequence))
    assert isinstance(left, events.TreeDormant)
    assert engine.new_effects == [TreeLeft(ROOT, NOW + RENEWED_MS)]


def test_a_tree_whose_wait_has_an_end_rests_until_then_at_most() -> None:
    engine = waiting(wait(timeout="1d"))
    engine.send(RestTree(ROOT, engine.state.sequence))

    assert engine.new_effects == [TreeLeft(ROOT, NOW + DAY_MS)]


def test_a_dormant_run_that_is_delivered_to_is_told_again_when_it_is_awake() -> None:
    engine = waiting(wait("a"), wait("b"))
    post(engine)
    send(engine, id="e1", data=1)
    post(engine)
    (left,) = engine.send(RestTree(ROOT, engine.state.sequence))
    assert isinstance(left, events.TreeDormant)
    send(engine, id="e2", data=2)
    (delivery,) = letters(engine)
    assert engine.send(TakeLetter(delivery)) == []
    (again,) = letters(engine)
    engine.send(WakeTree(ROOT, engine.state.sequence - 1, left.image, engine.shelf))
    post(engine)
    engine.send(TakeLetter(again))
    post(engine)

    assert sorted(result(engine).values()) == [1, 2]


def test_a_wait_without_an_end_asks_again_after_long() -> None:
    engine = waiting()
    asked = letters(engine)

    assert engine.timer().due_ms == NOW + RENEWED_MS
    assert engine.fire() == []
    assert letters(engine) == asked
    assert [effect.due_ms for effect in engine.new_effects if isinstance(effect, SetTimer)] == [NOW + 2 * RENEWED_MS]


def test_explain_says_what_it_waits_for() -> None:
    engine = waiting(wait(timeout="1h"))
    (cause,) = [one for one in explain(engine.state, engine.live(), NOW) if one.step_id == "w"]

    assert (cause.kind, cause.text) == ("awaiting", "waits for event 'paid' with key 'order-7', 3600.0 s more at most")


def test_letters_go_to_the_home_of_the_address_and_to_the_partition_of_the_root() -> None:
    engine = Engine()
    engine.session.partitions = 8
    engine.submit(flow([wait()], ref("w")))
    (asked,) = [effect for effect in engine.new_effects if isinstance(effect, Send)]
    engine.send(TakeLetter(asked.letter))
    send(engine)
    (told,) = [effect for effect in engine.new_effects if isinstance(effect, Send)]

    assert asked.partition != told.partition
    assert (asked.partition, told.partition) == (home_of("paid", "order-7", 8), partition_of(ROOT, 8))
