"""Leaving: nothing new starts, what runs ends or is handed back, nothing is lost, the grace period holds."""

from __future__ import annotations

import asyncio

from stepmesh import Worker


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
