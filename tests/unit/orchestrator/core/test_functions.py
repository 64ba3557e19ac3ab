"""Durable functions in the core: turns, what they set going, what brings an idle one back, and what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.unit.orchestrator.core.engine import NOW, Engine, flow, js, kinds, ref, step

from stepmesh_broker.protocol.functions import FunctionTurn, FunctionTurned
from stepmesh_broker.protocol.histories import Began, CancelAsked, Issued, Kind, Record, Settled, Tried, decode_records, encode_records
from stepmesh_broker.protocol.messages import ErrorCode, Failure, Task, TaskRef
from stepmesh_orchestrator.core.commands import AdvanceFunction, CancelRun, FireTimer, PauseRun, RestTree, ResumeRun, WakeTree
from stepmesh_orchestrator.core.decide import functions
from stepmesh_orchestrator.core.decide.parking import BLOCKED_MS
from stepmesh_orchestrator.core.decide.waits import RENEWED_MS
from stepmesh_orchestrator.core.dormant import frame_of
from stepmesh_orchestrator.core.effects import Answered, NudgeTask, Send, SetTimer
from stepmesh_orchestrator.core.events import StepDispatched, StepSucceeded, TreeDormant
from stepmesh_orchestrator.core.explain import explain
from stepmesh_orchestrator.core.flow.limits import PAYLOAD_DEPTH
from stepmesh_orchestrator.core.function_events import FunctionContinued, FunctionIdle, HistoryGrew
from stepmesh_orchestrator.core.functions import MAX_CARRIED_BYTES, SHORT_BYTES, SHORT_RECORDS, Function, call_document

BEGAN = Began(NOW, "1+abc")
DAY_MS = 24 * 3_600_000


class Body(Engine):
    """An engine with one run of one function, and its worker's side of turns."""

    def __init__(self, **more: Any) -> None:
        super().__init__()
        self.submit(flow([step("f", "/py/saga", **more)], ref("f")), 1)
        self.driver = 1
        self.number = 0
        self.base = 0

    def turn(self, *records: Record, idle: bool = False, number: int | None = None, base: int | None = None, **more: Any) -> FunctionTurned:
        """The next turn of the activation in flight; the worker hears the answer."""
        self.number = self.number + 1 if number is None else number
        reference = more.pop("task", None) or self.task_ref("f")
        since = self.base if base is None else base
        said = FunctionTurn(reference, self.driver, self.number, since, list(records), idle=idle, **more)
        self.send(AdvanceFunction(said))
        (answered,) = [effect for effect in self.new_effects if isinstance(effect, Answered)]
        answer = answered.answer
        assert isinstance(answer, FunctionTurned)
        self.base += len(records) if answer.records is None else len(answer.records)
        return answer

    def again(self) -> Task:
        """The function was handed to its pool once more: the worker has its history."""
        task = self.tasks[-1]
        self.driver, self.number, self.base = self.driver + 1, 0, task.records
        return task

    def history(self) -> list[Record]:
        """As the journal has it."""
        return [record for _, event in self.journal if isinstance(event, HistoryGrew) for record in event.records]

    def ring(self, ms: int) -> None:
        """So much later, a timer of the function rings."""
        self.session.now += ms
        self.send(FireTimer(TaskRef(self.run, 0, 0, 0)))


def issued(id: str, kind: Kind = Kind.STEP, value: Any = None, name: str = "", options: bytes = b"") -> Issued:
    return Issued(id, kind, name or id.rpartition("/")[2], "", js(value), "orders.py:7", NOW, options)


def sleeping(ms: int, id: str = "r/sleep") -> Issued:
    return issued(id, Kind.TIMER, {"due_ms": NOW + ms})


def test_what_a_worker_says_is_appended_once_and_in_its_order() -> None:
    body = Body()
    answer = body.turn(BEGAN, issued("r/a"), Settled("r/a", 5, b"1"))
    assert (answer.gone, answer.records, answer.left, answer.at_ms) == (False, None, False, NOW)
    assert body.history() == [BEGAN, issued("r/a"), Settled("r/a", NOW, b"1")]

    again = body.turn(BEGAN, issued("r/a"), Settled("r/a", 5, b"1"), number=1, base=0)
    assert again.records == body.history(), "the answer was lost, not the turn"
    assert len(body.history()) == 3


