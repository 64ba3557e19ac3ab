"""What partitions tell each other about keys comes late, twice, in another order, and over crashes: no run that is over does anything."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.orchestrator.core.engine import Engine, flow, kinds, ref, step
from tests.unit.orchestrator.core.test_gates import document

from stepmesh_broker.protocol.ids import Partition, RunId, partition_of
from stepmesh_broker.protocol.permit_letters import PermitAsk, PermitCheck, PermitGrant, PermitLetter, PermitReturn
from stepmesh_orchestrator.core.commands import AskAgain, ServeKeys, TakeLetter
from stepmesh_orchestrator.core.effects import Send
from stepmesh_orchestrator.core.events import RunCancelled
from stepmesh_orchestrator.core.gate_events import PermitAsked, PermitMoved
from stepmesh_orchestrator.core.snapshot import decode_state, encode_state, state_hash

HOME, OTHERS = 0, (1, 2)
CUSTOMERS = {
    kind: [name for name in map(str, range(200)) if partition_of(f"default/test/{kind}/{name}", 3) == HOME]
    for kind in ("concurrency", "throttle", "debounce")
}
GATES: dict[str, dict[str, Any]] = {
    "queue": {"concurrency": {"limit": 1}},
    "skip": {"concurrency": {"policy": "skip"}},
    "cancel_previous": {"concurrency": {"policy": "cancel_previous"}},
    "throttle": {"throttle": {"rate": "1/d"}},
    "debounce": {"debounce": {"period": "5s"}},
}
Sent = tuple[int, PermitLetter]
"""To which partition, what."""


class Mesh:
    """Three partitions. The keys are at home on the first; the runs live on the others. `outside`: letters on their way."""

    def __init__(self, gate: str = "queue") -> None:
        (self.kind,) = GATES[gate]
        rule = {**GATES[gate][self.kind], "key": {"$input": "customer"}}
        self.plan = document(**{self.kind: rule})
        self.engines = [Engine() for _ in range(3)]
        for number, engine in enumerate(self.engines):
            engine.session.partitions = 3
            engine.state.partition = Partition(number)
        self.home = self.engines[HOME]
        self.outside: list[Sent] = []
        self.runs: dict[RunId, Engine] = {}

    def come(self, partition: int, customer: int = 0) -> RunId:
        run = RunId(f"01900000-0000-7000-8000-{len(self.runs):012x}")
        engine = self.runs[run] = self.engines[partition]
        engine.submit(self.plan, {"customer": CUSTOMERS[self.kind][customer]}, run=run)
        self.collect(engine)
        return run

    def collect(self, engine: Engine) -> None:
        sent = [effect for effect in engine.new_effects if isinstance(effect, Send)]
        self.outside += [(one.partition, one.letter) for one in sent if isinstance(one.letter, PermitLetter)]

    def bring(self, sent: Sent) -> None:
        engine = self.engines[sent[0]]
        engine.send(TakeLetter(sent[1]))
        self.collect(engine)

    def bring_all(self) -> None:
        """Each once, in order, and what follows."""
        while self.outside:
            self.bring(self.outside.pop(0))

    def ask(self) -> Sent:
        """Take the only letter on its way, which asks."""
        (sent,) = self.outside
        assert isinstance(sent[1], PermitAsk)
        self.outside.clear()
        return sent

    def end(self, run: RunId) -> None:
        self.runs[run].succeed("a", run=run)
        self.collect(self.runs[run])

    def cancel(self, run: RunId) -> None:
        self.runs[run].cancel(run)
        self.collect(self.runs[run])

    def pass_time(self, ms: int = 86_400_000) -> None:
        for engine in self.engines:
            engine.session.now += ms
        self.home.send(ServeKeys())
        self.collect(self.home)

    def restart(self, partition: int) -> None:
        self.engines[partition].restart()
        self.collect(self.engines[partition])

    def is_live(self, run: RunId) -> bool:
        return run in self.runs[run].state.runs

    def goes(self, run: RunId) -> bool:
        return self.is_live(run) and bool(self.runs[run].live(run).items)

    def end_all(self) -> None:
        """As often as there are runs: a day passes, and whoever goes then ends."""
        for _ in range(len(self.runs) + 1):
            self.bring_all()
            for run in [run for run in self.runs if self.goes(run)]:
                self.end(run)
            self.pass_time()
            self.bring_all()


def ended(gate: str, partition: int = 1) -> tuple[Mesh, Sent]:
    """A run came, began, and is over; and what it had asked."""
    mesh = Mesh(gate)
    run = mesh.come(partition)
    asked = mesh.ask()
    mesh.bring(asked)
    mesh.pass_time()
    mesh.bring_all()
    assert mesh.goes(run)
    mesh.end(run)
    mesh.bring_all()
    mesh.pass_time()
    return mesh, asked


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("gate", list(GATES))
@pytest.mark.parametrize("partition", OTHERS)
def test_a_late_copy_of_what_an_ended_run_asked_does_nothing_to_the_one_that_came_after_it(gate: str, partition: int, crash: bool) -> None:
    mesh, late = ended(gate)
    after = mesh.come(partition)
    mesh.bring_all()
    if crash:
        mesh.restart(HOME)
        mesh.bring_all()
    mesh.bring(late)
    mesh.bring_all()
    mesh.pass_time()
    mesh.bring_all()

    assert mesh.goes(after)
    assert not any(isinstance(event, RunCancelled) for _, event in mesh.runs[after].journal)


@pytest.mark.parametrize("gate", list(GATES))
def test_a_late_copy_takes_no_place_from_one_that_comes_next(gate: str) -> None:
    mesh, late = ended(gate)
    mesh.bring(late)
    asked_back, mesh.outside = mesh.outside, []
    after = mesh.come(2)
    mesh.bring_all()
    mesh.pass_time(5_000)
    mesh.bring_all()

    assert mesh.goes(after)
    mesh.outside = asked_back
    mesh.bring_all()
    assert mesh.goes(after)


@pytest.mark.parametrize("gate", ["skip", "cancel_previous", "debounce"])
def test_a_run_that_ended_before_what_it_asked_arrived_does_nothing_either(gate: str) -> None:
    mesh = Mesh(gate)
    cancelled = mesh.come(1)
    late = mesh.ask()
    mesh.cancel(cancelled)
    mesh.bring_all()
    after = mesh.come(2)
    mesh.bring_all()
    mesh.bring(late)
    mesh.bring_all()
    mesh.pass_time(5_000)
    mesh.bring_all()

    assert mesh.goes(after)


@pytest.mark.parametrize("crash", [False, True])
def test_a_live_run_whose_word_was_overtaken_is_asked_and_goes(crash: bool) -> None:
    mesh = Mesh()
    slow = mesh.come(1)
    late = mesh.ask()
    other = mesh.come(1, customer=1)
    mesh.bring_all()
    mesh.end(other)
    mesh.bring_all()
    mesh.bring(late)
    assert kinds(mesh.home.new) == ["PermitDoubted"]
    if crash:
        mesh.outside.clear()  # before it left
        mesh.restart(HOME)
    assert [type(letter) for _, letter in mesh.outside] == [PermitCheck]
    mesh.bring_all()

    assert mesh.goes(slow)
    mesh.end(slow)
    mesh.bring_all()
    assert not mesh.home.state.permits.keys


def test_who_is_asked_is_asked_again_while_the_answer_is_missing() -> None:
    mesh, late = ended("queue")
    mesh.bring(late)
    mesh.outside.clear()
    mesh.bring(late)
    assert kinds(mesh.home.new) == []
    mesh.outside.clear()

    mesh.home.send(ServeKeys(again=True, full=True))
    mesh.collect(mesh.home)
    mesh.bring_all()
    assert not mesh.home.state.permits.doubted


@pytest.mark.parametrize("lost", ["ask", "grant"])
@pytest.mark.parametrize("of_step", [False, True])
def test_what_a_broker_lost_with_its_disk_is_said_again(lost: str, of_step: bool) -> None:
    mesh = Mesh()
    if of_step:
        api = next(name for name in map(str, range(100)) if partition_of(f"default//step/{name}", 3) == HOME)
        mesh.plan = flow([step("a", concurrencyKey=api)], ref("a"))
    run = mesh.come(1)
    if lost == "grant":
        mesh.bring(mesh.ask())
    mesh.outside.clear()
    mesh.runs[run].tasks.clear()

    for engine in mesh.engines:
        engine.send(AskAgain())
        mesh.collect(engine)
    mesh.bring_all()

    assert [task.run for task in mesh.runs[run].tasks] == [run]
    mesh.end(run)
    mesh.bring_all()
    assert not mesh.home.state.permits.keys


def test_an_attempt_of_a_step_is_asked_likewise() -> None:
    api = next(name for name in map(str, range(100)) if partition_of(f"default//step/{name}", 3) == HOME)
    mesh = Mesh()
    mesh.plan = flow([step("a", concurrencyKey=api)], ref("a"))
    first = mesh.come(1)
    late = mesh.ask()
    second = mesh.come(1)
    mesh.bring_all()
    mesh.end(second)
    mesh.bring_all()
    mesh.bring(late)
    assert [type(letter) for _, letter in mesh.outside] == [PermitCheck]
    check = mesh.outside[0]
    mesh.bring_all()
    assert mesh.runs[first].dispatched() == ["a"]
    mesh.bring(check)
    assert mesh.outside == [], "it was let through"

    mesh.end(first)
    mesh.bring_all()
    mesh.bring(check)
    assert isinstance(mesh.outside[0][1], PermitReturn)
    mesh.bring_all()
    assert not mesh.home.state.permits.keys


@pytest.mark.parametrize("crash", [False, True])
def test_a_late_return_takes_nothing_from_an_attempt_that_asked_again_behind_it(crash: bool) -> None:
    """Its partition forgot in a crash that it had asked, gave back what it was granted, and asked when it had a slot."""
    api = next(name for name in map(str, range(100)) if partition_of(f"default//step/{name}", 3) == HOME)
    mesh = Mesh()
    mesh.plan = flow([step("a", concurrencyKey=api)], ref("a"))
    first = mesh.come(1)
    mesh.bring_all()
    second = mesh.come(2)
    (_, asked) = mesh.ask()
    assert isinstance(asked, PermitAsk)
    mesh.bring((HOME, asked))
    given_back = PermitReturn(asked.key, asked.run, Partition(2), asked.position + 1)
    again = msgspec.structs.replace(asked, position=asked.position + 2)
    mesh.bring((HOME, again))
    mesh.bring((HOME, again))
    assert kinds(mesh.home.new) == [], "a copy"
    if crash:
        mesh.restart(HOME)
    state = decode_state(encode_state(mesh.home.state), mesh.home.shelf)
    assert state_hash(state) == state_hash(mesh.home.state)
    mesh.bring((HOME, given_back))
    mesh.bring_all()

    mesh.end(first)
    mesh.bring_all()
    assert mesh.runs[second].dispatched() == ["a"]
    mesh.end(second)
    mesh.bring_all()
    assert not mesh.home.state.permits.keys
    assert not mesh.home.state.permits.asked


def test_a_home_whose_memory_is_ahead_of_a_partition_believes_its_second_word() -> None:
    """The partition's journal was restored from a copy."""
    mesh = Mesh()
    run = mesh.come(1)
    mesh.home.send(TakeLetter(PermitReturn("k", RunId("gone"), Partition(1), 10**15)))
    mesh.bring_all()

    assert mesh.goes(run)


