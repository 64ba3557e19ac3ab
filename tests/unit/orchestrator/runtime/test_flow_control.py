"""Tenants, places of pools and gates over a whole node: what clients see of them, and that workers are kept busy and shared."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.orchestrator.runtime.lab import ONE_STEP, Lab, run_id, until, virtual

from stepmesh import Context, Worker
from stepmesh.client import Client
from stepmesh.errors import RequestRefused
from stepmesh_broker.memory import MemoryBroker
from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.ids import Namespace, Pool, WorkerId, partition_of
from stepmesh_broker.protocol.messages import Accepted, ErrorCode, Failure, Hello, Refused, Submit
from stepmesh_broker.protocol.pools import ListPools, Pools
from stepmesh_orchestrator.core.places import Places
from stepmesh_orchestrator.runtime import windows
from stepmesh_orchestrator.runtime.packing import PoolPace
from stepmesh_orchestrator.runtime.presence import Presence
from stepmesh_orchestrator.runtime.readings import read_shard

SINGLE: dict[str, Any] = {**ONE_STEP, "name": "single", "concurrency": {"key": {"$input": "who"}}}


def lab_of(tenants: tuple[str, ...] | None = ("acme", "beta"), **engine: Any) -> Lab:
    lab = Lab(**engine)
    lab.settings = replace(lab.settings, tenants=tenants)
    return lab


async def connected(lab: Lab) -> Client:
    broker = MemoryBroker(lab.bus, lab.namespace)
    await broker.connect()
    return Client(broker)


@virtual
async def test_tenants_share_a_deployment_and_others_do_not() -> None:
    lab = await lab_of().start()
    client = await connected(lab)

    own = await client.submit(ONE_STEP, [1], run_key="k")
    theirs = await client.submit(ONE_STEP, [1], run_key="k", tenant="acme")
    assert theirs.id != own.id, "run keys of namespaces do not know each other"
    with pytest.raises(RequestRefused) as refused:
        await client.submit(ONE_STEP, [1], tenant="gamma")

    assert refused.value.code == "SM-5008"
    assert "acme, beta" in refused.value.hint
    assert [run.run for run in await client.list_runs()] == [own.id]
    (listed,) = await client.list_runs(tenant="acme")
    assert (listed.run, listed.namespace) == (theirs.id, "acme")
    await lab.stop()


@virtual
async def test_any_namespace_may_be_a_tenant() -> None:
    lab = await lab_of(None).start()

    answer = await lab.control(Submit(run_id(1), Namespace("whoever"), await lab.flow(ONE_STEP), [b"1"]))

    assert answer == Accepted(run_id(1))
    await lab.stop()


@virtual
async def test_without_tenants_a_deployment_is_one_namespace() -> None:
    lab = await Lab().start()

    answer = await lab.control(Submit(run_id(1), Namespace("acme"), await lab.flow(ONE_STEP), [b"1"]))

    assert isinstance(answer, Refused)
    assert answer.code == "SM-5008"
    await lab.stop()


@virtual
async def test_one_job_under_the_flood_of_another_tenant_is_done_soon() -> None:
    """End to end: 2,000 tasks of a tenant, of which a worker does four at once, and one of another that comes in the midst of them."""
    lab = await lab_of(pool_window=40).start()
    client = await connected(lab)
    done: list[str] = []
    worker = Worker(pool="py", concurrency=4)

    @worker.component
    async def work(value: Any, context: Context) -> Any:
        await asyncio.sleep(0.1)
        done.append(context.run_id)
        return value

    broker = MemoryBroker(lab.bus, lab.namespace)
    await broker.connect()
    running = asyncio.create_task(worker.run(broker))
    await asyncio.sleep(2)  # a worker that was heard, and a sweep
    flood = [await client.submit(ONE_STEP, list(range(100)), tenant="acme", max_concurrency=0) for _ in range(20)]
    await until(lambda: len(done) > 200)
    before = len(done)

    small = await client.submit(ONE_STEP, ["small"], tenant="beta")
    await small.wait(timeout=60)

    handed_out = 2 * 4 + 40
    assert done.index(small.id) - before <= handed_out + 2 * 2 + 4, "what was handed out, two rounds, and what runs beside it"
    for run in flood:
        await run.wait(timeout=600)
    assert len(done) == 2_001
    worker.stop()
    await running
    await lab.stop()


@virtual
async def test_what_waits_for_a_place_counts_as_queued() -> None:
    lab = await lab_of(pool_window=3).start()
    await lab.submit(ONE_STEP, *range(10), max_concurrency=0)

    pools = await lab.ask(ListPools(), Pools)
    reading = read_shard(lab.shard, lab.sweeper, lab.node.ports.clock)
    lines = (await lab.ask(api.Explain(run_id(1)), api.Explained)).lines

    assert [(pool.pool, pool.queued) for pool in pools.pools] == [("py", 10)]
    assert reading.pools["py"].queued == 10
    assert reading.lanes == {("py", "default"): 7}
    assert any("waits for a place of pool py (3 of 3 tasks in flight): 1st of 7 of namespace default" in line for line in lines)
    assert len(await lab.take()) == 3
    await lab.stop()


@virtual
async def test_a_crash_loses_nobody_who_waits_for_a_place() -> None:
    lab = await lab_of(pool_window=2).start()
    run = await lab.submit(ONE_STEP, *range(5), max_concurrency=0)
    await lab.finish(*await lab.take())

    await lab.restart()
    while tasks := await lab.take(timeout_s=30):
        await lab.finish(*tasks)

    assert (await lab.ended(run)).summary.completed == 5
    await lab.stop()


@virtual
async def test_a_held_run_is_listed_as_queued_and_waits_on_through_a_crash() -> None:
    lab = await Lab().start()
    client = await connected(lab)
    first = await client.submit(SINGLE, [{"who": "x"}])
    second = await client.submit(SINGLE, [{"who": "x"}])

    assert [run.run for run in await client.list_runs(status="queued")] == [second.id]
    assert "waits for a place: 1st of 1 of key x (limit 1)" in (await client.explain(second.id))[0]
    await lab.restart()
    assert (await second.info()).summary.status == "queued"
    (task,) = await lab.take(timeout_s=60)
    assert task.run == first.id
    await lab.finish(task)
    (task,) = await lab.take(timeout_s=60)
    assert task.run == second.id
    await lab.finish(task)
    await second.wait(timeout=60)
    assert await client.list_runs(status="queued") == []
    await lab.stop()


@virtual
async def test_a_key_is_one_for_runs_of_all_partitions() -> None:
    """Its home lies on one of them; the others ask it, and give back, through their inboxes."""
    lab = await Lab(partitions=4).start()
    client = await connected(lab)
    document = {**SINGLE, "concurrency": {"key": {"$input": "who"}, "limit": 2}}
    runs = [await client.submit(document, [{"who": "x"}]) for _ in range(12)]
    assert len({partition_of(run.id, 4) for run in runs}) > 1
    most = 0
    while tasks := await lab.take(timeout_s=30):
        most = max(most, len(await client.list_runs(status="running")))
        await lab.finish(tasks[0])
        for task in tasks[1:]:
            await lab.finish(task)

    assert most == 2
    assert {(await run.info()).summary.status for run in runs} == {"completed"}
    homes = [service.shard.session.state.permits for service in lab.node.partitions.values()]
    await until(lambda: not any(permits.keys for permits in homes))
    await lab.stop()


@virtual
async def test_a_crash_loses_no_permit_between_partitions() -> None:
    lab = await Lab(partitions=4).start()
    client = await connected(lab)
    runs = [await client.submit(SINGLE, [{"who": "x"}]) for _ in range(8)]
    ended: set[str] = set()
    while len(ended) < len(runs):
        if len(ended) in (0, 1, 5):
            await lab.restart()
        assert len(await client.list_runs(status="running")) <= 1
        for task in await lab.take(timeout_s=90):
            await lab.finish(task)
            ended.add(task.run)

    for run in runs:
        assert (await run.wait(timeout=100)).summary.status == "completed"
    await lab.stop()


@virtual
async def test_an_open_breaker_is_shown_and_tried_when_its_pause_is_over() -> None:
    lab = await Lab(breaker_after=2).start()
    away = Failure(ErrorCode.RESOURCE_UNAVAILABLE, "503")
    for _ in range(2):
        await lab.submit()
        await lab.finish(*await lab.take(), failure=away)
    run = await lab.submit()
    assert await lab.take(timeout_s=5) == []

    pools = await lab.ask(ListPools(), Pools)
    assert "/py/work said that what it needs is not available" in next(pool.trouble for pool in pools.pools if pool.pool == "py")
    assert read_shard(lab.shard, lab.sweeper, lab.node.ports.clock).breakers == 1
    assert "held back" in (await lab.ask(api.Explain(run), api.Explained)).lines[0]
    (canary,) = await lab.take(timeout_s=30)
    await lab.finish(canary)
    assert (await lab.ended(run)).summary.status == "completed"
    assert read_shard(lab.shard, lab.sweeper, lab.node.ports.clock).breakers == 0
    await lab.stop()


@virtual
async def test_a_rate_lets_runs_through_when_it_is_their_time() -> None:
    lab = await Lab().start()
    loop = asyncio.get_running_loop()
    document = {**ONE_STEP, "name": "slowly", "throttle": "1/10s"}
    began = loop.time()
    runs = [await lab.submit(document, number) for number in range(3)]
    begun: list[tuple[str, float]] = []
    while len(begun) < 3:
        for task in await lab.take(timeout_s=60):
            begun.append((task.run, loop.time() - began))
            await lab.finish(task)

    assert [run for run, _ in begun] == runs
    assert [round(at) for _, at in begun] == [0, 10, 20]
    await lab.stop()


def test_a_window_is_what_workers_take_and_a_second_of_their_work() -> None:
    presence, pace = Presence(_Clock()), PoolPace()
    places = Places(4_000, {})
    of_pool = places.of("py")
    windows.fit(places, presence, {})
    assert of_pool.limit == 4_000, "nobody was heard"

    presence.hear(Hello(WorkerId("w"), Pool("py"), 8, "1", []))
    for average_us, limit in ((1_000_000.0, 16 + 8), (100_000.0, 16 + 80), (10.0, 16 + 4_000), (60_000_000.0, 16)):
        pace.average_us = average_us
        windows.fit(places, presence, {"py": pace})
        assert of_pool.limit == limit


@virtual
async def test_who_waits_is_called_when_more_workers_come_though_no_task_ends() -> None:
    lab = await Lab(pool_window=1).start()
    runs = [await lab.submit(ONE_STEP, number) for number in range(4)]
    begun = [task.run for task in await lab.take()]
    assert begun == runs[:1]

    lab.node.presence.hear(Hello(WorkerId("w"), Pool("py"), 2, "1", []))
    while len(begun) < len(runs):
        begun += [task.run for task in await lab.take()]

    assert begun == runs
    await lab.stop()


class _Clock:
    def now_ms(self) -> int:
        return 0

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