def test_a_turn_that_comes_late_is_known_and_another_driver_takes_over() -> None:
    body = Body()
    body.turn(BEGAN, issued("r/a"))
    body.turn(issued("r/b"))
    body.turn(BEGAN, issued("r/a"), number=1, base=0)
    assert len(body.history()) == 3, "a copy that was slow on its way"
    body.driver += 1
    body.turn(issued("r/b"), issued("r/c"), number=1, base=3)
    assert body.history()[3:] == [issued("r/c")], "what is open is not asked for twice"


def test_a_turn_of_another_attempt_changes_nothing() -> None:
    body = Body()
    reference = body.task_ref("f")
    old = TaskRef(reference.run, 0, 0, reference.attempt + 1)
    answer = body.turn(BEGAN, task=old)
    assert (answer.gone, answer.why, answer.activation, answer.known) == (True, "activation 1 has taken its place", 1, 0)
    assert body.turn(BEGAN, task=TaskRef(reference.run, 7, 0, 1)).gone
    assert not body.history()


def test_a_turn_that_is_not_taken_is_told_where_the_function_stands() -> None:
    body = Body()
    first = body.task_ref("f")
    body.turn(BEGAN, sleeping(10), idle=True)
    answer = body.turn(task=first)
    assert (answer.why, answer.activation, answer.known) == ("activation 2 has taken its place", 2, 2)
    answer = body.turn(task=TaskRef(first.run, 0, 0, 2))
    assert (answer.why, answer.activation) == ("the step is over, or with no worker", 2)
    body.ring(10)
    body.again()
    body.succeed("f", 1)
    assert body.turn(task=first).why == "the run, or its item, is over or rests"


def test_only_what_a_worker_may_bring_is_taken() -> None:
    body = Body()
    answer = body.turn(BEGAN, sleeping(5_000), issued("r/a"))
    assert answer.records is None
    late = body.turn(BEGAN, Settled("r/sleep", 0), Settled("r/unknown", 0), CancelAsked(0), Settled("r/a", 0, b"not json"))
    assert late.records is not None, "not its own words"
    (settled,) = late.records
    assert isinstance(settled, Settled)
    assert settled.failure is not None
    assert settled.failure.code == ErrorCode.WORKER_ERROR


@pytest.mark.parametrize(("deep", "is_value"), [(PAYLOAD_DEPTH, True), (PAYLOAD_DEPTH + 1, False)])
def test_a_worker_hears_of_a_value_that_was_not_taken(deep: int, is_value: bool) -> None:
    body = Body()
    answer = body.turn(BEGAN, issued("r/a"), Settled("r/a", 0, b"[" * deep + b"]" * deep))
    assert (answer.records is None) == is_value, "a body that lives gets what a replay gets"


def test_an_idle_function_holds_no_slot_and_its_timer_brings_it_back() -> None:
    body = Body()
    assert body.live().tree.in_flight == 1
    assert body.turn(BEGAN, sleeping(5_000), idle=True).left
    assert kinds(body.new) == ["HistoryGrew", "FunctionIdle"]
    assert body.live().tree.in_flight == 0
    assert SetTimer(NOW + 5_000, TaskRef(body.run, 0, 0, 0)) in body.effects

    body.ring(4_999)
    assert not body.new
    body.ring(1)
    assert kinds(body.new) == ["HistoryGrew", "StepDispatched"]
    task = body.again()
    assert (task.attempt, task.records) == (2, 3)
    assert (task.driver, task.seen, decode_records(task.history)) == (1, 2, body.history()), "any worker goes on with so little"
    assert not task.news


def test_news_while_the_worker_turns_keep_it_from_going_idle() -> None:
    body = Body()
    body.turn(BEGAN, sleeping(10), issued("r/a"))
    body.ring(10)
    assert any(isinstance(effect, NudgeTask) for effect in body.new_effects)
    answer = body.turn(idle=True)
    assert not answer.left
    assert answer.records == [Settled("r/sleep", NOW + 10)]
    assert body.turn(idle=True).left


def test_results_that_the_worker_has_not_seen_keep_it_from_going_idle() -> None:
    body = Body()
    answer = body.turn(BEGAN, issued("r/a"), Settled("r/a", 0, b"1"), idle=True)
    assert not answer.left


def test_timers_that_are_due_together_settle_in_the_order_of_their_times() -> None:
    body = Body()
    body.turn(BEGAN, sleeping(20, "r/late"), sleeping(10, "r/early"), idle=True)
    body.ring(50)
    assert [record.id for record in body.history() if isinstance(record, Settled)] == ["r/early", "r/late"]


