"""Schedules of a cluster: any node answers, each lives where its name hashes to, and none stops because a node does."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from tests.unit.orchestrator.runtime.lab import virtual
from tests.unit.orchestrator.runtime.test_cluster_api import ECHO, PARTITIONS, cluster, told

from stepmesh_broker.protocol import api
from stepmesh_broker.protocol import schedules as sched
from stepmesh_broker.protocol.ids import Namespace, Partition
from stepmesh_broker.protocol.messages import Refused

NAMES = [f"job-{number:02}" for number in range(24)]


def home(name: str) -> Partition:
    return sched.home_of(Namespace("default"), name, PARTITIONS)


@virtual
async def test_any_node_answers_for_any_schedule() -> None:
    async with cluster() as (world, client):
        await world.start_worker()
        for name in NAMES:
            await client.schedules.create(name, ECHO, {"name": name}, every=3_600)
        assert {home(name) for name in NAMES} == set(range(PARTITIONS))
        for node in world.nodes:
            for name in NAMES:
                assert (await told(node, sched.GetSchedule(name))).schedule.id == name
            found: list[str] = []
            page: Any = sched.Schedules([], more=True)
            while page.more:
                page = await told(node, sched.ListSchedules(found[-1] if found else "", 7))
                found += [one.schedule.id for one in page.schedules]
            assert found == NAMES
            assert (await told(node, sched.PauseSchedule("job-07"))).status == "paused"
            assert (await told(node, sched.ResumeSchedule("job-07"))).status == "active"
            refused = await told(node, sched.GetSchedule("nobody"))
            assert isinstance(refused, Refused)
            assert refused.code == "SM-5240"
        run = await client.schedules.trigger("job-03")
        assert (await run.result(timeout=60)) == {"name": "job-03"}
        assert (await run.info()).summary.partition == home("job-03")
        assert isinstance(await told(world.nodes[0], sched.DeleteSchedule("job-03")), api.Deleted)
        assert [one.schedule.id async for one in client.schedules.list()] == [name for name in NAMES if name != "job-03"]
        due = datetime.fromtimestamp((await client.schedules.get("job-04")).next_ms[0] / 1000, UTC)
        (again,) = await client.schedules.backfill("job-04", due, due, key="k")
        assert (await again.result(timeout=60)) == {"name": "job-04"}


@virtual
async def test_schedules_go_on_while_nodes_crash_and_come() -> None:
    async with cluster() as (world, client):
        await world.start_worker()
        for name in NAMES[:8]:
            await client.schedules.create(name, ECHO, every=10, overlap="allow", catch_up="all")
        begun = (await client.schedules.get(NAMES[0])).created_ms
        await asyncio.sleep(25)
        await world.crash(world.nodes[0])
        await asyncio.sleep(30)
        await world.join()
        await asyncio.sleep(30)
        await world.settled()
        for name in NAMES[:8]:
            info = await client.schedules.get(name)
            due = (world.clock.now_ms() - begun) // 10_000
            assert info.skipped == 0
            assert due - 1 <= info.fired <= due


@virtual
async def test_a_flow_that_a_schedule_anywhere_names_is_not_deleted() -> None:
    async with cluster() as (world, client):
        made = await client.schedules.create("job", ECHO, every=3_600)
        for node in world.nodes:
            refused = await told(node, api.DeleteFlow(made.schedule.flow))
            assert isinstance(refused, Refused)
            assert refused.code == "SM-5013"
        await client.schedules.delete("job")
        assert isinstance(await told(world.nodes[0], api.DeleteFlow(made.schedule.flow)), api.Deleted)
