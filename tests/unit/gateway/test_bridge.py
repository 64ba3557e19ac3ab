"""The bridge by itself, in virtual time: seats of workers that run what they are sent, claims, frames, what is given back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from tests.unit.sdk.conftest import NAMESPACE, POOL, Shard, _JumpingSelector, make_task

from stepmesh.attempt import Why
from stepmesh_broker.errors import BrokerError, BrokerUnavailable
from stepmesh_broker.memory import MemoryBroker, MemoryBus
from stepmesh_broker.pb.stepmesh.v1 import worker_pb2 as pb
from stepmesh_broker.protocol import codec, subjects
from stepmesh_broker.protocol.functions import Nudge
from stepmesh_broker.protocol.ids import Partition, RunId, WorkerId
from stepmesh_broker.protocol.messages import Refused, Result, Task, TaskRef, Verdict
from stepmesh_broker.protocol.queries import QueryTask
from stepmesh_gateway.identity import TaskId
from stepmesh_gateway.settings import GatewaySettings
from stepmesh_gateway.translate.work import HISTORY_BYTES, fill_activation
from stepmesh_gateway.work.bridge import Bridge
from stepmesh_gateway.work.elsewhere import Completion
from stepmesh_gateway.work.line import Assigned, Offer, WorkerHello
from stepmesh_gateway.work.questions import OVERHEAD
from stepmesh_gateway.work.refusals import GatewayStops
from stepmesh_gateway.work.seat import Seat

OFFERS = (Offer("/work", "/work"),)


class Recorder:
    """A line that remembers."""

    def __init__(self) -> None:
        self.seat: Seat
        self.sent: list[Assigned] = []
        self.stopped: list[tuple[TaskId, Why]] = []
        self.durable: list[TaskId] = []
        self.told: list[TaskId] = []
        self.asked: list[tuple[int, bytes]] = []
        self.drained = False

    def send(self, assigned: Sequence[Assigned]) -> None:
        self.sent.extend(assigned)

    def stop(self, task: TaskId, why: Why) -> None:
        self.stopped.append((task, why))

    def news(self, task: TaskId) -> None:
        self.told.append(task)

    def ask(self, number: int, question: bytes) -> None:
        self.asked.append((number, question))

    def recorded(self, tasks: Sequence[TaskId]) -> None:
        self.durable.extend(tasks)

    def drain(self) -> None:
        self.drained = True

    @property
    def steps(self) -> list[int]:
        return [one.id.ref.step for one in self.sent]

    def finish(self, id: TaskId) -> None:
        self.seat.finish(id, done(id))


def done(id: TaskId) -> Result:
    return Result(id.ref.run, id.ref.item, id.ref.step, id.ref.attempt, b'"done"')


@pytest.fixture
async def shard() -> AsyncIterator[Shard]:
    """In virtual time."""
    loop: Any = asyncio.get_running_loop()
    selector = loop._selector = _JumpingSelector(loop._selector, loop.time())
    loop.time = lambda: selector.now
    connection = MemoryBroker(MemoryBus(), NAMESPACE)
    await connection.connect()
    one = Shard(connection)
    await one.open()
    yield one
    await connection.close()


@pytest.fixture
async def bridge(shard: Shard) -> AsyncIterator[Bridge]:
    one = Bridge(shard.broker, GatewaySettings(), "gateway-1")
    await one.start()
    yield one
    await one.stop(0.0)


async def join(bridge: Bridge, worker: str = "w1", credit: int = 0, **fields: Any) -> Recorder:
    line = Recorder()
    given: dict[str, Any] = {"offers": OFFERS, **fields}
    line.seat = await bridge.join(WorkerHello(WorkerId(worker), POOL, **given), line)
    line.seat.allow(credit)
    return line


async def until(holds: Callable[[], bool], limit_s: float = 60.0) -> None:
    async with asyncio.timeout(limit_s):
        while not holds():
            await asyncio.sleep(0.01)


def work(step: int, **fields: Any) -> Task:
    return make_task("/work", step, step, **fields)


async def test_credit_bounds_what_is_sent_and_results_are_recorded(shard: Shard, bridge: Bridge) -> None:
    line = await join(bridge, credit=2)
    await shard.send(*(work(n) for n in range(5)))
    await until(lambda: len(line.sent) == 2)
    await asyncio.sleep(1)
    assert line.steps == [0, 1]
    line.finish(line.sent[0].id)
    await shard.until_results(1)
    await until(lambda: line.durable == [line.sent[0].id])
    assert line.seat.in_hand == 1
    line.seat.allow(3)
    await until(lambda: len(line.sent) == 5)
    for one in line.sent[1:]:
        line.finish(one.id)
    assert [result.output for result in await shard.until_results(5)] == [b'"done"'] * 5
    await until(lambda: line.seat.in_hand == 0)
    assert await shard.frames_left() == 0


@pytest.mark.parametrize(("seconds", "unclaimed"), [(0.04, 2), (0.06, 1)])
async def test_a_worker_that_claims_gets_one_more_while_tasks_are_quick(
    shard: Shard, bridge: Bridge, seconds: float, unclaimed: int
) -> None:
    line = Recorder()
    line.seat = await bridge.join(WorkerHello(WorkerId("w1"), POOL, offers=OFFERS, claims=True), line)
    line.seat.allow(1)
    await shard.send(*(work(n) for n in range(6)))
    await until(lambda: len(line.sent) == 1)
    assert await bridge.heartbeat(WorkerId("w1"), line.sent[0].id) is Verdict.GRANTED
    await asyncio.sleep(seconds)
    line.finish(line.sent[0].id)
    await asyncio.sleep(0.1)
    assert len(line.sent) == 1 + unclaimed


async def test_tasks_are_spread_over_workers(shard: Shard, bridge: Bridge) -> None:
    lines = [await join(bridge, f"w{n}", credit=10) for n in range(4)]
    await shard.send(*(work(n) for n in range(20)))
    await until(lambda: sum(len(line.sent) for line in lines) == 20)
    assert [len(line.sent) for line in lines] == [5, 5, 5, 5]


@pytest.mark.parametrize(("exclusive", "claim_first"), [(True, False), (False, True)])
async def test_what_must_be_claimed_is_claimed_before_it_is_sent(shard: Shard, bridge: Bridge, exclusive: bool, claim_first: bool) -> None:
    line = Recorder()
    sent_before: list[int] = []
    shard.verdict = lambda ref: sent_before.append(len(line.sent)) or Verdict.GRANTED  # type: ignore[func-returns-value]
    line.seat = await bridge.join(WorkerHello(WorkerId("w1"), POOL, offers=OFFERS, exclusive=exclusive), line)
    line.seat.allow(2)
    await shard.send(work(1, claim_first=claim_first), work(2, claim_first=claim_first))
    await until(lambda: len(line.sent) == 2)
    assert sent_before == [0, 0]
    assert [(claim.worker, len(claim.tasks), claim.running) for claim in shard.claims] == [("w1", 2, False)], "one message for both"


@pytest.mark.parametrize("verdict", [Verdict.GONE, Verdict.HELD, Verdict.CANCELLED])
async def test_a_refused_claim_gives_its_credit_back(shard: Shard, bridge: Bridge, verdict: Verdict) -> None:
    shard.verdict = lambda ref: verdict if ref.step == 1 else Verdict.GRANTED
    line = await join(bridge, credit=1)
    await shard.send(work(1, claim_first=True), work(2, claim_first=True))
    await until(lambda: line.steps == [2])
    assert line.stopped == [], "the worker never heard of the other one"
    line.finish(line.sent[0].id)
    await shard.until_results(1)
    assert await shard.no_result(5)
    assert await shard.frames_left() == 0


async def test_a_claim_that_waits_takes_no_credit(shard: Shard, bridge: Bridge) -> None:
    shard.verdict = lambda ref: Verdict.NOT_READY if ref.step == 1 else Verdict.GRANTED
    line = await join(bridge, credit=1)
    await shard.send(work(1, claim_first=True))
    await until(lambda: len(shard.claims) > 3)
    await shard.send(work(2))
    await until(lambda: line.steps == [2])
    shard.verdict = lambda ref: Verdict.GRANTED
    line.seat.allow(1)
    await until(lambda: line.steps == [2, 1])


async def test_long_tasks_are_claimed_and_renewed_for_each_worker(shard: Shard, bridge: Bridge) -> None:
    lines = [await join(bridge, f"w{n}", credit=2) for n in range(2)]
    await shard.send(*(work(n) for n in range(4)))
    await until(lambda: sum(len(line.sent) for line in lines) == 4)
    lines[0].seat.progress(lines[0].sent[0].id, 0.5, b"{}")
    await until(lambda: len(shard.heartbeats) >= 4)
    assert {(claim.worker, len(claim.tasks), claim.running) for claim in shard.claims} == {("w0", 2, True), ("w1", 2, True)}
    told = [progress.fraction for beat in shard.heartbeats if beat.worker == "w0" for progress in beat.tasks]
    assert 0.5 in told
    shard.verdict = lambda ref: Verdict.CANCELLED if ref.step == lines[1].steps[0] else Verdict.GRANTED
    await until(lambda: bool(lines[1].stopped))
    assert lines[1].stopped == [(lines[1].sent[0].id, Why.CANCELLED)]
    assert lines[0].stopped == []


async def test_a_cancel_signal_reaches_the_worker(shard: Shard, bridge: Bridge) -> None:
    line = await join(bridge, credit=1)
    tasks = [work(1), work(2)]
    await shard.send(*tasks)
    await until(lambda: line.steps == [1])
    await shard.stop_tasks(*tasks)
    await until(lambda: bool(line.stopped))
    assert [(id.ref.step, why) for id, why in line.stopped] == [(1, Why.CANCELLED)]
    line.seat.allow(1)
    await asyncio.sleep(1)
    assert line.steps == [1], "the other one was cancelled while it waited"
    assert await shard.frames_left() == 0


async def test_what_is_given_back_goes_to_another_worker(shard: Shard, bridge: Bridge) -> None:
    first = await join(bridge, "w1", credit=1)
    await shard.send(work(1))
    await until(lambda: first.steps == [1])
    first.seat.give_back(first.sent[0].id)
    second = await join(bridge, "w2", credit=1)
    await until(lambda: second.steps == [1])
    second.finish(second.sent[0].id)
    await shard.until_results(1)
    await until(lambda: second.seat.in_hand == 0)
    assert await shard.frames_left() == 0


async def test_a_worker_that_leaves_gets_no_more(shard: Shard, bridge: Bridge) -> None:
    line = await join(bridge, credit=5)
    await shard.send(work(1))
    await until(lambda: line.steps == [1])
    line.seat.leave()
    await shard.send(work(2))
    await asyncio.sleep(3)
    assert line.steps == [1]
    line.finish(line.sent[0].id)
    await until(lambda: line.seat.in_hand == 0)
    line.seat.lost()
    other = await join(bridge, "w2", credit=1)
    await until(lambda: other.steps == [2])


async def test_tasks_of_a_lost_stream_are_leased_once_more_and_let_go(shard: Shard, bridge: Bridge) -> None:
    line = await join(bridge, credit=1, claims=True)
    await shard.send(work(1))
    await until(lambda: line.steps == [1])
    assert await bridge.heartbeat(WorkerId("w1"), line.sent[0].id) is Verdict.GRANTED
    line.seat.lost()
    line.seat.lost()
    await until(lambda: len(shard.heartbeats) == 1)
    assert shard.heartbeats[0].worker == "w1"
    await until(lambda: not bridge._hands.by_ref)
    await asyncio.sleep(20)
    assert len(shard.heartbeats) == 1, "nobody renews it any more"
    assert await shard.frames_left() == 0, "its lease holds it, not its frame"
    assert await bridge.complete(line.sent[0].id, done(line.sent[0].id)) is Completion.ACCEPTED
    await shard.until_results(1)


async def test_what_a_worker_brings_along_is_kept_or_stopped(shard: Shard, bridge: Bridge) -> None:
    ids = [TaskId(TaskRef(work(n).run, 0, n, 1), Partition(0), "journal-1") for n in range(3)]
    verdicts = {0: Verdict.GRANTED, 1: Verdict.GONE, 2: Verdict.NOT_READY}
    shard.verdict = lambda ref: verdicts[ref.step]
    line = await join(bridge, running=tuple(ids))
    await until(lambda: bool(line.stopped))
    assert line.stopped == [(ids[1], Why.ELSEWHERE)]
    assert line.seat.in_hand == 1
    verdicts[2] = Verdict.GRANTED
    await until(lambda: line.seat.in_hand == 2)
    await until(lambda: len(shard.heartbeats) > 1)
    for id in (ids[0], ids[2]):
        line.finish(id)
    assert {result.step for result in await shard.until_results(2)} == {0, 2}
    await until(lambda: {*line.durable} == {ids[0], ids[2]})
    assert line.seat.in_hand == 0


async def test_a_stream_that_replaces_another_one_of_its_worker_takes_its_tasks(shard: Shard, bridge: Bridge) -> None:
    old = await join(bridge, credit=1)
    await shard.send(work(1))
    await until(lambda: old.steps == [1])
    new = await join(bridge, running=(old.sent[0].id,))
    await until(lambda: (old.seat.in_hand, new.seat.in_hand) == (0, 1))
    old.seat.lost()
    await until(lambda: len(shard.heartbeats) > 2)
    new.finish(old.sent[0].id)
    await shard.until_results(1)
    await until(lambda: new.durable == [old.sent[0].id])


async def test_a_result_of_a_task_that_never_was_here_is_recorded_in_the_end(shard: Shard, bridge: Bridge) -> None:
    line = await join(bridge)
    id = TaskId(TaskRef(work(1).run, 0, 1, 1), Partition(0), "journal-1")
    shard.verdict = lambda ref: Verdict.NOT_READY
    line.finish(id)
    await asyncio.sleep(5)
    assert line.durable == []
    shard.verdict = lambda ref: Verdict.GRANTED
    await shard.until_results(1)
    await until(lambda: line.durable == [id])
    gone = id._replace(ref=TaskRef(work(1).run, 0, 2, 1))
    shard.verdict = lambda ref: Verdict.GONE
    line.finish(gone)
    await until(lambda: line.durable == [id, gone])
    assert await shard.no_result(5)


async def test_a_frame_that_nobody_here_has_room_for_goes_back(shard: Shard, bridge: Bridge) -> None:
    line = await join(bridge, "w1", credit=1)
    await shard.send(work(1))
    await until(lambda: line.steps == [1])
    line.seat.allow(1)
    await asyncio.sleep(0.01)  # it waits for a frame
    line.seat.credit = 0  # and has no room when it comes
    await shard.send(work(2))
    await asyncio.sleep(0.3)
    assert (await shard.broker.depth(POOL)).ready == 0
    await asyncio.sleep(2.0)
    assert (await shard.broker.depth(POOL)).ready == 1


async def test_a_copy_of_what_is_here_is_dropped(shard: Shard, bridge: Bridge) -> None:
    line = await join(bridge, credit=5)
    await shard.send(work(1))
    await until(lambda: line.steps == [1])
    await shard.send(work(1, dispatch=2, claim_first=True))
    await asyncio.sleep(1)
    assert line.steps == [1]
    line.finish(line.sent[0].id)
    await shard.until_results(1)
    assert await shard.no_result(5)
    assert await shard.frames_left() == 0


async def test_a_worker_that_drops_its_tasks_gets_them_again_with_another_id(shard: Shard, bridge: Bridge) -> None:
    line = await join(bridge, credit=1, claims=True)
    await shard.send(work(1))
    await until(lambda: line.steps == [1])
    await asyncio.sleep(10)
    assert line.steps == [1], "it may have been busy with something else"
    await until(lambda: line.steps == [1, 1])
    first, second = (one.id for one in line.sent)
    assert second == first._replace(copy=first.copy + 1)
    assert await bridge.heartbeat(WorkerId("w1"), second) is Verdict.GRANTED
    assert await bridge.heartbeat(WorkerId("w1"), first) is Verdict.HELD, "it has begun the newer copy"
    assert await bridge.complete(second, done(second)) is Completion.ACCEPTED


async def test_a_claimed_task_of_which_nothing_is_heard_for_too_long_is_lost(shard: Shard) -> None:
    bridge = Bridge(shard.broker, GatewaySettings(silent_s=60.0), "gateway-1")
    await bridge.start()
    line = await join(bridge, credit=1, claims=True)
    await shard.send(work(1))
    await until(lambda: line.steps == [1])
    assert await bridge.heartbeat(WorkerId("w1"), line.sent[0].id) is Verdict.GRANTED
    await asyncio.sleep(50)
    count = len(shard.heartbeats)
    assert count > 10, "its lease is kept, although it is silent"
    await asyncio.sleep(20)
    count = len(shard.heartbeats)
    await asyncio.sleep(20)
    assert len(shard.heartbeats) == count
    await bridge.stop(0.0)


async def test_a_bridge_that_stops_hands_back_what_was_not_begun(shard: Shard) -> None:
    bridge = Bridge(shard.broker, GatewaySettings(), "gateway-1")
    await bridge.start()
    line = await join(bridge, credit=1)
    await shard.send(work(1), work(2))
    await shard.send(work(3))
    await until(lambda: line.steps == [1])
    stopping = asyncio.ensure_future(bridge.stop(10.0))
    await until(lambda: line.drained)
    with pytest.raises(GatewayStops):
        await join(bridge, "w2")
    line.finish(line.sent[0].id)
    await stopping
    assert line.durable == [line.sent[0].id]
    depth = await shard.broker.depth(POOL)
    assert (depth.ready, depth.in_flight) == (2, 0)


async def test_a_bridge_that_stops_leaves_what_runs_on_to_its_worker(shard: Shard) -> None:
    bridge = Bridge(shard.broker, GatewaySettings(), "gateway-1")
    await bridge.start()
    line = await join(bridge, credit=1)
    await shard.send(work(1))
    await until(lambda: line.steps == [1])
    await bridge.stop(4.0)
    assert shard.heartbeats[-1].worker == "w1"
    assert await shard.frames_left() == 0
    assert [hello.stopping for hello in shard.hellos][-1] is True


async def test_hello_is_said_for_each_worker(shard: Shard, bridge: Bridge) -> None:
    line = await join(bridge, credit=1, capacity=7, version="x/1")
    await until(lambda: bool(shard.hellos))
    hello = shard.hellos[0]
    assert (hello.worker, hello.pool, hello.capacity, hello.version, hello.stopping) == ("w1", POOL, 7, "x/1", False)
    assert [one.path for one in hello.components] == ["/work"]
    await asyncio.sleep(12)
    assert len(shard.hellos) == 3
    line.seat.offer((Offer("/new", "/new"),))
    await until(lambda: [one.path for one in shard.hellos[-1].components] == ["/new"])
    line.seat.lost()
    await until(lambda: shard.hellos[-1].stopping)


async def test_quick_tasks_are_taken_in_advance_and_slow_ones_are_not(shard: Shard, bridge: Bridge) -> None:
    line = await join(bridge, credit=1)
    for n in range(4):
        await shard.send(work(n))
    await until(lambda: line.steps == [0])
    await asyncio.sleep(0.5)
    assert (await shard.broker.depth(POOL)).in_flight == 1, "nobody knows yet how long a task takes"
    line.finish(line.sent[0].id)
    line.seat.allow(1)
    await until(lambda: line.steps == [0, 1])
    await asyncio.sleep(0.02)
    assert (await shard.broker.depth(POOL)).in_flight == 1, "the last one was slow"
    line.finish(line.sent[1].id)
    await until(lambda: line.seat.in_hand == 0)
    assert (await shard.broker.depth(POOL)).in_flight == 2, "the last one was quick"
    await asyncio.sleep(3)
    assert (await shard.broker.depth(POOL)).in_flight == 0, "and nobody came for what was taken"
    line.seat.allow(2)
    await until(lambda: sorted(line.steps) == [0, 1, 2, 3])


async def test_a_claim_that_is_asked_twice_begins_once(shard: Shard, bridge: Bridge) -> None:
    line = await join(bridge, credit=1, claims=True)
    await shard.send(work(1, claim_first=True))
    await until(lambda: line.steps == [1])
    id = line.sent[0].id
    verdicts = await asyncio.gather(*(bridge.heartbeat(WorkerId("w1"), id) for _ in range(3)))
    assert verdicts == [Verdict.GRANTED] * 3
    assert line.seat.begun == 1
    assert await bridge.complete(id, done(id)) is Completion.ACCEPTED
    assert line.seat.begun == 0


async def test_calls_wait_for_a_broker_that_is_away_until_the_gateway_stops(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = Bridge(shard.broker, GatewaySettings(), "gateway-1")
    await bridge.start()
    line = await join(bridge, credit=1, claims=True)
    await shard.send(work(1))
    await until(lambda: line.steps == [1])
    id = line.sent[0].id
    assert await bridge.heartbeat(WorkerId("w1"), id) is Verdict.GRANTED

    async def away(*_: Any) -> None:
        raise BrokerUnavailable("away")

    monkeypatch.setattr(shard.broker, "post", away)
    call = asyncio.ensure_future(bridge.complete(id, done(id)))
    await asyncio.sleep(60)
    assert not call.done()
    await bridge.stop(1.0)
    assert await call is Completion.NOT_READY


async def test_the_gateway_s_machinery_does_not_fail_in_silence(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = Bridge(shard.broker, GatewaySettings(), "gateway-1")
    await bridge.start()
    monkeypatch.setattr(bridge._presence, "hello", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(bridge.ended, 30)
    monkeypatch.undo()
    await bridge.stop(0.0)


async def test_a_pool_whose_tasks_cannot_be_taken_any_more_does_not_fail_in_silence(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = Bridge(shard.broker, GatewaySettings(), "gateway-1")
    await bridge.start()
    await join(bridge, credit=1)

    async def forbidden(*_: Any) -> None:
        raise BrokerError("this user may not write dead letters")

    monkeypatch.setattr(shard.broker, "park", forbidden)
    await shard.broker.publish_tasks(POOL, b"nonsense", "m1")
    with pytest.raises(BrokerError):
        await asyncio.wait_for(bridge.ended, 30)
    monkeypatch.undo()
    await bridge.stop(0.0)


async def test_a_pool_that_cannot_be_opened_leaves_nothing_behind(shard: Shard, bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: Any) -> None:
        raise BrokerUnavailable("away")

    monkeypatch.setattr(shard.broker, "listen", away)
    with pytest.raises(BrokerUnavailable):
        await join(bridge)
    monkeypatch.undo()
    line = await join(bridge, credit=1)
    await shard.send(work(1))
    await until(lambda: line.steps == [1])


async def test_news_of_a_function_reach_the_worker_that_runs_it(shard: Shard, bridge: Bridge) -> None:
    first, second = await join(bridge, "w1", credit=1), await join(bridge, "w2", credit=1)
    await shard.send(work(1), work(2))
    await until(lambda: len(first.sent) + len(second.sent) == 2)
    id = first.sent[0].id
    await shard.broker.send(subjects.workers(NAMESPACE, POOL), codec.encode(Nudge([id.ref, TaskRef(RunId("unknown"), 0, 0, 1)])))
    await until(lambda: first.told == [id])
    assert second.told == []


async def test_a_function_that_waits_is_nobody_s_any_more(shard: Shard, bridge: Bridge) -> None:
    line = await join(bridge, credit=1)
    await shard.send(work(1), work(2))
    await until(lambda: line.steps == [1])
    line.seat.idle(line.sent[0].id)
    assert line.seat.in_hand == line.seat.begun == 0
    line.seat.allow(1)
    await until(lambda: line.steps == [1, 2])
    line.finish(line.sent[1].id)
    assert [result.step for result in await shard.until_results(1)] == [2]
    await until(lambda: line.seat.in_hand == 0)
    assert await shard.frames_left() == 0
    line.seat.idle(line.sent[0].id)  # said again: nothing comes of it
    line.seat.lost()
    assert await shard.no_result(10)


@pytest.mark.parametrize(("size", "comes_along"), [(HISTORY_BYTES, True), (HISTORY_BYTES + 1, False)])
async def test_a_history_travels_with_its_task_where_it_is_short(shard: Shard, bridge: Bridge, size: int, comes_along: bool) -> None:
    offers = (Offer("/work", "/work", function=True), Offer("/plain", "/plain"))
    line = await join(bridge, credit=2, offers=offers)
    given = {"history": b"x" * (size - 9), "news": b"y" * 9, "records": 3, "driver": 11, "seen": 2, "at_ms": 7}
    await shard.send(work(1, **given), make_task("/plain", 2, 2, history=b"x"))
    await until(lambda: len(line.sent) == 2)
    function, plain = sorted(line.sent, key=lambda one: one.id.ref.step)
    assert (function.function, plain.function) == (True, False)
    made = pb.Activation()
    assert fill_activation(made, function.id.journal, function.task, function.fresh) == (size if comes_along else 0)
    assert len(made.history) + len(made.news) == (size if comes_along else 0)
    assert (made.journal, made.at_ms, made.records) == (function.id.journal, 7, 3)
    assert (made.driver, made.seen, made.fresh) == (11, 2, True)


@pytest.mark.parametrize(("fields", "fresh"), [({}, True), ({"dispatch": 2}, False), ({"claim_first": True}, False)])
async def test_a_task_is_fresh_that_nobody_had_before(shard: Shard, bridge: Bridge, fields: dict[str, Any], fresh: bool) -> None:
    line = await join(bridge, credit=1)
    await shard.send(work(1, **fields))
    await until(lambda: len(line.sent) == 1)
    assert line.sent[0].fresh is fresh
    line.seat.give_back(line.sent[0].id)
    other = await join(bridge, "w2", credit=1)
    line.seat.lost()
    await until(lambda: len(other.sent) == 1)
    assert other.sent[0].fresh is False, "it was sent before"


def question(size: int = 0) -> bytes:
    return codec.encode(QueryTask(work(1, history=b"x" * size), "j", "state", b"{}"))


async def ask(shard: Shard, data: bytes) -> bytes:
    return await shard.broker.request(subjects.queries(NAMESPACE, POOL), data, 60.0)


async def asking(bridge: Bridge, worker: str, message_bytes: int = 10_000, function: bool = True) -> Recorder:
    line = await join(bridge, worker, offers=(Offer("/work", "/work", function=function),), message_bytes=message_bytes)
    await asyncio.sleep(0.1)
    return line


async def test_a_question_goes_to_a_worker_with_the_function_and_takes_no_credit(shard: Shard, bridge: Bridge) -> None:
    await asking(bridge, "plain", function=False)
    with pytest.raises(BrokerUnavailable):
        await ask(shard, question())
    lines = [await asking(bridge, f"w{n}") for n in range(2)]
    asked = [asyncio.create_task(ask(shard, question())) for _ in range(4)]
    await until(lambda: [len(line.asked) for line in lines] == [2, 2])
    for line in lines:
        for number, data in line.asked:
            assert data == question()
            line.seat.answer(number, f"{line.seat.worker}/{number}".encode())
            line.seat.answer(number, b"again")
        line.seat.answer(99, b"nobody asked")
        assert (line.seat.in_hand, line.seat.credit, line.seat.asked) == (0, 0, 2)
    assert sorted(await asyncio.gather(*asked)) == [b"w0/1", b"w0/2", b"w1/1", b"w1/2"]
    assert [line.seat.asked for line in lines] == [0, 0]


async def test_a_question_whose_worker_went_away_goes_to_the_next_and_then_back(shard: Shard, bridge: Bridge) -> None:
    lines = [await asking(bridge, f"w{n}") for n in range(2)]
    asked = asyncio.create_task(ask(shard, question()))
    for lost in range(2):
        await until(lambda lost=lost: sum(len(line.asked) for line in lines) == lost + 1)  # type: ignore[misc]
        next(line for line in lines if line.asked and not line.seat.gone).seat.lost()
    refused = codec.decode_api_answer(await asked)
    assert isinstance(refused, Refused)
    assert refused.code == "SM-5133"
    await asyncio.sleep(0.1)
    with pytest.raises(BrokerUnavailable):
        await ask(shard, question())
    again = await asking(bridge, "w2")
    asked = asyncio.create_task(ask(shard, question()))
    await until(lambda: bool(again.asked))
    again.seat.answer(again.asked[0][0], b"here")
    assert await asked == b"here"


async def test_a_question_that_is_not_answered_in_time_is_given_back(shard: Shard, bridge: Bridge) -> None:
    line = await asking(bridge, "w1")
    refused = codec.decode_api_answer(await ask(shard, question()))
    assert isinstance(refused, Refused)
    assert refused.code == "SM-5133"
    line.seat.answer(1, b"too late")
    malformed = codec.decode_api_answer(await ask(shard, b"x"))
    assert isinstance(malformed, Refused)
    assert malformed.code == "SM-3003"


async def test_a_question_is_no_larger_than_a_message_to_its_worker(shard: Shard, bridge: Bridge) -> None:
    small, large = await asking(bridge, "w1", 10_000), await asking(bridge, "w2", 20_000)
    frame = len(question(10_000)) - 10_000
    for size in (20_000 - OVERHEAD - frame, 20_000 - OVERHEAD - frame + 1):
        asked = asyncio.create_task(ask(shard, question(size)))
        if size + frame + OVERHEAD <= 20_000:
            await until(lambda: bool(large.asked))
            large.seat.answer(1, b"here")
            assert await asked == b"here"
        else:
            refused = codec.decode_api_answer(await asked)
            assert isinstance(refused, Refused)
            assert (refused.code, f"{20_000 - OVERHEAD} bytes from the gateway" in refused.message) == ("SM-5134", True)
    assert small.asked == []


async def test_a_gateway_that_stops_hears_no_questions(shard: Shard, bridge: Bridge) -> None:
    await asking(bridge, "w1")
    await bridge.stop(0.0)
    with pytest.raises(BrokerUnavailable):
        await ask(shard, question())