@pytest.mark.parametrize("arguments", [b"[]", b'{"due_ms":"soon"}', b"{}"])
def test_a_timer_that_cannot_be_read_is_due_at_once(arguments: bytes) -> None:
    body = Body()
    body.turn(BEGAN, msgspec.structs.replace(sleeping(0), arguments=arguments), idle=True)
    body.ring(0)
    assert isinstance(body.history()[-1], Settled)


def test_the_function_ends_with_its_result() -> None:
    body = Body()
    body.turn(BEGAN, issued("r/a"), Settled("r/a", 0, b"1"))
    body.succeed("f", {"done": True})
    assert body.result() == {"outcome": "success", "result": {"done": True}}


def test_a_call_is_a_sub_run_of_one_step() -> None:
    body = Body()
    call = issued("r/call", Kind.CALL, {"n": 1}, "/gpu/render")
    body.shelf.put(msgspec.json.decode(call_document(call)))
    body.turn(BEGAN, call, idle=True)
    task = body.tasks[-1]
    assert (task.component, task.input, task.root) == ("/render", b'{"n":1}', body.run)
    body.succeed("call", 7, run=task.run)
    assert Settled("r/call", NOW, b"7") in body.history()
    assert body.again().attempt == 2


def test_a_call_keeps_its_retries_and_its_time_limit() -> None:
    options = js({"retry": {"max": 3, "initial_ms": 100, "max_ms": 50}, "timeout_ms": 1500})
    document = msgspec.json.decode(call_document(issued("r/c", Kind.CALL, name="/gpu/x", options=options)))
    (made,) = document["steps"]
    assert made["timeout"] == "1500ms"
    assert made["onError"] == {"action": "retry", "maxRetries": 2, "backoff": {"initial": "100ms", "max": "100ms"}}


def test_a_child_whose_flow_does_not_exist_fails_by_itself() -> None:
    body = Body()
    body.turn(BEGAN, issued("r/child", Kind.CHILD, 1, "flow://none"), idle=True)
    body.resolve(failure=Failure(ErrorCode.INVALID_INPUT, "no such flow"))
    (settled,) = [record for record in body.history() if isinstance(record, Settled)]
    assert settled.failure is not None
    assert settled.failure.message == "no such flow"


def test_what_another_worker_gives_up_once_more_is_not_written_once_more() -> None:
    body = Body()
    body.turn(BEGAN, sleeping(5_000), sleeping(9_000, "r/nap"))
    for told, written in (["r/sleep"], ["r/sleep"]), (["r/sleep", "r/nap"], ["r/nap"]), (["r/sleep", "r/nap"], []):
        body.driver += 1
        body.turn(abandoned=told, number=1)
        (grew,) = [event for event in body.new if isinstance(event, HistoryGrew)]
        assert grew.abandoned == written
    body.turn(sleeping(7_000, "r/rest"), abandoned=["r/sleep", "r/nap", "r/rest"], number=2)
    (grew,) = [event for event in body.new if isinstance(event, HistoryGrew)]
    assert grew.abandoned == ["r/rest"]
    assert not body.item().function(0).open  # type: ignore[union-attr]


def test_what_the_body_waits_for_no_more_is_stopped() -> None:
    body = Body()
    call = issued("r/call", Kind.CALL, 1, "/gpu/render")
    body.shelf.put(msgspec.json.decode(call_document(call)))
    body.turn(BEGAN, call, issued("r/a"))
    child = body.tasks[-1].run
    body.turn(abandoned=["r/call"])
    assert "RunCancelled" in kinds(body.new)
    assert child not in body.state.runs
    assert not [record for record in body.history() if isinstance(record, Settled)]


def test_sub_runs_end_with_the_function() -> None:
    body = Body()
    call = issued("r/call", Kind.CALL, 1, "/gpu/render")
    body.shelf.put(msgspec.json.decode(call_document(call)))
    body.turn(BEGAN, call, issued("r/a"))
    body.succeed("f", 1)
    assert not body.state.runs


def test_a_failed_attempt_of_a_local_step_is_on_record_and_brings_the_function_back() -> None:
    body = Body()
    failure = Failure(ErrorCode.COMPONENT_FAILED, "no")
    body.turn(BEGAN, issued("r/a"), Tried("r/a", 100, 1, failure, 60_100))
    assert body.history()[-1] == Tried("r/a", NOW, 1, failure, NOW + 60_000), "by the orchestrator's clock"
    assert body.turn(idle=True).left
    body.ring(59_999)
    assert not body.new
    body.ring(1)
    assert kinds(body.new) == ["StepDispatched"]


