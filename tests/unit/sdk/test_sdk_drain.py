"""Leaving: nothing new starts, what runs ends or is handed back, nothing is lost, the grace period holds."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager, suppress

import pytest

from stepmesh import Worker
from stepmesh_broker.memory import MemoryBroker
from stepmesh_broker.protocol.ids import Namespace


def make_worker(**options):
    worker = Worker("cpu", **options)

    @worker.component
    async def work(input):
        await asyncio.sleep(input)
        return input

    return worker


async def test_running_tasks_finish_and_are_posted_before_the_worker_leaves(shard, broker, task):
    worker = make_worker()
    job = asyncio.create_task(worker.run(broker))
    await shard.send(task("/work", 5.0))
    await shard.until(lambda: bool(shard.claims))
    worker.stop()
    await job
    (result,) = await shard.until_results(1)
    assert result.output == b"5.0"
    assert await shard.frames_left() == 0


async def test_what_outlasts_the_grace_period_is_handed_back(shard, broker, task):
    worker = make_worker(drain_grace_s=10.0)
    clock = asyncio.get_running_loop().time
    job = asyncio.create_task(worker.run(broker))
    await shard.send(task("/work", 3600.0))
    await shard.until(lambda: bool(shard.claims))
    worker.stop()
    began = clock()
    await job
    assert clock() - began <= 10.0
    assert await shard.no_result(1)
    source = await shard.broker.tasks("cpu")
    (delivery,) = await source.fetch(1, 1.0)
    assert delivery.deliveries == 2


async def test_tasks_that_did_not_start_are_handed_back_at_once(shard, broker, task):
    worker = make_worker(concurrency=1)
    job = asyncio.create_task(worker.run(broker))
    await shard.send(task("/work", 3.0, step=1), task("/work", 3.0, step=2))
    await shard.until(lambda: bool(shard.claims))
    worker.stop()
    await job
    (result,) = await shard.until_results(1)
    assert result.step == 1
    source = await shard.broker.tasks("cpu")
    (delivery,) = await source.fetch(1, 1.0)
    assert delivery.deliveries == 2, "the frame comes again for its second task; the first is then already done"


async def test_a_second_stop_does_not_wait(shard, broker, task):
    worker = make_worker(drain_grace_s=1000.0)
    clock = asyncio.get_running_loop().time
    job = asyncio.create_task(worker.run(broker))
    await shard.send(task("/work", 3600.0))
    await shard.until(lambda: bool(shard.claims))
    worker.stop()
    await asyncio.sleep(5)
    assert not job.done()
    began = clock()
    worker.stop()
    await job
    assert clock() - began <= 1.5
    assert (await shard.broker.depth("cpu")).ready == 1


async def test_stop_before_run_leaves_at_once(broker, shard):
    worker = make_worker()
    worker.stop()
    await worker.run(broker)
    await shard.until(lambda: shard.hellos[-1].stopping)
    assert await shard.frames_left() == 0


async def test_frames_that_were_asking_for_a_lease_are_handed_back(shard, broker, task):
    await shard.be_away()
    worker = make_worker()
    job = asyncio.create_task(worker.run(broker))
    await shard.send(task("/work", 0.0, claim_first=True))
    assert await shard.no_result(3)
    worker.stop()
    await job
    assert (await shard.broker.depth("cpu")).ready == 1


async def test_a_worker_that_left_can_run_again(shard, broker, task):
    worker = make_worker()
    for n in (1, 2):
        job = asyncio.create_task(worker.run(broker))
        await shard.send(task("/work", 0.0, step=n))
        await shard.until_results(n)
        worker.stop()
        await job
    assert [result.step for result in shard.results] == [1, 2]


async def test_a_broken_instrument_ends_the_worker_with_its_error(shard, broker, task):
    class Broken:
        def start(self, context):
            return None

        def finish(self, token, result):
            raise RuntimeError("instrument broke")

    worker = make_worker(instrument=Broken())
    job = asyncio.create_task(worker.run(broker))
    await shard.send(task("/work", 0.0))
    (problem,) = await asyncio.gather(job, return_exceptions=True)
    assert isinstance(problem, RuntimeError)
    assert (await shard.broker.depth("cpu")).in_flight == 1, "not acknowledged: the task comes again"


async def test_a_run_that_is_cancelled_stops_its_components_and_acknowledges_nothing(shard, broker, task):
    worker = Worker("cpu")
    ended = []

    @worker.component
    async def work():
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(True)

    job = asyncio.create_task(worker.run(broker))
    await shard.send(task("/work"))
    await shard.until(lambda: bool(shard.claims))
    job.cancel()
    await asyncio.wait([job])
    await asyncio.sleep(1)
    assert ended == [True]
    assert await shard.frames_left() == 1
    source = await shard.broker.tasks("cpu")
    assert [delivery.deliveries for delivery in await source.fetch(1, 60.0)] == [2]


@pytest.mark.parametrize("seed", range(25))
async def test_nothing_is_lost_while_workers_come_and_go(shard, bus, task, seed):
    """Two places for workers, each stopped (politely, hastily or dead) and filled again at random; every task gets a result."""
    chance = random.Random(seed)
    places = [asyncio.create_task(_come_and_go(bus, chance)) for _ in range(2)]
    expected = set()
    for frame in range(30):
        steps = [frame * 10 + n for n in range(chance.randint(1, 10))]
        expected.update(steps)
        lengths = [0.0, 0.0, 0.1, 1.5, 8.0]
        await shard.send(*[task("/work", chance.choice(lengths), step=n, claim_first=chance.random() < 0.2) for n in steps])
        await asyncio.sleep(chance.random() * 3)
    for place in places:
        place.cancel()
    async with _worker(bus):
        while not expected <= {result.step for result in shard.results}:
            await shard.until_results(len(shard.results) + 1)
        await asyncio.sleep(60)  # copies of frames whose worker died come again and are dropped or done
    assert await shard.frames_left() == 0
    assert {result.step for result in shard.results} == expected
    assert all(result.failure is None for result in shard.results)


@asynccontextmanager
async def _worker(bus):
    connection = MemoryBroker(bus, Namespace("default"))
    await connection.connect()
    worker = make_worker(concurrency=3, drain_grace_s=5.0)
    job = asyncio.create_task(worker.run(connection))
    try:
        yield worker, job
    finally:
        worker.stop()
        with suppress(asyncio.CancelledError):
            await job
        await connection.close()


async def _come_and_go(bus, chance):
    while True:
        async with _worker(bus) as (worker, job):
            await asyncio.sleep(chance.random() * 10)
            fate = chance.choice(["drain", "hurry", "dead"])
            if fate == "hurry":
                worker.stop()
            elif fate == "dead":
                job.cancel()
