"""Limits of plugins: how long an attempt may take from its claim, and how long a task may wait for one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.orchestrator.runtime.lab import ONE_STEP, W1, W2, Lab, until, virtual

from stepmesh_broker.protocol.ids import RunId, WorkerId
from stepmesh_broker.protocol.messages import Task, Verdict
from stepmesh_broker.protocol.pools import ListPools, Pools
from stepmesh_orchestrator.config import parse_config
from stepmesh_orchestrator.runtime.leases import TIMEOUT_GRACE_S


async def lab_with(plugin: str, **engine: Any) -> Lab:
    lab = Lab(transport_max_retries=0, **engine)
    lab.router = parse_config(f"plugins: {{py: {{type: grpc{plugin}}}}}\nroutes: {{/py: [{{plugin: py}}]}}", {})[0].router()
    return await lab.start()


async def error(lab: Lab, run: RunId) -> tuple[str, str]:
    failed = (await lab.result(run))["error"]
    return failed["code"], failed["message"]


async def work_for(lab: Lab, task: Task, seconds: float, worker: WorkerId = W1) -> Verdict:
    """Claim it and hold it, with heartbeats; the last verdict."""
    verdict = await lab.claim(task, worker)
    for _ in range(round(seconds)):
        await asyncio.sleep(1)
        verdict = await lab.beat(task, worker)
    return verdict


# --- executionTimeoutSecs, and a step's own timeout ---


@virtual
async def test_an_attempt_may_take_as_long_as_its_plugin_allows_from_its_claim() -> None:
    lab = await lab_with(", executionTimeoutSecs: 10")
    run = await lab.submit()
    (task,) = await lab.take()
    assert task.timeout_ms == 10_000
    await asyncio.sleep(300)  # in the worker's hands or the queue: it does not count before the claim
    assert await work_for(lab, task, 9) is Verdict.GRANTED
    await lab.finish(task)
    assert (await lab.result(run))["outcome"] == "success"
    await lab.stop()


@virtual
async def test_an_attempt_over_that_time_is_a_timeout() -> None:
    lab = await lab_with(", executionTimeoutSecs: 10")
    run = await lab.submit()
    (task,) = await lab.take()
    assert await work_for(lab, task, 10 + TIMEOUT_GRACE_S + 2) is Verdict.CANCELLED
    assert await error(lab, run) == ("TIMEOUT", "the attempt is over its time limit and its worker did not end it")
    await lab.stop()


@virtual
async def test_a_step_s_own_timeout_goes_before_that_of_its_plugin() -> None:
    lab = await lab_with(", executionTimeoutSecs: 3")
    run = await lab.submit({**ONE_STEP, "steps": [{**ONE_STEP["steps"][0], "timeout": "20s"}]})
    (task,) = await lab.take()
    assert task.timeout_ms == 20_000
    assert await work_for(lab, task, 19) is Verdict.GRANTED
    await lab.finish(task)
    assert (await lab.result(run))["outcome"] == "success"
    await lab.stop()


@virtual
async def test_the_limit_of_an_attempt_survives_a_restart() -> None:
    lab = await lab_with(", executionTimeoutSecs: 10")
    run = await lab.submit()
    (task,) = await lab.take()
    await lab.claim(task)
    await lab.restart()
    assert await lab.beat(task) is Verdict.GRANTED
    assert await work_for(lab, task, 10 + TIMEOUT_GRACE_S + 2) is Verdict.CANCELLED
    assert (await error(lab, run))[0] == "TIMEOUT"
    await lab.stop()


# --- queueTimeoutSecs ---


@virtual
async def test_a_task_that_is_claimed_in_time_is_not_late() -> None:
    lab = await lab_with(", queueTimeoutSecs: 20")
    run = await lab.submit()
    (task,) = await lab.take()
    assert task.claim_first, "a limited wait must be known to be over before the work starts"
    await asyncio.sleep(19)
    assert await work_for(lab, task, 60) is Verdict.GRANTED
    await lab.finish(task)
    assert (await lab.result(run))["outcome"] == "success"
    await lab.stop()


@virtual
async def test_a_task_that_is_answered_in_time_without_a_claim_is_not_late() -> None:
    lab = await lab_with(", queueTimeoutSecs: 20")
    run = await lab.submit()
    (task,) = await lab.take()
    await asyncio.sleep(19)
    await lab.finish(task)
    assert (await lab.result(run))["outcome"] == "success"
    await lab.stop()


@virtual
async def test_a_task_that_nobody_took_in_time_fails_and_is_gone_for_who_comes_late() -> None:
    lab = await lab_with(", queueTimeoutSecs: 20")
    run = await lab.submit()
    began = asyncio.get_running_loop().time()
    assert await error(lab, run) == ("TIMEOUT", "waited 20 s in pool py: no worker took it")
    assert asyncio.get_running_loop().time() - began == pytest.approx(20.5, abs=1)
    (task,) = await lab.take()
    assert await lab.claim(task) is Verdict.GONE
    assert not lab.shard.dispatcher.leases.flights
    await lab.stop()


@virtual
async def test_such_a_timeout_is_a_transport_error_with_its_own_budget() -> None:
    lab = Lab(transport_max_retries=2)
    lab.router = parse_config("plugins: {py: {type: grpc, queueTimeoutSecs: 5}}\nroutes: {/py: [{plugin: py}]}", {})[0].router()
    await lab.start()
    run = await lab.submit()
    attempts: list[int] = []
    while run in lab.shard.session.state.runs:
        attempts += [task.attempt for task in await lab.take(timeout_s=0.5)]
    assert sorted(set(attempts)) == [1, 2, 3]
    assert (await error(lab, run))[0] == "TIMEOUT"
    await lab.stop()


@virtual
async def test_the_wait_goes_on_over_a_restart_and_a_worker_that_was_not_heard_yet_keeps_its_task() -> None:
    lab = await lab_with(", queueTimeoutSecs: 20")
    waiting, running = await lab.submit(), await lab.submit()
    tasks = {task.run: task for _ in range(2) for task in await lab.take(timeout_s=0.1)}
    await work_for(lab, tasks[running], 19, W2)
    await lab.restart()
    began = asyncio.get_running_loop().time()
    await asyncio.sleep(2)
    assert await lab.beat(tasks[running], W2) is Verdict.GRANTED
    holding = asyncio.create_task(work_for(lab, tasks[running], 40, W2))
    assert (await error(lab, waiting))[0] == "TIMEOUT"
    assert asyncio.get_running_loop().time() - began < 12
    assert await holding is Verdict.GRANTED
    await lab.finish(tasks[running])
    assert (await lab.result(running))["outcome"] == "success"
    await lab.stop()


@virtual
async def test_a_long_queue_is_no_timeout_unless_somebody_set_one() -> None:
    lab = await lab_with("")
    run = await lab.submit()
    await asyncio.sleep(590)
    (task,) = await lab.take()
    assert not task.claim_first
    await lab.finish(task)
    assert (await lab.result(run))["outcome"] == "success"
    await lab.stop()


@virtual
async def test_a_task_that_waited_too_long_hurts_no_other_and_no_worker() -> None:
    lab = await lab_with(", queueTimeoutSecs: 10")
    run = await lab.submit(ONE_STEP, 1, 2, max_concurrency=0)
    first, second = [task for _ in range(2) for task in await lab.take(timeout_s=0.1)]
    holding = asyncio.create_task(work_for(lab, first, 30))
    await until(lambda: lab.shard.session.state.runs[run].failed == 1)
    assert await lab.claim(second) is Verdict.GONE
    assert await holding is Verdict.GRANTED
    await lab.finish(first)
    info = await lab.ended(run)
    assert (info.summary.completed, info.summary.failed) == (1, 1)
    assert (await lab.ask(ListPools(), Pools)).pools == []
    await lab.stop()