def test_a_local_step_whose_next_attempt_came_due_while_its_task_waited_is_done_by_whoever_lets_go() -> None:
    body = Body()
    failure = Failure(ErrorCode.COMPONENT_FAILED, "boom")
    body.turn(BEGAN, issued("r/a"), Tried("r/a", 100, 1, failure, 60_100))
    body.ring(60_000)
    answer = body.turn(idle=True)
    assert not answer.left, "the timer has rung: nothing would bring it back"
    assert answer.at_ms == NOW + 60_000, "by which the worker sees that it is due"


def test_a_lost_worker_costs_the_attempt_and_nothing_else() -> None:
    body = Body()
    body.turn(BEGAN, issued("r/a"))
    body.give_up("f")
    body.fire()
    task = body.again()
    assert (task.attempt, decode_records(task.history)) == (2, [BEGAN, issued("r/a")])
    body.turn(Settled("r/a", 0, b"1"))
    assert body.item().wait(0).transport_used == 0, "a worker that got somewhere was not in vain"


def test_a_worker_that_leaves_hands_the_function_to_another_one_at_once_and_at_no_cost() -> None:
    body = Body()
    assert body.turn(BEGAN, issued("r/a"), Settled("r/a", 0, b"1"), issued("r/b"), leaving=True).left
    assert kinds(body.new) == ["HistoryGrew", "FunctionIdle", "StepDispatched"]
    task = body.again()
    assert (task.attempt, task.records, task.seen, len(decode_records(task.history))) == (2, 4, 0, 4)
    assert not task.claim_first
    assert body.live().tree.in_flight == 1


def test_a_function_that_was_handed_back_goes_on_after_a_crash_before_it_had_a_place() -> None:
    body = Body()
    body.turn(BEGAN, issued("r/a"))
    body.session.emit(FunctionIdle(body.run, 0, 0, leaving=True))
    body.take()
    body.restart()
    assert kinds(body.new) == ["StepDispatched"]


def test_a_function_that_fails_begins_anew_when_its_step_may_be_tried_again() -> None:
    body = Body(onError={"action": "retry", "maxRetries": 1})
    body.turn(BEGAN, sleeping(60_000))
    body.fail("f")
    assert "StepRetrying" in kinds(body.new)
    body.fire()
    assert body.again().records == 0
    body.ring(60_000)
    assert not body.new, "what the first one waited for is nobody's"


def test_code_that_cannot_go_on_blocks_the_run_and_is_tried_again() -> None:
    body = Body()
    body.turn(BEGAN, issued("r/a"), idle=True, blocked="SM-1001 …")
    assert isinstance(body.new[-1], FunctionIdle)
    assert "is blocked, and tried again in 10 s: SM-1001 …" in explain(body.state, body.live(), body.session.now)[0].text
    first, most = BLOCKED_MS
    body.ring(first - 1)
    assert not body.new
    body.ring(1)
    assert kinds(body.new) == ["StepDispatched"]
    waits = []
    for _ in range(10):
        body.again()
        body.turn(idle=True, blocked="still")
        idle = body.new[-1]
        assert isinstance(idle, FunctionIdle)
        waits.append(idle.due_ms - body.session.now)
        body.ring(waits[-1])
    assert waits == [min(most, first << n) for n in range(1, 11)], "what blocks it gives no sign of life"


def test_a_workflow_that_no_worker_offers_any_more_is_blocked_not_failed() -> None:
    body = Body()
    body.turn(BEGAN, sleeping(10), idle=True)
    body.ring(10)
    body.fail("f", ErrorCode.COMPONENT_NOT_FOUND, "no component /saga")
    assert kinds(body.new) == ["FunctionIdle"]


def test_a_body_may_begin_anew_with_another_input() -> None:
    body = Body()
    body.turn(BEGAN, sleeping(60_000), continued=b"2")
    assert kinds(body.new) == ["HistoryGrew", "FunctionContinued", "StepDispatched"]
    task = body.again()
    assert (task.input, task.records, task.attempt) == (b"2", 0, 2)
    body.ring(60_000)
    assert not body.new
    body.restart()
    assert body.item().functions is not None
    assert body.item().functions[0].input == b"2"


