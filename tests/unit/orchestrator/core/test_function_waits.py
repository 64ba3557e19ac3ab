"""Events for durable functions: at which addresses they wait, and that a wait which is over stands nowhere."""

from __future__ import annotations

import pytest
from tests.unit.orchestrator.core.engine import ROOT, kinds
from tests.unit.orchestrator.core.test_functions import BEGAN, Body, issued, sleeping
from tests.unit.orchestrator.core.test_waits import letters, post, send

from stepmesh_broker.protocol.histories import Kind, Settled, decode_records
from stepmesh_broker.protocol.letters import Subscribe, Unsubscribe, Waiter
from stepmesh_broker.protocol.messages import Refused, TaskRef
from stepmesh_orchestrator.core.commands import FireTimer, SettleWait, TakeLetter
from stepmesh_orchestrator.core.decide.hearing import ASKED_AT_ONCE, LONGEST_MS, MOST_ROUNDS
from stepmesh_orchestrator.core.decide.waits import RENEWED_MS
from stepmesh_orchestrator.core.effects import Answered, NudgeTask, SetTimer
from stepmesh_orchestrator.core.session import EngineSettings

WAITER = Waiter(ROOT, 0, 0, 0, "r/paid")


def body(**arguments: str) -> Body:
    """It waits for `paid`, and idles."""
    made = Body()
    made.turn(BEGAN, issued("r/paid", Kind.EVENT, arguments))
    post(made)
    made.turn(idle=True)
    return made


def standing(made: Body) -> int:
    """Waits at all addresses."""
    return sum(len(address.waiters) for address in made.state.addresses.places.values())


@pytest.mark.parametrize("key", ["", ROOT])
def test_a_wait_without_a_key_hears_whoever_names_the_event_alone_or_the_run(key: str) -> None:
    made = body()
    assert standing(made) == 2
    assert send(made, key=key, data=7).matched == 1
    post(made)
    assert Settled("r/paid", made.session.now, b"7") in made.history()
    assert standing(made) == 0
    assert decode_records(made.again().history)[-1] == Settled("r/paid", made.session.now, b"7"), "and it is handed out with it"


def test_what_was_sent_to_the_run_before_it_waited_counts() -> None:
    made = Body()
    send(made, key=ROOT, data=7)
    made.turn(BEGAN, issued("r/paid", Kind.EVENT, {}))
    post(made)
    assert Settled("r/paid", made.session.now, b"7") in made.history()
    assert standing(made) == 0


def test_of_two_events_at_once_a_wait_takes_one_and_the_next_wait_the_other() -> None:
    made = Body()
    send(made, key=ROOT, id="e1", data=1)
    send(made, key="", id="e2", data=2)
    made.turn(BEGAN, issued("r/paid", Kind.EVENT, {}))
    post(made)
    made.turn(issued("r/paid.2", Kind.EVENT, {}, "paid"), base=3)
    post(made)
    taken = [record.value for record in made.history() if isinstance(record, Settled)]
    assert sorted(taken) == [b"1", b"2"]
    assert standing(made) == 0


def test_a_wait_for_a_key_hears_that_key_alone() -> None:
    made = body(key="order-7")
    assert standing(made) == 1
    assert [send(made, key=key, id=key or "none").matched for key in ("", ROOT, "order-7")] == [0, 0, 1]


def test_who_waits_no_more_leaves_every_address() -> None:
    made = Body()
    made.turn(BEGAN, issued("r/paid", Kind.EVENT, {}))
    assert [letter.key for letter in letters(made) if isinstance(letter, Subscribe)] == ["", ROOT]
    made.turn(abandoned=["r/paid"])
    assert [(letter.key, letter.waiter) for letter in letters(made) if isinstance(letter, Unsubscribe)] == [("", WAITER), (ROOT, WAITER)]


