"""A node: several partitions as one, several namespaces apart."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from tests.unit.orchestrator.runtime.lab import ONE_STEP, Lab, js, run_id, virtual

from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.memory import MemoryBus
from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.ids import RunId, partition_of
from stepmesh_broker.protocol.messages import Accepted, Refused, Submit
from stepmesh_broker.protocol.pools import ListPools, Pools

INNER: dict[str, Any] = {"steps": [{"id": "x", "component": "/py/work", "input": {"$input": "$"}}], "output": {"$step": "x"}}
MAP: dict[str, Any] = {
    "name": "outer",
    "steps": [{"id": "m", "component": "/builtin/map", "input": {"items": [1, 2], "workflow": {"$literal": INNER}}}],
    "output": {"$step": "m", "path": "successful"},
}


async def work_off(lab: Lab) -> int:
    """Do all that there is to do."""
    done = 0
    while tasks := await lab.take(timeout_s=1):
        await lab.finish(*tasks)
        done += len(tasks)
    return done


@virtual
async def test_fifty_runs_over_four_partitions() -> None:
    lab = await Lab(partitions=4).start()
    runs = [await lab.submit(MAP, number) for number in range(50)]
    homes = Counter(partition_of(run, 4) for run in runs)
    assert len(homes) == 4
    for number, service in lab.node.partitions.items():
        roots = {run.tree.root for run in service.shard.session.state.runs.values()}
        assert len(roots) == homes[number], "a run lives on its partition, with its sub-runs"
    assert await work_off(lab) == 100

    for run in runs:
        info = await lab.ended(run)
        assert (info.summary.status, info.summary.partition) == ("completed", partition_of(run, 4))
        events = await lab.ask(api.GetEvents(run), api.Events)
        assert events.ended
        assert len({event.run for event in events.events}) == 2
        steps = await lab.ask(api.GetSteps(run), api.Steps)
        assert [step.status for step in steps.steps] == ["success"]
    listed: list[RunId] = []
    while page := (await lab.ask(api.ListRuns(roots_only=True, limit=20, offset=len(listed)), api.Runs)).runs:
        listed += [run.run for run in page]
    assert sorted(listed) == sorted(runs)
    assert len((await lab.ask(api.ListRuns(limit=1_000), api.Runs)).runs) == 100
    (pool,) = (await lab.ask(ListPools(), Pools)).pools or [None]
    assert pool is None or (pool.queued, pool.in_flight) == (0, 0)
    await lab.stop()


@virtual
async def test_four_partitions_come_back_from_a_crash_and_go_on() -> None:
    lab = await Lab(partitions=4).start()
    runs = [await lab.submit(ONE_STEP, number) for number in range(20)]
    tasks = await lab.take()
    await lab.finish(*tasks[: len(tasks) // 2])
    await asyncio.sleep(0.5)
    await lab.restart()
    await lab.finish(*tasks[len(tasks) // 2 :])
    await work_off(lab)
    await asyncio.sleep(10)
    await work_off(lab)
    for run in runs:
        assert (await lab.ended(run)).summary.status == "completed"
    await lab.stop()
    await lab.start()
    assert all(not service.shard.session.state.runs for service in lab.node.partitions.values())
    assert len((await lab.ask(api.ListRuns(), api.Runs)).runs) == 20
    await lab.stop()


@virtual
async def test_a_key_gives_one_run_however_often_it_is_submitted() -> None:
    lab = await Lab(partitions=4).start()
    run = await lab.submit(ONE_STEP, 1, run_key="once")
    home = partition_of(run, 4)
    other = next(RunId(run_id(number)) for number in range(100, 200) if partition_of(run_id(number), 4) == home)
    again = await lab.control(Submit(other, lab.namespace, await lab.flow(ONE_STEP), [js(1)], run_key="once"), home)
    assert again == Accepted(run, existing=True)
    await lab.stop()


@virtual
async def test_two_namespaces_on_one_broker_see_nothing_of_each_other() -> None:
    bus = MemoryBus()
    one, two = await Lab(2, "one", bus).start(), await Lab(2, "two", bus).start()
    first = [await one.submit(ONE_STEP, number) for number in range(5)]
    second = [await two.submit({**ONE_STEP, "name": "theirs"}, number) for number in range(3)]
    assert await work_off(one) == 5
    assert (await two.ask(api.ListRuns(status="completed"), api.Runs)).runs == []
    assert await work_off(two) == 3
    for lab, runs in ((one, first), (two, second)):
        for run in runs:
            summary = (await lab.ended(run)).summary
            assert (summary.status, summary.namespace) == ("completed", lab.namespace)
        assert len((await lab.ask(api.ListRuns(), api.Runs)).runs) == len(runs)
    stranger = [run for run in first if run not in second]
    assert stranger
    for run in stranger:
        assert (await two.ask(api.GetRun(run), Refused)).code == "SM-5003"
    foreign = Submit(run_id(500), one.namespace, await two.flow(ONE_STEP), [b"1"])
    refused = await two.control(foreign, partition_of(run_id(500), 2))
    assert isinstance(refused, Refused)
    assert refused.code == "SM-5008"
    await one.stop()
    await two.stop()


@virtual
async def test_a_partition_that_fails_ends_the_node(caplog: pytest.LogCaptureFixture) -> None:
    lab = await Lab(partitions=2).start()

    async def broken(*_: Any) -> None:
        raise OSError("gone")

    lab.journal.append = broken  # type: ignore[method-assign]
    submitting = asyncio.create_task(lab.submit())
    with pytest.raises(OSError, match="gone"):
        await lab.node.ended
    assert "a partition ended" in caplog.text
    submitting.cancel()
    await lab.node.abort()


@virtual
async def test_a_node_that_was_aborted_answers_nobody() -> None:
    lab = await Lab(partitions=2).start()
    run = await lab.submit()
    projector = lab.shard.projector

    async def held(_: int) -> None:
        await asyncio.sleep(1)

    projector.reached = held  # type: ignore[method-assign]
    asking = asyncio.create_task(lab.ask(api.GetSteps(run), api.Steps, timeout_s=5))
    await asyncio.sleep(0.1)
    await lab.node.abort()
    with pytest.raises(BrokerUnavailable):
        await asking
    await lab.start()
    assert len((await lab.ask(api.GetSteps(run), api.Steps)).steps) == 1
    await lab.stop()