def test_a_snapshot_knows_whom_it_doubts() -> None:
    mesh, late = ended("queue")
    mesh.bring(late)
    state = decode_state(encode_state(mesh.home.state), mesh.home.shelf)

    assert state_hash(state) == state_hash(mesh.home.state)
    assert state.permits.passed.keys() == {1}
    assert state.permits.doubted == {late[1].key: {late[1].run: 1}}


def test_letters_and_events_of_earlier_releases_are_read() -> None:
    asked = msgspec.msgpack.decode(msgspec.msgpack.encode(["permit_ask", "k", "r", 1, [1, "queue", 0, 0, 0, 0]]), type=PermitAsk)
    gone = msgspec.msgpack.decode(msgspec.msgpack.encode(["permit_return", "k", "r"]), type=PermitReturn)
    moved = msgspec.msgpack.decode(msgspec.msgpack.encode([38, "k", "r", "gone"]), type=PermitMoved)
    assert (asked.position, gone.position, moved.position) == (0, 0, 0)
    mesh = Mesh()
    mesh.home.send(TakeLetter(PermitReturn("other", RunId("q"), Partition(1), 99)))

    mesh.bring((HOME, asked))
    assert mesh.outside == [(1, PermitGrant("k", RunId("r")))], "one that says no position is believed"
    mesh.bring((HOME, gone))
    assert not mesh.home.state.permits.keys


