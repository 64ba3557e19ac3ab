"""Claims and heartbeats as workers make them, and what the sweeper does for tasks that nobody has any more."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from tests.unit.orchestrator.runtime.lab import ONE_STEP, W1, W2, Lab, frame_of, until, virtual

from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.memory import MemoryBroker
from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.codec import encode
from stepmesh_broker.protocol.ids import Partition, Pool, RunId
from stepmesh_broker.protocol.messages import FORMAT, Cancel, ErrorCode, Failure, Task, TaskFrame, Verdict
from stepmesh_orchestrator.core.flow.routing import Router
from stepmesh_orchestrator.runtime.leases import ADOPTED_S

SLOW: dict[str, Any] = {**ONE_STEP, "steps": [{**ONE_STEP["steps"][0], "timeout": "10s"}]}


async def in_flight(document: dict[str, Any] = ONE_STEP) -> tuple[Lab, RunId, Task]:
    """A run whose only task is with a worker that acknowledged its frame."""
    lab = await Lab().start()
    run = await lab.submit(document)
    (task,) = await lab.take()
    return lab, run, task


# --- verdicts ---


@virtual
async def test_a_task_in_flight_is_granted_and_held_against_others() -> None:
    lab, _, task = await in_flight()
    assert await lab.claim(task, W1) is Verdict.GRANTED
    assert await lab.claim(task, W2) is Verdict.HELD
    assert await lab.beat(task, W2) is Verdict.HELD
    assert await lab.beat(task, W1) is Verdict.GRANTED
    await lab.stop()


@pytest.mark.parametrize(
    "change",
    [{"run": RunId("nobody")}, {"item": 7}, {"item": -1}, {"step": 9}, {"step": -1}, {"attempt": 2}, {"attempt": 0}, {"step": 2**62}],
)
def test_what_is_not_in_flight_is_gone(change: dict[str, Any]) -> None:
    @virtual
    async def check() -> None:
        lab, _, task = await in_flight()
        other = msgspec.structs.replace(task, **change)
        assert await lab.claim(other) is Verdict.GONE
        assert await lab.beat(other) is Verdict.CANCELLED
        await lab.stop()

    check()


@virtual
async def test_a_task_that_is_done_or_superseded_is_gone() -> None:
    retried = {**ONE_STEP, "steps": [{**ONE_STEP["steps"][0], "onError": {"action": "retry", "maxRetries": 1}}]}
    lab, run, task = await in_flight(retried)
    await lab.finish(task, failure=Failure(ErrorCode.COMPONENT_FAILED, "no"))
    (second,) = await lab.take(timeout_s=60)
    assert second.attempt == 2
    assert await lab.claim(task) is Verdict.GONE
    await lab.finish(second)
    await lab.ended(run)
    assert await lab.claim(second) is Verdict.GONE
    await lab.stop()


@virtual
async def test_a_cancelled_task_is_gone_and_its_worker_told() -> None:
    lab, run, task = await in_flight()
    await lab.claim(task)
    await lab.control(Cancel(run))
    assert await lab.beat(task) is Verdict.CANCELLED
    assert await lab.claim(task) is Verdict.GONE
    assert lab.shard.dispatcher.leases.held == {}
    await lab.stop()


@virtual
async def test_what_the_journal_does_not_hold_yet_ends_no_task() -> None:
    lab, run, task = await in_flight()
    await lab.claim(task)
    gate = Gate(lab)
    cancelling = asyncio.create_task(lab.control(Cancel(run)))
    await until(lambda: gate.waiting)
    assert await lab.claim(task) is Verdict.NOT_READY, "memory says gone; the journal may yet say otherwise"
    assert await lab.beat(task) is Verdict.GRANTED
    claim = asyncio.create_task(lab.claim(task))
    await asyncio.sleep(0.1)
    gate.open()
    assert await claim is Verdict.GONE
    await cancelling
    assert await lab.beat(task) is Verdict.CANCELLED
    await lab.stop()


class Gate:
    """Holds up the journal: the state is ahead of it while `waiting`."""

    def __init__(self, lab: Lab) -> None:
        self.waiting = False
        self._event = asyncio.Event()
        append = lab.journal.append

        async def slow(partition: Partition, epoch: int, expected: int, payload: bytes) -> None:
            self.waiting = True
            await self._event.wait()
            self.waiting = False
            await append(partition, epoch, expected, payload)

        lab.journal.append = slow  # type: ignore[method-assign]

    def open(self) -> None:
        self._event.set()


@virtual
async def test_after_a_recovery_the_worker_of_before_comes_first() -> None:
    lab, run, task = await in_flight()
    await lab.claim(task, W1)
    await lab.restart()
    assert await lab.claim(task, W2) is Verdict.NOT_READY
    assert await lab.beat(task, W1) is Verdict.GRANTED
    assert await lab.claim(task, W2) is Verdict.HELD
    await lab.finish(task)
    await lab.ended(run)
    await lab.stop()


@virtual
async def test_after_a_recovery_anybody_may_have_a_task_that_nobody_speaks_for() -> None:
    lab, _, task = await in_flight()
    await lab.restart()
    await asyncio.sleep(3.1)
    assert await lab.claim(task, W2) is Verdict.GRANTED
    assert lab.shard.dispatcher.leases.recovered == set()
    await lab.stop()


# --- progress ---


@virtual
async def test_progress_is_shown_where_people_look() -> None:
    lab, run, task = await in_flight()
    await lab.beat(task, W1, 0.25, b'{"rows":10}')
    line = (await lab.ask(api.Explain(run), api.Explained)).lines[0]
    assert "worker w1 holds it, 25% done" in line
    assert '{"rows":10}' in line
    (step,) = (await lab.ask(api.GetSteps(run), api.Steps)).steps
    assert (step.status, step.fraction, step.details) == ("running", 0.25, b'{"rows":10}')
    await lab.finish(task)
    await lab.ended(run)
    (step,) = (await lab.ask(api.GetSteps(run), api.Steps)).steps
    assert (step.status, step.fraction, step.details) == ("success", None, None)
    await lab.stop()


# --- what became of a task ---


@virtual
async def test_a_silent_workers_task_becomes_another_attempt() -> None:
    lab, run, task = await in_flight()
    await lab.claim(task)
    (second,) = await lab.take(timeout_s=60)
    assert (second.attempt, second.dispatch) == (2, 1)
    await lab.finish(second)
    assert (await lab.ended(run)).summary.status == "completed"
    await lab.stop()


@virtual
async def test_a_worker_that_is_heard_keeps_its_task() -> None:
    lab, run, task = await in_flight()
    await lab.claim(task)
    for _ in range(30):
        await asyncio.sleep(2)
        assert await lab.beat(task) is Verdict.GRANTED
    assert await lab.take(timeout_s=1) == []
    await lab.finish(task)
    assert (await lab.ended(run)).summary.status == "completed"
    await lab.stop()


@virtual
async def test_an_attempt_over_its_time_limit_ends_though_its_worker_lives() -> None:
    lab, _, task = await in_flight(SLOW)
    await lab.claim(task)
    for _ in range(7):
        await asyncio.sleep(2)
        await lab.beat(task)
    (second,) = await lab.take(timeout_s=60)
    assert second.attempt == 2
    await lab.stop()


@virtual
async def test_a_task_that_takes_down_its_workers_is_parked_in_its_pools_dead_letters() -> None:
    lab, run, task = await in_flight()
    for _ in range(4):
        await lab.claim(task)
        found = await lab.take(timeout_s=100)
        if not found:
            break
        (task,) = found
    result = await lab.result(run)
    assert result["error"]["code"] == "UNREACHABLE"
    await until(lambda: bool(lab.bus.streams(lab.namespace).parked))
    (parked,) = await lab.client.parked()
    assert parked.pool == "py"
    assert "step 'a'" in parked.reason
    assert run in parked.reason
    assert lab.shard.dispatcher.leases.flights == {}
    await lab.stop()


@virtual
async def test_a_task_whose_frame_was_acknowledged_without_a_result_is_sent_again() -> None:
    lab, run, task = await in_flight()
    (again,) = await lab.take(timeout_s=60)
    assert (again.attempt, again.dispatch, again.claim_first) == (task.attempt, 2, True)
    (third,) = await lab.take(timeout_s=60)
    assert third.dispatch == 3
    assert lab.sweeper.redispatched == 2
    await lab.finish(third)
    assert (await lab.ended(run)).summary.status == "completed"
    await lab.stop()


@virtual
async def test_a_frame_that_waits_in_a_pool_without_workers_is_not_sent_again() -> None:
    lab = await Lab().start()
    await lab.submit()
    await asyncio.sleep(300)
    assert lab.sweeper.redispatched == 0
    assert len(await lab.frames()) == 1
    await lab.stop()


@virtual
async def test_a_broker_that_lost_its_streams_gets_every_ready_task_again_at_once() -> None:
    lab = await Lab().start()
    run = await lab.submit()
    lab.bus.wipe()
    (task,) = await lab.take(timeout_s=3)
    assert task.dispatch == 2
    await lab.finish(task)
    assert (await lab.ended(run)).summary.status == "completed"
    await lab.stop()


@virtual
async def test_a_claimed_task_survives_the_loss_of_the_streams_with_its_worker() -> None:
    lab, run, task = await in_flight()
    await lab.claim(task)
    lab.bus.wipe()
    for _ in range(5):
        await asyncio.sleep(1.5)
        await lab.beat(task)
    assert lab.sweeper.redispatched == 0
    await lab.finish(task)
    assert (await lab.ended(run)).summary.status == "completed"
    await lab.stop()


class Away(MemoryBroker):
    """A broker that can be away for the sweeper."""

    away = False

    async def incarnation(self) -> str:
        if self.away:
            raise BrokerUnavailable("away")
        return await super().incarnation()


@virtual
async def test_while_the_broker_is_away_no_lease_ends() -> None:
    lab = Lab()
    lab.broker = broker = Away(lab.bus, lab.namespace)
    await lab.start()
    run = await lab.submit()
    (task,) = await lab.take()
    await lab.claim(task)
    broker.away = True
    await asyncio.sleep(60)
    broker.away = False
    await asyncio.sleep(2)
    assert await lab.beat(task) is Verdict.GRANTED
    await lab.finish(task)
    assert (await lab.ended(run)).summary.status == "completed"
    await lab.stop()


@virtual
async def test_a_task_of_an_earlier_owner_is_found_in_a_pool_that_is_never_idle() -> None:
    lab, run, task = await in_flight()
    await lab.restart()
    other = Lab(namespace="default", bus=lab.bus)  # another orchestrator keeps the pool busy, and this one sends nothing
    await other.client.connect()
    blocker = asyncio.create_task(keep_busy(other))
    again: list[Task] = []
    async with asyncio.timeout(ADOPTED_S + 20):
        while not again:
            for delivery in await lab.frames(timeout_s=1):
                again += [one for one in frame_of(delivery).tasks if one.run == run]
                await delivery.nak(0.5)
    blocker.cancel()
    assert (again[0].run, again[0].attempt, again[0].dispatch) == (run, task.attempt, 2)
    await lab.stop()


async def keep_busy(lab: Lab) -> None:
    frame = TaskFrame(FORMAT, lab.namespace, Pool("py"), Partition(0), 1, "another journal", [])
    await lab.client.publish_tasks(Pool("py"), encode(frame), "busy")


@virtual
async def test_a_task_that_cannot_be_sent_again_fails_with_the_reason() -> None:
    lab, run, _ = await in_flight()
    await lab.node.abort()
    lab.router = Router({})
    await lab.start()
    error = (await lab.result(run))["error"]
    assert error["code"] == "COMPONENT_NOT_FOUND"
    assert lab.shard.dispatcher.leases.flights == {}
    await lab.stop()


@virtual
async def test_many_tasks_leave_nothing_behind() -> None:
    lab = await Lab().start()
    for number in range(300):
        run = await lab.submit(ONE_STEP, number)
        await lab.finish(*await lab.take())
        await lab.ended(run)
    await asyncio.sleep(5)
    leases = lab.shard.dispatcher.leases
    assert (leases.flights, leases.by_pool, leases.held) == ({}, {}, {})
    state = lab.shard.session.state
    assert (state.runs, state.trees) == ({}, {})
    await lab.stop()
