"""A worker over the in-process broker: frames, results, batching, errors, unknown components, presence."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import msgspec
import pytest

from stepmesh import StepmeshError, Worker
from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.memory import MemoryBroker, MemoryBus
from stepmesh_broker.protocol import codec
from stepmesh_broker.protocol.ids import Namespace
from stepmesh_broker.protocol.messages import ErrorCode


def make_worker(**options):
    worker = Worker("cpu", **options)

    @worker.component
    async def double(input):
        return input * 2

    @worker.component
    async def slow(input, context):
        await asyncio.sleep(input)
        return context.step_id

    return worker


async def test_a_frame_comes_back_as_one_post_and_is_acknowledged(shard, running, task):
    async with running(make_worker()):
        await shard.send(*[task("/double", n, step=n) for n in range(64)])
        results = await shard.until_results(64)
    assert [msgspec.json.decode(result.output) for result in results] == [2 * n for n in range(64)]
    assert [result.step for result in results] == list(range(64))
    assert len(shard.posts) == 1
    assert shard.posts[0].journal == "journal-1"
    assert await shard.frames_left() == 0
    assert not shard.claims, "short tasks are not claimed"


async def test_results_name_run_item_step_attempt_and_times(shard, running, task):
    async with running(make_worker()):
        await shard.send(task("/slow", 0.5, step=3, item=7, attempt=2))
        (result,) = await shard.until_results(1)
    assert (result.run, result.item, result.step, result.attempt) == (task("/x").run, 7, 3, 2)
    assert msgspec.json.decode(result.output) == "s3"
    assert result.started_us > 1_600_000_000_000_000
    assert result.duration_us >= 0


async def test_slow_tasks_that_travel_alone_run_side_by_side(shard, running, task):
    clock = asyncio.get_running_loop().time
    async with running(make_worker()):
        begun = clock()
        for step in range(10):
            await shard.send(task("/slow", 30.0, step=step))
        await shard.until_results(10)
        assert clock() - begun < 35.0


async def test_quick_tasks_do_not_wait_for_a_slow_one_of_their_frame(shard, running, task):
    async with running(make_worker()):
        await shard.send(task("/slow", 30.0, step=0), task("/double", 1, step=1))
        (first,) = await shard.until_results(1)
        assert first.step == 1
        assert await shard.frames_left() == 1, "the frame is acknowledged with its last task"
        results = await shard.until_results(2)
    assert [result.step for result in results] == [1, 0]
    assert await shard.frames_left() == 0


async def test_no_more_than_concurrency_are_under_way(shard, running, task):
    worker = Worker("cpu", concurrency=3)
    now, most = 0, 0

    @worker.component
    async def count():
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(1)
        now -= 1

    async with running(worker):
        await shard.send(*[task("/count", step=n) for n in range(10)])
        await shard.until_results(10)
    assert most == 3


async def test_a_full_worker_leaves_frames_to_others(shard, running, task):
    worker = make_worker(concurrency=2)
    async with running(worker):
        for n in range(6):
            await shard.send(task("/slow", 5.0, step=n))
        await shard.until_results(1)
        depth = await shard.broker.depth("cpu")
        assert depth.ready >= 2
        await shard.until_results(6)


async def test_while_a_task_waits_later_frames_are_taken(shard, running, task):
    worker = make_worker()
    begun = asyncio.Event()

    @worker.component
    async def patient():
        begun.set()
        await asyncio.sleep(30)

    async with running(worker):
        await shard.send(task("/patient"))
        await begun.wait()
        await shard.send(task("/double", 2, step=1))
        (first,) = await shard.until_results(1)
        assert first.output == b"4"
        await shard.until_results(2)


async def test_a_long_task_keeps_its_frame_beyond_the_ack_wait(shard, running, task):
    async with running(make_worker()):
        await shard.send(task("/slow", 60.0))
        results = await shard.until_results(1)
        assert await shard.no_result(10)
    assert len(results) == 1


@pytest.mark.parametrize(
    ("path", "says"),
    [("/dubble", "did you mean /double?"), ("/zzz", "this worker offers /double, /slow")],
)
async def test_an_unknown_component_is_named_with_what_is_near(shard, running, task, path, says):
    async with running(make_worker()):
        await shard.send(task(path))
        (result,) = await shard.until_results(1)
    assert result.failure.code == ErrorCode.COMPONENT_NOT_FOUND
    assert says in result.failure.message


async def test_a_malformed_frame_is_parked_and_the_next_one_runs(shard, running, task):
    async with running(make_worker()):
        await shard.broker.publish_tasks("cpu", b"\xc1 nonsense", "bad")
        await shard.send(task("/double", 4))
        (result,) = await shard.until_results(1)
        (parked,) = await shard.broker.parked()
    assert result.output == b"8"
    assert parked.data == b"\xc1 nonsense"
    assert "SM-3003" in parked.reason
    assert await shard.frames_left() == 0


async def test_a_worker_says_hello_at_start_regularly_and_at_the_end(shard, running):
    async with running(make_worker(concurrency=5, exclusive=True, name="w")):
        await shard.until(lambda: len(shard.hellos) >= 3)
    await shard.until(lambda: shard.hellos[-1].stopping)
    first = shard.hellos[0]
    assert [component.path for component in first.components] == ["/double", "/slow"]
    assert (first.pool, first.capacity, first.exclusive, first.stopping) == ("cpu", 5, True, False)
    assert first.worker.startswith("w-")
    assert [hello.stopping for hello in shard.hellos].count(True) == 1


async def test_components_that_come_and_go_are_told_at_once(shard, running, task):
    worker = make_worker()
    later = Worker("cpu")

    @later.component
    async def treble(input):
        return input * 3

    async with running(worker):
        await shard.until(lambda: shard.hellos)
        heard = asyncio.get_running_loop().time()
        worker.replace(later)
        worker.announce()
        await shard.until(lambda: [component.path for component in shard.hellos[-1].components] == ["/treble"])
        assert asyncio.get_running_loop().time() - heard < 1.0, "an ordinary hello comes after 5 s"
        await shard.send(task("/treble", 2))
        (result,) = await shard.until_results(1)
        await shard.send(task("/double", 2, step=1))
        gone = (await shard.until_results(2))[1]
    assert result.output == b"6"
    assert gone.failure.code == ErrorCode.COMPONENT_NOT_FOUND


async def test_the_lifespan_is_around_the_run(shard, running, task):
    told = []

    class Lived(Worker):
        @asynccontextmanager
        async def lifespan(self):
            told.append("begins")
            yield
            told.append("ends")

    worker = Lived("cpu")

    @worker.component
    async def tell(input):
        told.append(input)

    async with running(worker):
        await shard.send(task("/tell", "works"))
        await shard.until_results(1)
    assert told == ["begins", "works", "ends"]


@pytest.mark.parametrize(("limit", "schemas"), [(100_000, True), (5_000, False)])
async def test_a_hello_that_is_too_large_goes_without_schemas(shard, running, bus, limit, schemas, caplog):
    worker = Worker("cpu")

    @worker.component(description="d" * 10_000)
    async def wordy(n: int) -> int:
        return n

    bus.max_message_bytes = limit
    async with running(worker):
        await shard.until(lambda: bool(shard.hellos))
    (component,) = shard.hellos[0].components
    assert component.path == "/wordy"
    assert (component.input_schema is not None) is schemas
    assert ("left out" in caplog.text) is not schemas


async def test_a_message_that_cannot_be_parked_comes_again(shard, task, bus):
    broker = _Flaky(bus, Namespace("default"))
    await broker.connect()
    broker.parking_fails = 1
    worker = make_worker()
    job = asyncio.create_task(worker.run(broker))
    await shard.broker.publish_tasks("cpu", b"nonsense", "bad")
    await asyncio.wait_for(broker.parks.wait(), 60)
    worker.stop()
    await job
    assert len(await shard.broker.parked()) == 1


async def test_an_empty_frame_is_acknowledged(shard, running, task):
    async with running(make_worker()):
        await shard.send()
        await shard.send(task("/double", 1))
        await shard.until_results(1)
    assert await shard.frames_left() == 0


async def test_results_wait_for_a_broker_that_is_away(shard, task, bus):
    broker = _Flaky(bus, Namespace("default"))
    await broker.connect()
    worker = make_worker()
    job = asyncio.create_task(worker.run(broker))
    broker.failing = 5
    await shard.send(task("/double", 3))
    (result,) = await shard.until_results(1)
    worker.stop()
    await job
    assert result.output == b"6"
    assert broker.failing == 0
    assert len({*broker.ids}) == 1, "a repeated post keeps its message id"
    assert await shard.frames_left() == 0


async def test_posts_are_split_below_the_brokers_limit(task, another_shard, running, shard, bus, broker):
    bus.max_message_bytes = 100_000
    async with running(make_worker()):
        await shard.send(*[task("/double", "x" * 8000, step=n) for n in range(10)])
        await shard.until_results(10)
    assert len(shard.posts) > 1
    assert all(len(codec.encode(post)) <= 100_000 for post in shard.posts)


async def test_one_worker_serves_many_partitions(shard, another_shard, running, task):
    second = await another_shard(5)
    async with running(make_worker()):
        await shard.send(task("/double", 1))
        await second.send(task("/double", 2))
        (a,) = await shard.until_results(1)
        (b,) = await second.until_results(1)
    assert (a.output, b.output) == (b"2", b"4")


async def test_a_worker_runs_once_at_a_time(shard, running, broker):
    worker = make_worker()
    async with running(worker):
        await shard.until(lambda: bool(shard.hellos))
        with pytest.raises(StepmeshError) as caught:
            await worker.run(broker)
    assert caught.value.code == "SM-6105"


@pytest.mark.parametrize("concurrency", [0, -1])
def test_concurrency_below_one_is_refused(concurrency):
    with pytest.raises(StepmeshError) as caught:
        Worker("cpu", concurrency=concurrency)
    assert caught.value.code == "SM-6104"


@pytest.mark.parametrize("name", ["", "a b", "a.b", "x" * 65])
def test_pool_names_are_checked(name):
    with pytest.raises(StepmeshError) as caught:
        Worker(name)
    assert caught.value.code == "SM-3004"


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [(None, None, "default"), (None, "gpu", "gpu"), ("cpu", "gpu", "cpu")],
)
def test_pool_and_namespace_come_from_the_call_then_the_environment(monkeypatch, given, environment, expected):
    for name in ("STEPMESH_POOL", "STEPMESH_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
        if environment is not None:
            monkeypatch.setenv(name, environment)
    worker = Worker(given, namespace=given)
    assert (worker.pool, worker.namespace) == (expected, expected)


async def test_an_instrument_sees_start_and_finish(shard, running, task):
    seen = []

    class Probe:
        def start(self, context):
            seen.append(("start", context.step_id))
            context.traceparent = "changed"
            return context.step_id

        def finish(self, token, result):
            seen.append(("finish", token, result.output))

    worker = make_worker(instrument=Probe())
    async with running(worker):
        await shard.send(task("/double", 2, step=1), task("/slow", 1.0, step=2))
        await shard.until_results(2)
    assert seen == [("start", "s1"), ("finish", "s1", b"4"), ("start", "s2"), ("finish", "s2", b'"s2"')]


class _Flaky(MemoryBroker):
    """Refuses the next `failing` posts."""

    def __init__(self, bus: MemoryBus, namespace: Namespace) -> None:
        super().__init__(bus, namespace)
        self.failing = 0
        self.parking_fails = 0
        self.parks = asyncio.Event()
        self.ids: list[str] = []

    async def post(self, partition, data, message_id=""):
        self.ids.append(message_id)
        if self.failing:
            self.failing -= 1
            raise BrokerUnavailable("away")
        return await super().post(partition, data, message_id)

    async def park(self, pool, data, reason):
        if self.parking_fails:
            self.parking_fails -= 1
            raise BrokerUnavailable("away")
        position = await super().park(pool, data, reason)
        self.parks.set()
        return position
