"""Places of pools: the order in which who waits is called, and that no flood, priority or loss keeps anybody waiting for ever."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.orchestrator.core.engine import Engine, flow, js, parent_of, ref, step

from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.messages import Accepted, ErrorCode, Failure, Refused, Result, Task
from stepmesh_orchestrator.core.commands import CancelRun, EndTask, FailAttempt
from stepmesh_orchestrator.core.explain import explain
from stepmesh_orchestrator.core.places import POINT_MS, PoolPlaces

ONE = flow([step("a", input={"$input": "$"})], ref("a"))


def run_id(number: int) -> RunId:
    return RunId(f"01900000-0000-7000-8000-{number:012x}")


class Line:
    """An engine with the tasks that are in flight, oldest first, and a ledger of who was sent."""

    def __init__(self, **settings: Any) -> None:
        self.engine = Engine(**settings)
        self.flying: deque[Task] = deque()
        self.runs = 0

    def submit(self, document: Any = ONE, *inputs: Any, **more: Any) -> RunId:
        self.runs += 1
        run = run_id(self.runs)
        self.engine.submit(document, *inputs, run=run, **more)
        self._take()
        return run

    def end(self, task: Task | None = None) -> Task:
        """The oldest task in flight, or this one, has a result."""
        done = self.flying.popleft() if task is None else task
        if task is not None:
            self.flying.remove(task)
        self.engine.send(EndTask(Result(done.run, done.item, done.step, done.attempt, b"1")))
        self._take()
        return done

    def called(self) -> list[RunId]:
        """All that is in flight and waits, in the order in which it is sent, one at a time."""
        order: list[RunId] = []
        while self.flying:
            order.append(self.end().run)
        return order

    def _take(self) -> None:
        self.flying.extend(self.engine.tasks)
        self.engine.tasks.clear()

    @property
    def places(self) -> PoolPlaces:
        assert self.engine.session.places is not None
        return self.engine.session.places.pools["py"]


def test_one_job_under_the_flood_of_another_namespace_waits_two_rounds_at_most() -> None:
    """Must show 7: 100,000 jobs of a tenant, and one of another that comes last. A round is a task of each that waits."""
    line = Line(pool_window=8)
    for _ in range(10):
        line.submit(ONE, *range(10_000), namespace="flood", max_concurrency=0)
    assert (len(line.flying), line.places.waiting) == (8, 100_000 - 8)

    small = line.submit(namespace="small")

    sent: list[RunId] = []
    while small not in sent:
        line.end()
        sent.append(line.flying[-1].run)
    assert len(sent) <= 2 * 2, "two rounds of two namespaces"


def test_namespaces_take_turns() -> None:
    line = Line(pool_window=1)
    submitted = [(namespace, line.submit(namespace=namespace)) for namespace in ("a", "a", "a", "b", "b", "b", "c")]
    names = {run: namespace for namespace, run in submitted}

    assert [names[run] for run in line.called()] == ["a", "a", "b", "c", "a", "b", "b"]


def test_a_weight_is_how_many_places_a_namespace_gets_in_a_round() -> None:
    line = Line(pool_window=1, weights={"b": 3})
    names = {line.submit(namespace=namespace): namespace for namespace in "a" * 5 + "b" * 7}

    assert "".join(names[run] for run in line.called()) == "a" + "abbb" + "abbb" + "ab" + "a"


def test_the_higher_priority_goes_first_and_within_one_the_older() -> None:
    line = Line(pool_window=1)
    runs = {line.submit(priority=priority): (number, priority) for number, priority in enumerate((0, 0, -5, 7, 0, 7))}

    assert [runs[run] for run in line.called()] == [(0, 0), (3, 7), (5, 7), (1, 0), (4, 0), (2, -5)]


def test_the_priority_of_a_step_is_added_to_that_of_its_run() -> None:
    line = Line(pool_window=1)
    urgent = flow([step("a", priority=3)], ref("a"))
    first, low, high = line.submit(), line.submit(ONE, priority=2), line.submit(urgent)

    assert line.called() == [first, high, low]


def test_who_waited_long_goes_before_a_higher_priority_that_came_late() -> None:
    """A point of priority is worth `POINT_MS`: one ms less and one more."""
    for late_ms, wanted in ((POINT_MS * 10 - 1, "high"), (POINT_MS * 10 + 1, "low")):
        line = Line(pool_window=1)
        line.submit()
        low = line.submit()
        line.engine.session.now += late_ms
        high = line.submit(priority=10)

        assert line.called()[1:] == ([high, low] if wanted == "high" else [low, high])


def test_sub_runs_have_the_priority_of_their_run() -> None:
    line = Line(pool_window=1)
    body = {"$literal": ONE}
    line.engine.shelf.put(ONE)
    outer = flow([step("m", "/builtin/map", {"workflow": body, "items": [1]})], ref("m"))
    first, low, high = line.submit(), line.submit(), line.submit(outer, priority=1)

    order = line.called()

    assert (order[0], order[2]) == (first, low)
    assert order[1] not in (first, low, high)


def test_priorities_beyond_the_limit_are_refused() -> None:
    for priority, accepted in ((100, True), (-100, True), (101, False), (-101, False)):
        engine = Engine()
        engine.submit(ONE, priority=priority)
        answer = engine.answer()
        assert isinstance(answer, Accepted) is accepted
        assert accepted or (isinstance(answer, Refused) and answer.code == "SM-5002" and str(priority) in answer.message)


def test_a_full_pool_opens_no_more_items_than_the_run_may_have_in_flight() -> None:
    line = Line(pool_window=1)
    line.submit()
    run = line.submit(ONE, *range(100), max_concurrency=7)

    assert len(line.engine.live(run).items) == 7
    assert line.places.waiting == 7
    assert line.called().count(run) == 100


def test_a_pool_that_is_full_holds_up_no_other() -> None:
    line = Line(pool_window=1)
    line.submit()
    line.submit()
    line.submit(flow([step("a", "/gpu/work")], ref("a")))

    assert [task.component for task in line.flying] == ["/work", "/work"]
    assert line.places.waiting == 1


def test_a_component_that_waits_for_its_sub_run_leaves_its_place_to_it() -> None:
    line = Line(pool_window=1)
    line.submit()
    (parent,) = line.flying
    waiting = line.submit()
    child = line.submit(ONE, parent=parent_of(parent))
    assert [task.run for task in line.flying] == [parent.run, waiting]

    line.end(line.flying[-1])
    assert line.flying[-1].run == child
    line.end(line.flying[-1])

    assert line.places.taken == 1, "the component works again"
    assert line.called() == [parent.run]
    assert line.places.taken == 0


def test_what_is_cancelled_waits_no_more_and_gives_its_place_back() -> None:
    line = Line(pool_window=1)
    first, second, third = (line.submit() for _ in range(3))

    line.engine.send(CancelRun(second, "enough"))
    assert line.places.waiting == 1
    line.engine.send(CancelRun(first, "enough"))
    line._take()

    assert [task.run for task in line.flying] == [first, third]
    assert (line.places.waiting, line.places.taken) == (0, 1)


def test_a_retry_waits_again_for_a_place() -> None:
    line = Line(pool_window=1)
    first, second = line.submit(), line.submit()
    task = line.flying.popleft()
    line.engine.send(FailAttempt(line.engine.task_ref("a", run=first), Failure(ErrorCode.UNREACHABLE, "gone")))
    line._take()
    assert [one.run for one in line.flying] == [second]

    line.engine.fire()
    assert line.places.waiting == 1
    line.end()

    assert [(one.run, one.attempt) for one in line.flying] == [(task.run, 2)]


def test_a_recovery_counts_who_has_a_place_and_queues_the_others() -> None:
    line = Line(pool_window=2)
    runs = [line.submit(namespace=namespace) for namespace in "aaabb"]
    line.end()

    assert line.engine.restart() == []

    assert (line.places.taken, line.places.waiting) == (2, 2)
    assert line.called() == [runs[1], runs[2], runs[3], runs[4]]


def test_without_a_window_nobody_waits() -> None:
    line = Line(pool_window=0)
    for _ in range(100):
        line.submit()

    assert len(line.flying) == 100
    assert line.engine.session.places is None


def test_explain_says_how_many_are_ahead() -> None:
    line = Line(pool_window=1)
    line.submit()
    runs = [line.submit(namespace=namespace) for namespace in "aab"]
    state = line.engine.state

    (cause, _) = explain(state, state.runs[runs[1]], line.engine.session.now, line.engine.session)

    assert cause.text == ("ready, waits for a place of pool py (1 of 1 tasks in flight): 2nd of 2 of namespace a, 2 namespaces by turns")


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(-100, 100), st.booleans()), min_size=1, max_size=60),
    st.integers(1, 4),
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 3)),
)
@settings(deadline=None)
def test_no_place_stays_free_no_limit_is_passed_and_each_gets_its_share(
    arrivals: list[tuple[str, int, bool]], window: int, weights: dict[str, int]
) -> None:
    line = Line(pool_window=window, weights=weights)
    names: dict[RunId, str] = {}
    for namespace, priority, ends in arrivals:
        names[line.submit(namespace=namespace, priority=priority)] = namespace
        assert len(line.flying) == min(window, len(line.flying) + line.places.waiting)
        if ends and line.flying:
            line.end()

    waiting = Counter({namespace: lane.waiting for namespace, lane in line.places.lanes.items() if lane.waiting})
    others = sum(weights.get(namespace, 1) for namespace in waiting)
    since = dict.fromkeys(waiting, 0)
    while line.places.waiting:
        line.end()
        assert len(line.flying) == window
        sent = names[line.flying[-1].run]
        waiting[sent] -= 1
        for namespace in since:
            since[namespace] = 0 if namespace == sent or not waiting[namespace] else since[namespace] + 1
        assert max(since.values()) <= others, "somebody was passed over for more than a round"
    line.called()
    assert not line.engine.state.runs


def test_the_state_of_an_engine_is_the_same_with_any_window() -> None:
    """Only when a step is dispatched depends on it."""
    hashes = set()
    for window in (0, 1, 3):
        line = Line(pool_window=window)
        for number in range(5):
            line.submit(ONE, number)
        line.called()
        hashes.add(js(sorted(line.engine.state.finished)))

    assert len(hashes) == 1


def test_a_slot_that_was_kept_for_one_who_needs_none_goes_to_who_waits() -> None:
    """A component whose sub-run lives takes a place when it is tried again, and no slot."""
    engine, root, child, other = Engine(pool_window=1), run_id(1), run_id(2), run_id(3)
    engine.submit(ONE, 1, run=root, max_concurrency=2)
    steps = [step(name, f"/{name}/work", input=ref("v") if name != "v" else 1) for name in "vxy"]
    engine.submit(flow(steps, [ref("x"), ref("y")]), run=child, parent=parent_of(engine.tasks[0]))
    engine.submit(ONE, 1, run=other)
    assert engine.dispatched() == ["a"]
    engine.run = root
    engine.give_up("a")
    engine.fire()
    engine.succeed("v", run=child)
    assert engine.dispatched() == ["x"], "the other slot is kept for the one that waits for a place"

    engine.succeed("a", run=other)

    assert sorted(engine.dispatched()) == ["a", "y"]