@pytest.mark.parametrize(("passed_ms", "is_late"), [(4_999, False), (5_000, True)])
def test_who_settles_a_promise_whose_time_is_over_is_told_so(passed_ms: int, is_late: bool) -> None:
    made = Body()
    made.turn(BEGAN, issued("r/paid", Kind.PROMISE, {}, options=b'{"timeout_ms":5000}'), sleeping(5_000, "r/timer"), sleeping(4_000))
    made.turn(idle=True)
    made.ring(passed_ms)
    made.send(SettleWait(WAITER, b"7", False))
    (answered,) = [effect.answer for effect in made.new_effects if isinstance(effect, Answered)]
    assert isinstance(answered, Refused) == is_late
    assert not isinstance(answered, Refused) or (answered.code, "expired" in answered.message) == ("SM-1060", True)
    assert (made.history()[-1] == Settled("r/paid", made.session.now, b"7")) != is_late


@pytest.mark.parametrize("options", [b"", b'{"undoes":"r/charge"}'])
def test_a_wait_that_says_no_time_counts_from_the_beginning_of_its_run(options: bytes) -> None:
    made = Body()
    made.turn(BEGAN, issued("r/paid", Kind.EVENT, {}, options=options))
    asked = [letter.since_ms for letter in letters(made) if isinstance(letter, Subscribe)]
    assert asked == [made.live().created_ms] * 2


def test_a_wait_that_its_token_ended_stands_nowhere() -> None:
    made = body()
    made.send(SettleWait(WAITER, b"7", False))
    assert kinds(made.new)[:2] == ["WaitOver", "WaitOver"]
    post(made)
    assert standing(made) == 0
    assert Settled("r/paid", made.session.now, b"7") in made.history()


def test_however_many_waits_ask_again_for_however_long_one_timer_stands() -> None:
    made = Body()
    made.turn(BEGAN, *(issued(f"r/paid#{n}", Kind.EVENT, {"key": str(n)}, "paid") for n in range(5)), idle=True)
    timers = [effect for effect in made.new_effects if isinstance(effect, SetTimer)]
    for _ in range(4):
        made.session.now = min(timer.due_ms for timer in timers)
        due = [timer for timer in timers if timer.due_ms <= made.session.now]
        timers = [timer for timer in timers if timer.due_ms > made.session.now]
        asked: list[str] = []
        for timer in due:
            made.send(FireTimer(timer.task))
            asked += [letter.key for letter in letters(made) if isinstance(letter, Subscribe)]
            timers += [effect for effect in made.new_effects if isinstance(effect, SetTimer)]
        assert asked == ["0", "1", "2", "3", "4"]
        assert [timer.due_ms - made.session.now for timer in timers] == [RENEWED_MS]


def test_a_timer_that_nobody_waits_for_any_more_asks_for_no_event() -> None:
    made = Body()
    made.turn(BEGAN, sleeping(1_000), issued("r/paid", Kind.EVENT, {"key": "7"}))
    made.turn(abandoned=["r/sleep"], idle=True)
    made.ring(1_000)
    assert not made.new_effects


def test_a_wait_that_begins_late_is_asked_for_again_with_the_others() -> None:
    made = Body()
    made.turn(BEGAN, issued("r/paid", Kind.EVENT, {"key": "1"}))
    made.session.now += RENEWED_MS - 1
    made.turn(issued("r/paid#2", Kind.EVENT, {"key": "2"}, "paid"), idle=True)
    made.ring(1)
    assert [letter.key for letter in letters(made)] == ["1", "2"]


def late(made: Body) -> Body:
    """Its time limit is over, and its event comes before any worker heard of that."""
    made.turn(BEGAN, sleeping(1_000, "r/timer"), issued("r/paid", Kind.EVENT, {"key": "7"}))
    post(made)
    made.turn(idle=True)
    made.ring(1_000)
    send(made, key="7", data=7)
    post(made)
    assert [record.id for record in made.history() if isinstance(record, Settled)] == ["r/timer"]
    return made


@pytest.mark.parametrize("crash", [False, True])
def test_an_event_that_comes_after_its_time_limit_is_for_the_next_wait(crash: bool) -> None:
    made = late(Body())
    if crash:
        made.restart()
        post(made)
    made.again()
    made.turn(issued("r/paid#2", Kind.EVENT, {"key": "7"}, "paid"), abandoned=["r/paid"])
    post(made)
    assert [(one.id, one.value) for one in made.history() if isinstance(one, Settled)][1:] == [("r/paid#2", b"7")]
    assert standing(made) == 0


