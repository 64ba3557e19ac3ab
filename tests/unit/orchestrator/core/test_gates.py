"""Gates of flows: how many runs of a key go at once, how many in a time, and which of them at all."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.orchestrator.core.engine import Engine, flow, kinds, ref, step

from stepmesh_broker.protocol.ids import Namespace, Partition, RunId, partition_of
from stepmesh_broker.protocol.messages import Accepted, Refused, Submit
from stepmesh_broker.protocol.permit_letters import PermitAsk, PermitLetter, PermitReturn
from stepmesh_orchestrator.core.commands import ServeKeys, StartRun, TakeLetter
from stepmesh_orchestrator.core.effects import CallKeys, Send
from stepmesh_orchestrator.core.events import RunCancelled, RunEnded
from stepmesh_orchestrator.core.explain import explain
from stepmesh_orchestrator.core.flow.compile import compile_flow
from stepmesh_orchestrator.core.rows import RunRow
from stepmesh_orchestrator.core.snapshot import decode_state, encode_state, state_hash
from stepmesh_orchestrator.core.standing import ordinal

STEPS = [step("a", input={"$input": "$"})]
BY_CUSTOMER = {"$input": "customer"}


def document(**gates: Any) -> dict[str, Any]:
    return flow(STEPS, ref("a"), **gates)


LIMITED = document(concurrency={"key": BY_CUSTOMER, "limit": 2})
SINGLE = document(concurrency={"limit": 1})


class Door:
    """An engine whose runs are known by the numbers in which they came."""

    def __init__(self, plan: dict[str, Any] = LIMITED, **settings: Any) -> None:
        self.engine = Engine(**settings)
        self.plan = plan
        self.runs: list[RunId] = []

    def come(self, customer: Any = 7, **more: Any) -> int:
        run = RunId(f"01900000-0000-7000-8000-{len(self.runs):012x}")
        self.runs.append(run)
        self.engine.submit(self.plan, {"customer": customer}, run=run, **more)
        return len(self.runs) - 1

    def going(self) -> list[int]:
        """Runs that have begun and not ended."""
        return [number for number, run in enumerate(self.runs) if run in self.engine.state.runs and self.engine.live(run).items]

    def held(self) -> list[int]:
        return [number for number, run in enumerate(self.runs) if run in self.engine.state.runs and self.engine.live(run).tree.is_held]

    def end(self, number: int) -> None:
        self.engine.succeed("a", run=self.runs[number])

    def wait(self) -> int:
        """Until the next key is served; how long that took, in ms."""
        before = self.engine.session.now
        calls = [effect.due_ms for effect in self.engine.effects if isinstance(effect, CallKeys)]
        due = self.engine.session.now = min(due for due in calls if due > before)
        self.engine.send(ServeKeys())
        return due - before

    def text(self, number: int) -> str:
        state = self.engine.state
        (cause,) = explain(state, state.runs[self.runs[number]], self.engine.session.now)
        return cause.text

    def cancelled(self) -> dict[int, str]:
        events = [event for _, event in self.engine.journal if isinstance(event, RunCancelled)]
        return {self.runs.index(event.run): event.reason for event in events}


def test_a_key_lets_as_many_runs_through_as_its_limit_and_the_next_one_when_one_ends() -> None:
    door = Door()
    for _ in range(4):
        door.come()
    assert (door.going(), door.held()) == ([0, 1], [2, 3])

    door.end(1)
    assert (door.going(), door.held()) == ([0, 2], [3])
    door.end(0)
    assert (door.going(), door.held()) == ([2, 3], [])


def test_keys_namespaces_and_flows_do_not_know_each_other() -> None:
    door = Door(document(concurrency={"key": BY_CUSTOMER, "limit": 1}))
    door.come("x")
    door.come("y")
    door.come("x", namespace="acme")
    door.plan = {**door.plan, "name": "other"}
    door.come("x")
    assert door.going() == [0, 1, 2, 3]

    door.come("x")
    assert door.held() == [4]


def test_a_held_run_is_queued_and_accepted() -> None:
    door = Door(SINGLE)
    door.come()
    door.come()

    assert isinstance(door.engine.answer(), Accepted)
    rows = [row.status for row in door.engine.session.rows if isinstance(row, RunRow) and row.run == door.runs[1]]
    assert rows[-1] == "queued"
    door.end(0)
    rows = [row.status for row in door.engine.session.rows if isinstance(row, RunRow) and row.run == door.runs[1]]
    assert rows[-1] == "running"


def test_explain_says_how_many_are_ahead_of_which_key() -> None:
    door = Door()
    for _ in range(5):
        door.come("customer-7")

    assert door.text(4) == "waits for a place: 3rd of 3 of key customer-7 (limit 2)"
    assert [ordinal(number) for number in (1, 2, 3, 4, 11, 12, 13, 21, 112)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "112th",
    ]  # fmt: skip


def test_a_cancelled_run_leaves_the_queue_and_gives_its_place_to_the_next() -> None:
    door = Door(SINGLE)
    for _ in range(4):
        door.come()

    door.engine.cancel(door.runs[1])
    assert (door.going(), door.held()) == ([0], [2, 3])
    door.engine.cancel(door.runs[0])
    assert (door.going(), door.held()) == ([2], [3])


def test_nothing_is_kept_of_a_key_with_which_nobody_has_to_do() -> None:
    door = Door()
    door.come()
    assert door.engine.state.permits.keys
    door.end(0)

    assert not door.engine.state.permits.keys
    assert not door.engine.state.permits.idle
    assert door.engine.state.permits.encoded() == b""


def test_a_recovery_finds_who_goes_and_who_waits() -> None:
    door = Door()
    for _ in range(4):
        door.come()
    before = door.engine.state.permits.encoded()

    assert door.engine.restart() == []

    assert door.engine.state.permits.encoded() == before
    assert (door.going(), door.held()) == ([0, 1], [2, 3])
    door.end(0)
    assert door.going() == [1, 2]


def test_skip_ends_a_run_that_comes_while_another_goes() -> None:
    door = Door(document(concurrency={"key": BY_CUSTOMER, "policy": "skip"}))
    door.come()
    door.come()
    assert door.cancelled() == {1: "singleton: another run has its place"}

    door.end(0)
    door.come()
    assert door.going() == [2]


def test_cancel_previous_ends_the_run_that_goes_and_the_new_one_takes_its_place() -> None:
    door = Door(document(concurrency={"policy": "cancel_previous"}))
    door.come()
    door.come()
    door.come()

    assert door.cancelled() == dict.fromkeys((0, 1), "singleton: a later run came in its place")
    assert door.going() == [2]


def test_a_rate_lets_a_burst_through_and_then_one_after_the_other() -> None:
    door = Door(document(throttle="3/m"))
    for _ in range(5):
        door.come()
    assert door.going() == [0, 1, 2]
    for number in (0, 1, 2):
        door.end(number)
    assert door.going() == [], "what has ended gives no rate back"

    assert door.wait() == 20_000
    assert door.going() == [3]
    assert door.text(4) == "waits for its part of the rate: 1st of 1 of flow test; the next one begins in 20.0 s"
    assert door.wait() == 20_000
    assert door.going() == [3, 4]


def test_a_rate_is_forgotten_when_it_is_whole_again() -> None:
    door = Door(document(throttle={"rate": "2/m", "key": BY_CUSTOMER}))
    door.come("a")
    door.end(0)
    assert len(door.engine.state.permits.keys) == 1

    door.engine.session.now += 30_001
    door.come("b")

    assert [key.rsplit("/", 1)[1] for key in door.engine.state.permits.keys] == ["b"]


def test_debounce_lets_the_last_one_through_when_nobody_came_after_it() -> None:
    door = Door(document(debounce={"key": BY_CUSTOMER, "period": "5s", "max": "12s"}))
    door.come()
    door.engine.session.now += 3_000
    door.come()
    assert door.cancelled() == {0: "debounce: a later run came before its time"}
    assert door.text(1) == "waits until nobody comes after it for key 7, 5.0 s more"

    assert door.wait() == 2_000, "the first one's time is nobody's"
    assert door.going() == []
    assert door.wait() == 3_000
    assert door.going() == [1]


def test_a_key_is_called_for_at_its_own_time_and_served_alone() -> None:
    door = Door(document(debounce={"key": BY_CUSTOMER, "period": "5s"}))
    door.come(7)
    door.engine.session.now += 1_000
    door.come(8)
    called = {effect.key: effect.due_ms for effect in door.engine.effects if isinstance(effect, CallKeys)}
    first, second = sorted(called, key=lambda key: called[key])
    assert called[second] - called[first] == 1_000
    door.engine.session.now = called[second]
    door.engine.send(ServeKeys(key=first))
    assert (door.going(), door.held()) == ([0], [1])
    door.engine.send(ServeKeys(key=second))
    assert door.going() == [0, 1]


def test_debounce_puts_off_no_longer_than_its_max() -> None:
    door = Door(document(debounce={"period": "5s", "max": "12s"}))
    began = door.engine.session.now
    for number in range(3):
        door.engine.session.now = began + number * 4_000
        door.come()
    while not door.going():
        door.wait()

    assert door.engine.session.now - began == 12_000
    assert door.going() == [2]


def test_gates_are_passed_one_after_the_other() -> None:
    door = Door(document(throttle="1/m", concurrency={"limit": 2}))
    for _ in range(3):
        door.come()
    assert (door.going(), door.held()) == ([0], [1, 2])
    assert door.text(2) == "waits for a place: 1st of 1 of flow test (limit 2)"

    door.end(0)
    assert door.going() == [], "a place is free, the rate is not"
    door.wait()
    assert door.going() == [1]


def test_a_key_that_the_input_does_not_have_is_refused() -> None:
    engine = Engine()

    engine.submit(LIMITED, {"client": 1})

    answer = engine.answer()
    assert isinstance(answer, Refused)
    assert answer.code == "SM-5260"
    assert "the key of `concurrency` has no value" in answer.message
    assert not engine.journal


@pytest.mark.parametrize(("length", "accepted"), [(200, True), (201, False)])
def test_a_key_has_200_characters_at_most(length: int, accepted: bool) -> None:
    engine = Engine()

    engine.submit(LIMITED, {"customer": "x" * length})

    assert isinstance(engine.answer(), Accepted) is accepted


def test_sub_runs_pass_no_gates() -> None:
    engine = Engine()
    engine.shelf.put(SINGLE)
    engine.submit(flow([step("m", "/builtin/map", {"workflow": {"$literal": SINGLE}, "items": [1, 2, 3]})], ref("m")))

    assert engine.dispatched() == ["a", "a", "a"]


def test_a_run_without_items_ends_at_its_gate() -> None:
    door = Door(SINGLE)
    door.come()
    compiled = door.engine.shelf.put(SINGLE)
    run = RunId("01900000-0000-7000-8000-0000000000ff")
    door.engine.send(StartRun(Submit(run, Namespace("default"), compiled.id, []), compiled))

    assert RunEnded(run, "completed") in door.engine.new
    assert not door.held()
    door.end(0)
    assert not door.engine.state.permits.keys


@pytest.mark.parametrize(
    ("gates", "code", "path"),
    [
        ({"concurrency": {"limit": 0}}, "SM-2013", "$.concurrency.limit"),
        ({"concurrency": {"limit": 2, "policy": "skip"}}, "SM-2013", "$.concurrency.limit"),
        ({"concurrency": {"policy": "drop"}}, "SM-2013", "$.concurrency.policy"),
        ({"concurrency": 3}, "SM-2010", "$.concurrency"),
        ({"concurrency": {"key": {"$step": "a"}}}, "SM-2021", "$.concurrency.key"),
        ({"throttle": "fast"}, "SM-2013", "$.throttle"),
        ({"throttle": "0/m"}, "SM-2013", "$.throttle"),
        ({"throttle": {"key": 1}}, "SM-2012", "$.throttle"),
        ({"debounce": {}}, "SM-2012", "$.debounce"),
        ({"idempotency": {}}, "SM-2012", "$.idempotency"),
        ({"idempotency": "order"}, "SM-2010", "$.idempotency"),
        ({"idempotency": {"key": {"$step": "a"}}}, "SM-2021", "$.idempotency.key"),
        ({"debounce": {"period": 0}}, "SM-2013", "$.debounce.period"),
        ({"debounce": {"period": "5s", "max": "1s"}}, "SM-2013", "$.debounce.max"),
    ],
)
def test_what_is_wrong_with_gates_is_said_where_it_stands(gates: dict[str, Any], code: str, path: str) -> None:
    compiled, diagnostics = compile_flow(document(**gates))

    assert compiled is None
    found = [(one.code, one.path) for one in diagnostics.items]
    assert any(one == code and place.startswith(path) for one, place in found), found


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from(("come", "end", "cancel", "restart"))), max_size=60), st.integers(1, 3))
@settings(deadline=None, max_examples=60)
def test_no_limit_is_passed_and_nobody_waits_while_there_is_room(history: list[tuple[str, str]], limit: int) -> None:
    door = Door(document(concurrency={"key": BY_CUSTOMER, "limit": limit}))
    customers: list[str] = []
    for customer, what in history:
        going, held = door.going(), door.held()
        if what == "come":
            customers.append(customer)
            door.come(customer)
        elif what == "end" and going:
            door.end(going[0])
        elif what == "cancel" and held:
            door.engine.cancel(door.runs[held[-1]])
        elif what == "restart":
            assert door.engine.restart() == []
        goes, waits = Counter(customers[one] for one in door.going()), Counter(customers[one] for one in door.held())
        assert all(count <= limit for count in goes.values())
        assert all(goes[key] == limit for key in waits), "somebody waits although there is room"
    while door.going():
        door.end(door.going()[0])
    assert not door.held()
    assert not door.engine.state.permits.keys


def test_gates_are_told_in_the_journal_once() -> None:
    door = Door(SINGLE)
    door.come()
    door.come()
    door.end(0)

    told = Counter(kinds([event for _, event in door.engine.journal]))
    assert (told["RunHeld"], told["RunReleased"], told["PermitAsked"]) == (2, 2, 2)


class Pair:
    """Two partitions, the second of which is the home of the key, and what they tell each other."""

    def __init__(self) -> None:
        self.run_side, self.home = Engine(), Engine()
        self.home.session.state.partition = Partition(1)
        for engine in (self.run_side, self.home):
            engine.session.partitions = 2
        self.customer = next(f"c{number}" for number in range(100) if partition_of(f"default/test/concurrency/c{number}", 2) == 1)
        self.run_side.submit(LIMITED, {"customer": self.customer})

    def letters(self, engine: Engine) -> list[PermitLetter]:
        sent = [effect for effect in engine.new_effects if isinstance(effect, Send)]
        assert all(one.partition != engine.state.partition for one in sent)
        return [one.letter for one in sent if isinstance(one.letter, PermitLetter)]

    def carry(self, letters: list[PermitLetter], to: Engine) -> list[PermitLetter]:
        answers: list[PermitLetter] = []
        for letter in letters:
            to.send(TakeLetter(letter))
            answers += self.letters(to)
        return answers


def test_a_key_of_another_partition_is_asked_by_letter() -> None:
    pair = Pair()
    asked = pair.letters(pair.run_side)
    assert pair.run_side.live().tree.is_held

    granted = pair.carry(asked, pair.home)
    assert pair.carry(asked, pair.home) == granted, "who asks again is told again"
    assert pair.carry(granted, pair.run_side) == []
    assert pair.run_side.dispatched() == ["a"]
    assert pair.carry(granted, pair.run_side) == []
    pair.run_side.succeed("a")

    (returned,) = pair.letters(pair.run_side)
    assert isinstance(returned, PermitReturn)
    assert pair.carry([returned, returned], pair.home) == []
    assert not pair.home.state.permits.keys


def test_what_was_lost_between_partitions_is_told_again() -> None:
    pair = Pair()
    asked = pair.letters(pair.run_side)
    assert isinstance(asked[0], PermitAsk)
    pair.run_side.restart()
    (again,) = pair.letters(pair.run_side)
    assert isinstance(again, PermitAsk)
    assert [msgspec.structs.replace(again, position=asked[0].position)] == asked, "a held run asks again after a recovery"

    granted = pair.carry(asked, pair.home)
    pair.home.send(ServeKeys(again=True))
    assert pair.letters(pair.home) == granted
    pair.carry(granted, pair.run_side)
    pair.run_side.succeed("a")  # and that it gave its permit back is lost

    pair.home.send(ServeKeys(again=True))
    returned = pair.carry(pair.letters(pair.home), pair.run_side)
    pair.carry(returned, pair.home)
    assert not pair.home.state.permits.keys


def test_a_snapshot_knows_gates_and_permits() -> None:
    door = Door()
    for _ in range(3):
        door.come(priority=5)

    state = decode_state(encode_state(door.engine.state), door.engine.shelf)

    assert state_hash(state) == state_hash(door.engine.state)
    held = state.runs[door.runs[2]]
    assert (held.tree.is_held, held.priority, held.gates_open) == (True, 5, 0)
    assert not state.runs[door.runs[0]].tree.is_held
