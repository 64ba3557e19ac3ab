"""Claims before and during work, batched heartbeats, verdicts, cancel signals, an orchestrator that is away."""

from __future__ import annotations

import asyncio
import itertools

import msgspec
import pytest

from stepmesh import Worker
from stepmesh.attempt import KEPT_S, Frame
from stepmesh.broker_link import DOUBT_S
from stepmesh_broker.protocol.messages import ErrorCode, TaskFrame, Verdict


class Log:
    """What the components of one test did."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.began = asyncio.Event()
        self.ended: list[str] = []
        self.cancelled: list[str] = []


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def worker(log):
    return _worker(log)


def _worker(log, **options):
    worker = Worker("cpu", **options)

    @worker.component
    async def work(input, context):
        log.started.append(context.step_id)
        log.began.set()
        try:
            await asyncio.sleep(input or 0)
        except asyncio.CancelledError:
            log.cancelled.append(context.step_id)
            raise
        log.ended.append(context.step_id)
        return context.step_id

    @worker.component
    async def tells(input, context):
        for part in range(10):
            context.heartbeat(part / 10, part=part)
            await asyncio.sleep(1)

    return worker


async def test_claim_first_is_granted_before_the_work_starts(shard, running, task, log, worker):
    seen = []
    shard.verdict = lambda ref: seen.append(list(log.started)) or Verdict.GRANTED
    async with running(worker):
        await shard.send(task("/work", step=1, claim_first=True), task("/work", step=2, claim_first=True))
        await shard.until_results(2)
    assert seen == [[], []], "nothing had started when the claim came"
    assert [len(claim.tasks) for claim in shard.claims] == [2], "one message for both"
    assert log.ended == ["s1", "s2"]


@pytest.mark.parametrize("verdict", [Verdict.GONE, Verdict.HELD, Verdict.CANCELLED])
async def test_a_refused_claim_drops_the_task_without_a_result(shard, running, task, log, worker, verdict):
    shard.verdict = lambda ref: verdict if ref.step == 1 else Verdict.GRANTED
    async with running(worker):
        await shard.send(task("/work", step=1, claim_first=True), task("/work", step=2, claim_first=True))
        (result,) = await shard.until_results(1)
        assert await shard.no_result()
    assert result.step == 2
    assert log.started == ["s2"]
    assert await shard.frames_left() == 0, "the copy is acknowledged"


async def test_not_ready_is_asked_again_with_growing_pauses(shard, running, task, log, worker):
    times = []
    loop = asyncio.get_running_loop()

    def verdict(ref):
        times.append(loop.time())
        return Verdict.GRANTED if len(times) == 8 else Verdict.NOT_READY

    shard.verdict = verdict
    async with running(worker):
        await shard.send(task("/work", claim_first=True))
        await shard.until_results(1)
    pauses = [b - a for a, b in itertools.pairwise(times)]
    assert pauses == sorted(pauses)
    assert 0.04 < pauses[0] < 0.2
    assert pauses[-1] == pytest.approx(2.0, abs=0.1)


async def test_a_waiting_claim_holds_no_slot(shard, another_shard, running, task, log):
    shard.verdict = lambda ref: Verdict.NOT_READY
    second = await another_shard(1)
    async with running(_worker(log, concurrency=1)):
        await shard.send(task("/work", step=1, claim_first=True))
        await shard.until(lambda: len(shard.claims) > 2)
        await second.send(task("/work", step=2))
        (result,) = await second.until_results(1)
        assert result.step == 2
        shard.verdict = lambda ref: Verdict.GRANTED
        (result,) = await shard.until_results(1)
    assert result.step == 1


async def test_an_orchestrator_that_is_away_delays_a_claim_and_keeps_the_frame(shard, running, task, log, worker):
    await shard.be_away()
    async with running(worker):
        await shard.send(task("/work", claim_first=True))
        assert await shard.no_result(30)
        assert not log.started
        await shard.answer_control()
        await shard.until_results(1)
        assert await shard.no_result(10), "the frame was not delivered twice"
    assert log.started == ["s0"]


async def test_a_running_task_goes_on_while_the_orchestrator_is_away(shard, running, task, log, worker):
    async with running(worker):
        await shard.be_away()
        await shard.send(task("/work", 30.0))
        (result,) = await shard.until_results(1)
    assert result.failure is None
    assert not log.cancelled


async def test_a_redelivered_frame_is_claimed(shard, running, task, log, worker):
    other = await shard.broker.tasks("cpu")
    await shard.send(task("/work", step=1), task("/work", step=2))
    (delivery,) = await other.fetch(1, 1.0)
    await delivery.nak()
    await other.close()
    shard.verdict = lambda ref: Verdict.GONE if ref.step == 1 else Verdict.GRANTED
    async with running(worker):
        await shard.until_results(1)
    assert [ref.step for claim in shard.claims for ref in claim.tasks] == [1, 2]
    assert log.started == ["s2"]


async def test_a_copy_of_what_runs_here_is_dropped_without_asking(shard, running, task, log, worker):
    async with running(worker):
        await shard.send(task("/work", 0.9, step=1))
        await shard.send(task("/work", 0.9, step=1, dispatch=2, claim_first=True))
        await shard.until_results(1)
        assert await shard.no_result(10)
    assert log.started == ["s1"]
    assert not shard.claims
    assert await shard.frames_left() == 0


async def test_an_exclusive_worker_claims_everything_and_no_more_than_it_can_start(shard, running, task, log):
    async with running(_worker(log, exclusive=True, concurrency=2)):
        await shard.send(*[task("/work", 0.5, step=n) for n in range(5)])
        await shard.until_results(5)
    assert [len(claim.tasks) for claim in shard.claims] == [2, 2, 1]


async def test_a_task_under_a_second_is_not_claimed_one_over_is(shard, running, task, log, worker):
    async with running(worker):
        await shard.send(task("/work", 0.7, step=1))
        await shard.until_results(1)
        assert not shard.claims
        await shard.send(task("/work", 1.6, step=2))
        await shard.until_results(2)
    assert [ref.step for claim in shard.claims for ref in claim.tasks] == [2]


async def test_long_tasks_of_a_partition_share_claims_and_heartbeats(shard, running, task, log, worker):
    async with running(worker):
        await shard.send(*[task("/work", 10.0, step=n) for n in range(5)])
        await shard.until_results(5)
    assert [len(claim.tasks) for claim in shard.claims] == [5]
    assert 6 <= len(shard.heartbeats) <= 10, "about every second of nine: a third of the lease"
    assert all(len(beat.tasks) == 5 for beat in shard.heartbeats[:-1])


async def test_heartbeats_carry_the_newest_progress(shard, running, task, log, worker):
    async with running(worker):
        await shard.send(task("/tells", step=1))
        await shard.until_results(1)
    told = [beat.tasks[0] for beat in shard.heartbeats]
    fractions = [progress.fraction for progress in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] >= 0.7
    assert msgspec.json.decode(told[-1].details) == {"part": round(fractions[-1] * 10)}


@pytest.mark.parametrize("verdict", [Verdict.GONE, Verdict.HELD, Verdict.CANCELLED])
async def test_a_heartbeat_verdict_stops_the_work(shard, running, task, log, worker, verdict):
    async with running(worker):
        await shard.send(task("/work", 100.0, step=1), task("/work", 8.0, step=2))
        await shard.until(lambda: len(shard.heartbeats) >= 2)
        shard.verdict = lambda ref: verdict if ref.step == 1 else Verdict.GRANTED
        results = await shard.until_results(1)
        assert await shard.no_result(120)
    assert [result.step for result in results] == [2]
    assert log.cancelled == ["s1"]
    assert await shard.frames_left() == 0


async def test_a_late_claim_refused_stops_the_running_copy(shard, running, task, log, worker):
    shard.verdict = lambda ref: Verdict.HELD
    async with running(worker):
        await shard.send(task("/work", 100.0))
        assert await shard.no_result(120)
    assert log.cancelled == ["s0"]


async def test_not_ready_does_not_stop_a_running_task(shard, running, task, log, worker):
    shard.verdict = lambda ref: Verdict.NOT_READY
    async with running(worker):
        await shard.send(task("/work", 10.0))
        await shard.until_results(1)
    assert log.ended == ["s0"]
    assert len(shard.claims) > 3


async def test_a_stop_signal_cancels_running_and_queued_tasks(shard, running, task, log):
    async with running(_worker(log, concurrency=1)):
        tasks = [task("/work", 50.0, step=1), task("/work", 50.0, step=2), task("/work", 0.1, step=3)]
        await shard.send(*tasks)
        await shard.until(lambda: bool(shard.claims))
        await shard.stop_tasks(tasks[0], tasks[1])
        (result,) = await shard.until_results(1)
        assert await shard.no_result(120)
    assert result.step == 3
    assert log.started == ["s1", "s3"]
    assert log.cancelled == ["s1"]
    assert await shard.frames_left() == 0


async def test_a_stop_signal_for_another_attempt_does_nothing(shard, running, task, log, worker):
    async with running(worker):
        await shard.send(task("/work", 5.0, attempt=2))
        await shard.until(lambda: bool(shard.claims))
        await shard.stop_tasks(task("/work", 5.0, attempt=1))
        (result,) = await shard.until_results(1)
    assert result.attempt == 2


@pytest.mark.parametrize(("took", "ends"), [(1.9, "success"), (2.1, "timeout")])
async def test_the_steps_time_limit(shard, running, task, log, worker, took, ends):
    async with running(worker):
        await shard.send(task("/work", took, timeout_ms=2000))
        (result,) = await shard.until_results(1)
        assert await shard.no_result(5)
    if ends == "success":
        assert result.failure is None
    else:
        assert result.failure.code == ErrorCode.TIMEOUT
        assert "2 s" in result.failure.message
        assert log.cancelled == ["s0"]


async def test_the_smaller_of_two_limits_counts_and_is_the_deadline(shard, running, task):
    worker = Worker("cpu")
    deadlines = []

    @worker.component(timeout=3)
    async def work(context):
        deadlines.append(context.deadline)
        await asyncio.sleep(100)

    async with running(worker):
        await shard.send(task("/work", step=1, timeout_ms=1000))
        await shard.send(task("/work", step=2, timeout_ms=60_000))
        await shard.send(task("/work", step=3))
        results = await shard.until_results(3)
    assert ["1 s" in r.failure.message for r in sorted(results, key=lambda r: r.step)] == [True, False, False]
    assert ["3 s" in r.failure.message for r in sorted(results, key=lambda r: r.step)] == [False, True, True]
    assert all(deadline.tzinfo is not None for deadline in deadlines)


async def test_a_component_that_ignores_its_cancel_is_reported_and_keeps_its_slot(shard, running, task, caplog):
    worker = Worker("cpu", concurrency=1, cancel_grace_s=2.0)
    released = asyncio.Event()

    @worker.component
    async def stubborn(context):
        while not released.is_set():
            try:
                await asyncio.sleep(30)
                released.set()
            except asyncio.CancelledError:
                assert context.cancelled

    @worker.component
    async def quick():
        return 1

    async with running(worker):
        first = task("/stubborn", step=1)
        await shard.send(first)
        await shard.until(lambda: bool(shard.claims))
        await shard.stop_tasks(first)
        await shard.send(task("/quick", step=2))
        assert await shard.no_result(20), "the slot is still taken"
        assert "SM-6103" in caplog.text
        (result,) = await shard.until_results(1)
    assert result.step == 2
    assert released.is_set()


async def test_wait_cancelled_lets_a_component_end_in_its_own_way(shard, running, task):
    worker = Worker("cpu")
    seen = []

    @worker.component
    async def watch(context):
        watcher = asyncio.create_task(context.wait_cancelled())
        try:
            await asyncio.sleep(100)
        finally:
            await watcher
            seen.append(context.cancelled)

    async with running(worker):
        one = task("/watch")
        await shard.send(one)
        await shard.until(lambda: bool(shard.claims))
        await shard.stop_tasks(one)
        assert await shard.no_result()
    assert seen == [True]


def stand_still(seconds: float) -> None:
    """The clock goes on while this process does not: SIGSTOP, a suspended machine, a component that blocks the event loop."""
    asyncio.get_running_loop()._selector.now += seconds


@pytest.mark.parametrize(("seconds", "claimed"), [(KEPT_S - 1, False), (KEPT_S + 1, True)])
async def test_after_a_standstill_what_had_not_started_is_claimed_first(shard, running, task, log, seconds, claimed):
    shard.verdict = lambda ref: Verdict.GONE if ref.step == 2 else Verdict.GRANTED
    async with running(_worker(log, concurrency=1)):
        await shard.send(task("/work", 0.1, step=1), task("/work", step=2), task("/work", step=3))
        await log.began.wait()
        stand_still(seconds)
        await shard.until_results(2 if claimed else 3)
        assert await shard.no_result()
    assert log.started == (["s1", "s3"] if claimed else ["s1", "s2", "s3"])
    assert ({2, 3} <= {ref.step for claim in shard.claims for ref in claim.tasks}) is claimed


@pytest.mark.parametrize(("seconds", "claimed"), [(0.0, False), (KEPT_S + 1, True)])
async def test_a_frame_that_waited_in_a_process_at_a_standstill_is_claimed_first(shard, running, task, log, worker, seconds, claimed):
    shard.verdict = lambda ref: Verdict.HELD
    async with running(worker):
        await shard.send(task("/work", step=1))
        await shard.until_results(1)
        await shard.send(task("/work", step=2))
        stand_still(seconds)
        assert await shard.no_result() is claimed
    assert log.started == (["s1"] if claimed else ["s1", "s2"])


@pytest.mark.parametrize(("after_s", "claimed"), [(DOUBT_S - 1, True), (DOUBT_S + 1, False)])
async def test_so_is_one_that_shows_itself_only_when_the_fetch_of_before_ended_empty(shard, running, task, log, worker, after_s, claimed):
    shard.verdict = lambda ref: Verdict.HELD
    async with running(worker):
        await shard.send(task("/work", step=1))
        await shard.until_results(1)
        stand_still(KEPT_S + 1)
        await asyncio.sleep(after_s)
        await shard.send(task("/work", step=2))
        assert await shard.no_result() is claimed
    assert log.started == (["s1"] if claimed else ["s1", "s2"])


async def test_a_sign_of_life_that_comes_too_late_does_not_count():
    frame = Frame(None, TaskFrame(1, "default", "cpu", 0, 1, "journal", []), 10.0)
    frame.keep(10.0 + KEPT_S)
    assert not frame.in_doubt(10.0 + 2 * KEPT_S)
    frame.keep(10.1 + 2 * KEPT_S)
    assert frame.in_doubt(10.1 + 2 * KEPT_S)