@pytest.mark.parametrize("crash", [False, True])
def test_an_event_that_comes_after_a_timer_that_ends_no_wait_is_taken(crash: bool) -> None:
    made = late(Body())
    if crash:
        made.restart()
        post(made)
    made.again()
    made.turn(idle=True)
    post(made)
    assert made.history()[-1] == Settled("r/paid", made.session.now, b"7")
    assert standing(made) == 0


@pytest.mark.parametrize(("kept_ms", "longest_ms"), [(7 * LONGEST_MS, LONGEST_MS), (LONGEST_MS, LONGEST_MS // 2)])
def test_an_event_that_waits_for_long_is_taken_before_it_is_forgotten(kept_ms: int, longest_ms: int) -> None:
    made = Body()
    made.session.settings = EngineSettings(keep_events_ms=kept_ms)
    late(made).ring(longest_ms - 1)
    post(made)
    assert not [one for one in made.history() if isinstance(one, Settled) and one.id == "r/paid"]
    assert SetTimer(made.session.now + 1, TaskRef(ROOT, 0, 0, 0)) in made.effects
    made.ring(1)
    post(made)
    assert made.history()[-1] == Settled("r/paid", made.session.now, b"7")


def test_whoever_has_the_function_is_told_that_an_event_waits_for_it_to_hear() -> None:
    made = late(Body())
    asked = next(letter for letter in letters(made, made.effects) if isinstance(letter, Subscribe))
    made.send(TakeLetter(asked))
    (deliver,) = letters(made)
    made.send(TakeLetter(deliver))
    assert NudgeTask(made.task_ref("f")) in made.new_effects


def both(made: Body) -> Body:
    """Two events come for two waits, of which the body needs one."""
    made.turn(BEGAN, *(issued(f"r/{name}", Kind.EVENT, {"key": "7"}) for name in ("paid", "sent")))
    post(made)
    made.turn(idle=True)
    for name in ("paid", "sent"):
        send(made, name, key="7", data=name)
        post(made)
    assert [record.id for record in made.history() if isinstance(record, Settled)] == ["r/paid"]
    return made


@pytest.mark.parametrize("crash", [False, True])
def test_of_two_events_for_a_body_that_needs_one_the_other_is_for_its_next_wait(crash: bool) -> None:
    made = both(Body())
    if crash:
        made.restart()
        post(made)
    made.again()
    made.turn(issued("r/sent#2", Kind.EVENT, {"key": "7"}, "sent"), abandoned=["r/sent"])
    post(made)
    assert [(one.id, one.value) for one in made.history() if isinstance(one, Settled)][1:] == [("r/sent#2", b'"sent"')]
    assert standing(made) == 0


def test_events_that_come_together_for_many_waits_are_all_heard_one_after_the_other() -> None:
    made = Body()
    names = [f"e{n}" for n in range(3 * ASKED_AT_ONCE)]
    made.turn(BEGAN, *(issued(f"r/{name}", Kind.EVENT, {"key": "7"}) for name in names))
    post(made)
    for name in names:
        send(made, name, key="7")
        post(made)
    asked = 0
    for _ in range(2 * len(names)):  # one to be told, one to say that it heard
        made.turn()
        asked += sum(isinstance(letter, Subscribe) for letter in letters(made))
        post(made)
    assert {one.id for one in made.history() if isinstance(one, Settled)} == {f"r/{name}" for name in names}
    assert asked <= ASKED_AT_ONCE * len(names)
    assert standing(made) == 0


def test_a_function_that_never_rests_takes_its_event_all_the_same() -> None:
    made = Body()
    many = 3 * MOST_ROUNDS
    made.turn(BEGAN, *(sleeping(n, f"r/sleep#{n}") for n in range(1, many)), issued("r/paid", Kind.EVENT, {"key": "7"}))
    post(made)
    made.ring(1)
    send(made, key="7", data=7)
    post(made)
    rounds = 0
    while not any(isinstance(one, Settled) and one.id == "r/paid" for one in made.history()):
        made.turn()
        made.turn()  # it heard, and is told of its event while something else comes
        asked = letters(made)
        made.ring(1)
        while asked:
            made.send(TakeLetter(asked.pop(0)))
            asked += letters(made)
        rounds += 1
    assert rounds == MOST_ROUNDS