STEPS = st.tuples(st.sampled_from(("come", "bring", "bring", "bring", "copy", "end", "cancel", "restart", "time")), st.integers(0, 1_000))


@given(st.sampled_from(list(GATES)), st.lists(STEPS, max_size=80))
@settings(deadline=None, max_examples=150)
def test_no_copy_does_anything_and_nothing_is_left_of_anybody(gate: str, history: list[tuple[str, int]]) -> None:
    mesh = Mesh(gate)
    brought: list[Sent] = []
    for what, number in history:
        going = [run for run in mesh.runs if mesh.goes(run)]
        if what == "come":
            mesh.come(OTHERS[number % 2], customer=number // 2 % 2)
        elif what == "bring" and mesh.outside:
            brought.append(mesh.outside.pop(number % len(mesh.outside)))
            mesh.bring(brought[-1])
        elif what == "copy" and brought:
            again = brought[number % len(brought)]
            mesh.bring(again)
            if again[0] == HOME:
                assert not any(isinstance(event, PermitAsked) or _lets_through(event) for event in mesh.home.new), again
        elif what == "end" and going:
            mesh.end(going[number % len(going)])
        elif what == "cancel" and (live := [run for run in mesh.runs if mesh.is_live(run)]):
            mesh.cancel(live[number % len(live)])
        elif what == "restart":
            mesh.restart(number % 3)
        elif what == "time":
            mesh.pass_time(number * 1_000)
        for customer in (0, 1):
            _check_limit(mesh, customer)
    mesh.end_all()
    assert not any(mesh.is_live(run) for run in mesh.runs)
    for _ in range(2):
        mesh.pass_time()
        mesh.bring_all()
    assert all(found.is_idle() for found in mesh.home.state.permits.keys.values())
    assert not mesh.home.state.permits.asked
    assert not mesh.home.state.permits.doubted


def _lets_through(event: object) -> bool:
    return isinstance(event, PermitMoved) and event.to in ("holds", "revoked")


def _check_limit(mesh: Mesh, customer: int) -> None:
    key = f"default/test/{mesh.kind}/{CUSTOMERS[mesh.kind][customer]}"
    going = [run for run in mesh.runs if mesh.goes(run) and (gates := mesh.runs[run].live(run).gates) is not None and gates[0].key == key]
    assert mesh.kind != "concurrency" or len(going) <= 1, going