def test_a_cancelled_run_waits_for_its_function_and_then_is_cancelled_whatever_it_says() -> None:
    body = Body()
    body.turn(BEGAN, sleeping(60_000), idle=True)
    body.send(CancelRun(body.run, "enough"))
    assert kinds(body.new) == ["RunCancelling", "HistoryGrew", "StepDispatched"]
    body.send(CancelRun(body.run, "once more"))
    assert not body.new
    body.again()
    body.succeed("f", "too late")
    assert "RunCancelled" in kinds(body.new)
    assert body.result()["error"]["message"] == "enough"


@pytest.mark.parametrize("how", ["forced", "blocked"])
def test_by_force_or_where_nothing_can_clean_up_it_is_cancelled_at_once(how: str) -> None:
    body = Body()
    body.turn(BEGAN, sleeping(60_000), idle=True, blocked="" if how == "forced" else "SM-1001")
    body.send(CancelRun(body.run, "enough", force=how == "forced"))
    assert "RunCancelled" in kinds(body.new)


@pytest.mark.parametrize(("more", "carried"), [(0, True), (1, False)])
@pytest.mark.parametrize("driver", [0, 7])
def test_what_came_since_a_worker_let_go_travels_with_the_task_up_to_a_limit(driver: int, more: int, carried: bool) -> None:
    """All of it, while no worker has it."""
    task = Body().tasks[0]
    seen: list[Record] = [BEGAN, sleeping(10)] if driver else []
    over = MAX_CARRIED_BYTES - len(encode_records([Settled("r/sleep", NOW, b"x" * MAX_CARRIED_BYTES)]))
    news: list[Record] = [Settled("r/sleep", NOW, b"x" * (MAX_CARRIED_BYTES + over + more))]
    told = Function(records=seen + news, driver=driver, seen=len(seen)).carried_by(task)
    assert (told.records, told.driver, told.seen) == (len(seen + news), driver, len(seen))
    expected = encode_records(news) if carried else b""
    assert (told.history, told.news) == ((b"", expected) if driver else (expected, b""))


@pytest.mark.parametrize(
    ("records", "more", "whole"),
    [(3, 0, True), (3, 1, False), (SHORT_RECORDS, -SHORT_BYTES, True), (SHORT_RECORDS + 1, -SHORT_BYTES, False)],
)
def test_a_short_history_travels_whole_and_of_a_long_one_what_is_new(records: int, more: int, whole: bool) -> None:
    task = Body().tasks[-1]
    few: list[Record] = [BEGAN, *(sleeping(10) for _ in range(records - 2))]
    last = Settled("r/sleep", NOW, b"x" * 256)
    room = SHORT_BYTES - len(encode_records([*few, last])) + more
    last = Settled("r/sleep", NOW, b"x" * (256 + max(0, room)))
    told = Function(records=[*few, last], driver=1, seen=len(few)).carried_by(task)
    expected = (encode_records([*few, last]), b"") if whole else (b"", encode_records([last]))
    assert (told.history, told.news) == expected


def test_what_does_not_fit_an_answer_comes_in_pages() -> None:
    body = Body()
    half = js("x" * (functions.PAGE_BYTES // 2))
    body.turn(BEGAN, issued("r/a"), Settled("r/a", 0, half), issued("r/b"), Settled("r/b", 0, half), issued("r/c"))
    first = body.turn(number=0, base=0)
    assert first.records is not None
    assert first.more
    rest = body.turn(number=0, base=len(first.records))
    assert rest.records is not None
    assert not rest.more
    assert [*first.records, *rest.records] == body.history()


def test_nothing_of_a_function_is_lost_in_a_crash() -> None:
    body = Body()
    body.turn(BEGAN, issued("r/a"), Settled("r/a", 0, b"1"), sleeping(5_000))
    assert body.turn(idle=True).left
    body.restart()
    assert SetTimer(NOW + 5_000, TaskRef(body.run, 0, 0, 0)) in body.new_effects
    assert not body.dispatched()
    body.session.now += 5_000
    body.send(FireTimer(TaskRef(body.run, 0, 0, 0)))
    assert [type(event) for event in body.new] == [HistoryGrew, StepDispatched]


def test_news_of_an_idle_function_survive_a_crash_before_it_was_handed_out() -> None:
    body = Body()
    body.turn(BEGAN, sleeping(5_000), idle=True)
    body.ring(5_000)
    body.journal, body.positions = body.journal[:-1], body.positions[:-1]  # the dispatch was not journaled
    body.restart()
    assert kinds(body.new) == ["StepDispatched"]


@pytest.mark.parametrize(
    ("waits_for", "back_ms"),
    [
        ([sleeping(30 * DAY_MS)], 30 * DAY_MS),
        ([sleeping(30 * DAY_MS), issued("r/paid", Kind.EVENT, {"key": "7"})], RENEWED_MS),
        ([sleeping(RENEWED_MS - 1), issued("r/paid", Kind.EVENT, {"key": "7"})], RENEWED_MS - 1),
        ([issued("r/paid", Kind.EVENT, {"key": "7"})], RENEWED_MS),
    ],
    ids=["timer", "both", "timer first", "event"],
)
def test_who_waits_for_an_event_is_back_to_ask_again_however_far_its_timer_is(waits_for: list[Issued], back_ms: int) -> None:
    body = Body()
    body.turn(BEGAN, *waits_for, idle=True)
    (left,) = body.send(RestTree(body.run, body.state.sequence))
    assert isinstance(left, TreeDormant)
    assert left.wakes_ms == NOW + back_ms
    body.send(WakeTree(body.run, frame_of(body.state.dormant.places[body.run]), left.image, body.shelf))
    asked = [effect.letter.name for effect in body.new_effects if isinstance(effect, Send)]
    assert asked == ["paid"] * (len(waits_for) - 1 or waits_for[0].kind is Kind.EVENT)


def test_a_paused_function_stays_where_it_is_and_goes_on_afterwards() -> None:
    body = Body()
    body.turn(BEGAN, sleeping(5_000), idle=True)
    body.send(PauseRun(body.run, "look"))
    body.ring(5_000)
    assert not body.new
    body.send(ResumeRun(body.run))
    body.ring(0)
    assert kinds(body.new) == ["HistoryGrew", "StepDispatched"]


def test_continuing_and_ending_are_told_apart() -> None:
    body = Body()
    body.turn(BEGAN, continued=b"2")
    body.again()
    body.succeed("f", 2)
    assert [type(event) for _, event in body.journal if isinstance(event, FunctionContinued | StepSucceeded)] == [
        FunctionContinued,
        StepSucceeded,
    ]


def test_a_function_below_two_runs_that_are_cancelled_is_told_once() -> None:
    body = Body()
    call = issued("r/call", Kind.CALL, 1, "/py/inner")
    body.shelf.put(msgspec.json.decode(call_document(call)))
    body.turn(BEGAN, call)
    inner = body.tasks[-1]
    said = [BEGAN, issued("r/a")]
    body.send(AdvanceFunction(FunctionTurn(TaskRef(inner.run, 0, 0, 1), 9, 1, 0, said)))
    body.cancel(inner.run, "first")
    body.cancel(reason="second")
    asked = [(event.run, event.records) for _, event in body.journal if isinstance(event, HistoryGrew)]
    told = [(run, record.reason) for run, records in asked for record in records if isinstance(record, CancelAsked)]
    assert told == [(inner.run, "first"), (body.run, "second")]


def test_the_flow_of_a_child_comes_before_its_run_may_rest() -> None:
    body = Body()
    body.turn(BEGAN, issued("r/child", Kind.CHILD, 1, "flow://late"), idle=True)
    assert not body.send(RestTree(body.run, body.state.sequence)), "nobody would bring it back before three days are over"
    body.resolve(failure=Failure(ErrorCode.INVALID_INPUT, "no such flow"))
    assert isinstance(body.history()[-1], Settled)


def test_what_is_given_up_in_the_turn_that_asks_for_it_is_set_going_nowhere() -> None:
    body = Body()
    asked = [issued("r/paid", Kind.EVENT, {"key": "7"}), sleeping(5_000), issued("r/child", Kind.CHILD, 1, "flow://late")]
    body.turn(BEGAN, *asked, issued("r/a"), abandoned=[one.id for one in asked])
    assert [type(effect) for effect in body.new_effects] == [Answered]


def test_a_run_that_waits_for_a_workflow_below_ends_when_that_is_ended_by_force() -> None:
    body = Body()
    call = issued("r/call", Kind.CALL, 1, "/py/inner")
    body.shelf.put(msgspec.json.decode(call_document(call)))
    body.turn(BEGAN, call)
    inner = body.tasks[-1]
    body.send(AdvanceFunction(FunctionTurn(TaskRef(inner.run, 0, 0, 1), 9, 1, 0, [BEGAN, issued("r/a")])))
    body.cancel()
    body.fail("f", ErrorCode.CANCELLED, "enough")
    assert body.live().id == body.run, "its workflow below cleans up"
    body.send(CancelRun(inner.run, "now", force=True))
    assert not body.state.runs
    assert body.state.finished[body.run][1] == "cancelled"
