"""A producer over the in-process broker: what is under way is bounded, batches are cut, refusals lose nothing else."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from stepmesh import Client, ProducerLimits, RequestRefused, SubmissionsRefused
from stepmesh.cutting import PER_INPUT, parts
from stepmesh.errors import BrokerUnavailable, MessageTooLarge
from stepmesh.headroom import NOTHING, Headroom, Load
from stepmesh.payloads import NotJson
from stepmesh.producer import MAX_REFUSED, ProducerMisused
from stepmesh_broker.protocol import api as messages
from stepmesh_broker.protocol import codec
from stepmesh_broker.protocol.ids import FlowId, Namespace, RunId, partition_of
from stepmesh_broker.protocol.messages import Accepted, Refused

FLOW = FlowId("a" * 64)
PARTITIONS = 2


@pytest.fixture
async def client(broker, api):
    api.answers[messages.GetInfo] = lambda request: messages.Info("1", Namespace("default"), PARTITIONS, "fsync", "sqlite", {})
    return Client(broker)


class Engine:
    """Both shards: journals what it is told while it is `open`, once per run id and run key; refuses what has the input "bad"."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.waiting = self.most = self.asked = 0
        self.runs: dict[RunId, list[object]] = {}
        self.keys: dict[str, RunId] = {}

    async def answer(self, data: bytes) -> bytes:
        submit = codec.decode_control(data)
        self.asked += 1
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        await self.open.wait()
        self.waiting -= 1
        if b'"bad"' in submit.inputs:
            return codec.encode(Refused("SM-5001", "INVALID_INPUT"))
        if submit.run in self.runs or submit.run_key in self.keys:
            return codec.encode(Accepted(self.keys.get(submit.run_key, submit.run), existing=True))
        self.runs[submit.run] = [msgspec.json.decode(one) for one in submit.inputs]
        if submit.run_key is not None:
            assert partition_of(submit.run, PARTITIONS) == partition_of(submit.run_key, PARTITIONS)
            self.keys[submit.run_key] = submit.run
        return codec.encode(Accepted(submit.run))

    def by_key(self) -> dict[str, list[object]]:
        return {key: self.runs[run] for key, run in self.keys.items()}


@pytest.fixture
async def engine(shard, another_shard):
    one = Engine()
    for side in (shard, await another_shard(1)):
        side._answer = one.answer
        await side.be_away()
        await side.answer_control()
    return one


async def settled() -> None:
    """What can go on without anything else has done so."""
    await asyncio.sleep(0.5)


async def cut(inputs, max_items: int, max_bytes: int) -> list[list[bytes]]:
    found = [part async for part in parts(inputs, max_items, max_bytes)]
    assert [part.number for part in found] == list(range(len(found)))
    assert [part.whole for part in found] == [len(found) == 1] * len(found)
    assert [part.first for part in found] == [sum(len(one.inputs) for one in found[:number]) for number in range(len(found))]
    return [part.inputs for part in found]


async def test_a_batch_is_cut_by_items_and_by_bytes() -> None:
    assert await cut([1, 2, 3], 3, 1000) == [[b"1", b"2", b"3"]]
    assert await cut([1, 2, 3, 4], 3, 1000) == [[b"1", b"2", b"3"], [b"4"]]
    fits = 2 * (PER_INPUT + 1)
    assert await cut([1, 2], 9, fits) == [[b"1", b"2"]]
    assert await cut([1, 2], 9, fits - 1) == [[b"1"], [b"2"]]
    assert await cut([1, "x" * 100, 2], 9, fits) == [[b"1"], [b'"%s"' % (b"x" * 100)], [b"2"]]
    assert await cut([], 9, fits) == [[]]


async def test_more_waits_than_fits_and_one_that_is_too_large_goes_alone() -> None:
    room = Headroom(Load(3, 10, 100))
    await room.take(Load(1, 4, 10))
    await room.take(Load(1, 6, 10))
    large = asyncio.create_task(room.take(Load(1, 1, 1000)))
    small = asyncio.create_task(room.take(Load(1, 0, 1)))
    await asyncio.sleep(0)
    room.give_back(Load(1, 4, 10))
    await asyncio.sleep(0)
    assert not large.done()
    assert not small.done(), "it does not overtake"
    room.give_back(Load(1, 6, 10))
    await large
    assert not small.done()
    room.give_back(Load(1, 1, 1000))
    await small
    room.give_back(Load(1, 0, 1))
    assert room.taken == NOTHING


async def test_one_that_waits_no_more_leaves_its_room_to_others() -> None:
    room = Headroom(Load(1, 10, 100))
    await room.take(Load(1, 1, 1))
    given_up, next_one = (asyncio.create_task(room.take(Load(1, 1, 1))) for _ in range(2))
    await asyncio.sleep(0)
    given_up.cancel()
    room.give_back(Load(1, 1, 1))
    await next_one
    late = asyncio.create_task(room.take(Load(1, 1, 1)))
    await asyncio.sleep(0)
    room.give_back(Load(1, 1, 1))  # it is the turn of `late`, which is told to end before it runs
    late.cancel()
    await asyncio.gather(late, return_exceptions=True)
    assert room.taken == NOTHING


@pytest.mark.parametrize(
    ("limits", "inputs"),
    [
        (ProducerLimits(runs_under_way=3), [1]),
        (ProducerLimits(inputs_under_way=6), [1, 2]),
        (ProducerLimits(bytes_under_way=3 * (PER_INPUT + 1)), [1]),
    ],
)
async def test_submit_waits_when_too_much_is_not_acknowledged(client, engine, limits, inputs) -> None:
    engine.open.clear()
    async with client.producer(FLOW, limits=limits) as producer:
        for _ in range(3):
            await producer.submit(inputs)
        fourth = asyncio.create_task(producer.submit(inputs))
        await settled()
        assert not fourth.done()
        assert producer.under_way.runs == engine.most == 3
        engine.open.set()
        await fourth
    assert len(engine.runs) == 4
    assert engine.most == 3
    assert producer.under_way == NOTHING


async def test_a_source_is_read_no_further_than_there_is_room(client, engine) -> None:
    read = 0

    async def source():
        nonlocal read
        while read < 100:
            read += 1
            yield read

    engine.open.clear()
    async with client.producer(FLOW, limits=ProducerLimits(items_per_run=2, inputs_under_way=6)) as producer:
        submitting = asyncio.create_task(producer.submit(source(), key="k"))
        await settled()
        assert read == 6 + 2 + 1, "under way, the part that waits, and the input by which it is known to be over"
        engine.open.set()
        await submitting
    assert sorted(engine.by_key()) == sorted(f"k/{number}" for number in range(50))


async def test_a_batch_is_one_run_or_several_with_keys_of_their_own(client, engine) -> None:
    async def source():
        for number in range(7):
            yield number

    async with client.producer(FLOW, limits=ProducerLimits(items_per_run=3)) as producer:
        small = await producer.submit([1, 2, 3], key="small")
        large = await producer.submit(source(), key="large")
        assert [run.existing for run in await small] == [False]
        assert len(await large) == 3
    assert engine.by_key() == {"small": [1, 2, 3], "large/0": [0, 1, 2], "large/1": [3, 4, 5], "large/2": [6]}


async def test_options_are_those_of_every_run(client, shard, another_shard) -> None:
    await another_shard(1)
    limits = ProducerLimits(items_per_run=1)
    options = {"variables": {"v": 1}, "tags": {"team": "x"}, "priority": 7, "tenant": "acme", "max_concurrency": 2}
    async with client.producer(FLOW, limits=limits, **options) as producer:
        await producer.submit(["a"], key=next(f"k{n}" for n in range(9) if partition_of(f"k{n}", PARTITIONS) == 0))
    (submit,) = shard.submits
    assert (submit.flow, submit.variables, submit.tags, submit.priority) == (FLOW, b'{"v":1}', {"team": "x"}, 7)
    assert (submit.namespace, submit.max_concurrency) == ("acme", 2)


async def test_submitted_again_with_the_same_keys_is_the_same_runs(client, engine, api, info) -> None:
    api.answers[messages.GetRun] = lambda request: info(request.run, results=[{"outcome": "success"}] * len(engine.runs[request.run]))
    for number in range(2):
        async with client.producer(FLOW, limits=ProducerLimits(items_per_run=2)) as producer:
            one = await (await producer.submit([9], key="one"))
            three = await (await producer.submit([1, 2, 3], key="three"))
        assert [run.existing for run in (*one, *three)] == [bool(number)] * 3
    assert sorted(engine.by_key()) == ["one", "three/0", "three/1"]


async def test_a_batch_that_was_cut_in_another_way_is_refused(client, engine, api, info) -> None:
    api.answers[messages.GetRun] = lambda request: info(request.run, results=[{"outcome": "success"}] * len(engine.runs[request.run]))
    async with client.producer(FLOW, limits=ProducerLimits(items_per_run=2)) as producer:
        await producer.submit([1, 2, 3], key="k")
    with pytest.raises(SubmissionsRefused) as refused:
        async with client.producer(FLOW, limits=ProducerLimits(items_per_run=1)) as producer:
            await producer.submit([1, 2, 3], key="k")
    assert [(one.key, one.problem.code) for one in refused.value.refused] == [("k/0", "SM-6122")]


async def test_what_is_refused_loses_nothing_else_and_flush_tells_it(client, engine) -> None:
    async with client.producer(FLOW, limits=ProducerLimits(items_per_run=2)) as producer:
        for number in range(5):
            await producer.submit([number, "bad" if number == 3 else "good", number], key=f"k{number}")
        with pytest.raises(SubmissionsRefused) as refused:
            await producer.flush()
        await producer.flush()
    (one,) = refused.value.refused
    assert isinstance(one.problem, RequestRefused)
    assert (one.key, one.first, one.count, one.problem.code) == ("k3/0", 0, 2, "SM-5001")
    assert len(engine.runs) == 9
    assert "k3/1" in engine.keys


async def test_a_refusal_that_its_batch_told_is_not_told_again(client, engine) -> None:
    async with client.producer(FLOW) as producer:
        batch = await producer.submit(["bad"])
        with pytest.raises(SubmissionsRefused, match="SM-5001"):
            await batch
    with pytest.raises(SubmissionsRefused):
        async with client.producer(FLOW) as producer:
            await producer.submit(["bad"])


async def test_one_refusal_too_many_is_told_by_submit(client, engine) -> None:
    async with client.producer(FLOW, limits=ProducerLimits(runs_under_way=1)) as producer:
        for _ in range(MAX_REFUSED + 1):  # the last one is sent while one less than so many wait
            await producer.submit(["bad"])
        with pytest.raises(SubmissionsRefused) as refused:
            await producer.submit(["good"])
        assert len(refused.value.refused) == MAX_REFUSED
        with pytest.raises(SubmissionsRefused):
            await producer.flush()


async def test_an_orchestrator_that_is_away_is_waited_for_and_every_run_is_one(client, engine, shard) -> None:
    async with client.producer(FLOW) as producer:
        await producer.submit([0], key="before")
        await producer.flush()
        await shard.be_away()
        for number in range(20):
            await producer.submit([number], key=f"k{number}")
        flushing = asyncio.create_task(producer.flush())
        await asyncio.sleep(120)
        assert not flushing.done()
        away = sum(partition_of(f"k{number}", PARTITIONS) == 0 for number in range(20))
        assert producer.under_way.runs == away > 0
        await shard.answer_control()
        await flushing
    assert len(engine.runs) == len(engine.keys) == 21


async def test_an_answer_that_was_lost_is_no_second_run(client, engine) -> None:
    engine.open.clear()
    async with client.producer(FLOW) as producer:
        batch = await producer.submit([1])
        await asyncio.sleep(25)
        assert engine.asked > 1
        engine.open.set()
        (run,) = await batch
    assert not run.existing
    assert list(engine.runs) == [run.id]


async def test_patience_ends_and_the_rest_goes_on(client, engine, shard) -> None:
    await shard.be_away()
    async with client.producer(FLOW, limits=ProducerLimits(patience_s=5)) as producer:
        for number in range(20):
            await producer.submit([number], key=f"k{number}")
        with pytest.raises(SubmissionsRefused) as refused:
            await producer.flush()
    assert all(isinstance(one.problem, BrokerUnavailable) for one in refused.value.refused)
    assert {one.key for one in refused.value.refused} | set(engine.keys) == {f"k{number}" for number in range(20)}
    assert len(refused.value.refused) + len(engine.keys) == 20


async def test_an_input_that_no_message_holds_is_refused_alone(bus, client, engine) -> None:
    async with client.producer(FLOW) as producer:
        batch = await producer.submit([1, "x" * bus.max_message_bytes, 2], key="k")
        with pytest.raises(SubmissionsRefused) as refused:
            await batch
    (one,) = refused.value.refused
    assert isinstance(one.problem, MessageTooLarge)
    assert (one.first, one.count) == (1, 1)
    assert sorted(engine.keys) == ["k/0", "k/2"]


class BrokenInstrument:
    async def submit(self, request, send):
        raise ZeroDivisionError


async def test_a_defect_is_told_like_a_refusal(broker, client) -> None:
    async with Client(broker, instrument=BrokenInstrument()).producer(FLOW) as producer:
        await producer.submit([1])
        with pytest.raises(SubmissionsRefused) as refused:
            await producer.flush()
    assert [type(one.problem) for one in refused.value.refused] == [ZeroDivisionError]


async def test_leaving_by_an_exception_gives_up_what_is_not_acknowledged(client, engine) -> None:
    engine.open.clear()
    producer = client.producer(FLOW)

    async def leave() -> None:
        async with producer:
            await producer.submit([1])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await leave()
    assert producer.under_way == NOTHING
    with pytest.raises(ProducerMisused, match="not open"):
        await producer.submit([1])
    assert producer.under_way == NOTHING


async def test_an_input_that_is_no_json_is_told_at_once(client, engine) -> None:
    async with client.producer(FLOW) as producer:
        with pytest.raises(NotJson):
            await producer.submit([1, float("nan")])
        with pytest.raises(ProducerMisused):
            await producer.submit("text")
    assert engine.runs == {}


@pytest.mark.parametrize("name", ["items_per_run", "bytes_per_run", "runs_under_way", "inputs_under_way", "bytes_under_way", "patience_s"])
def test_limits_are_above_zero(name) -> None:
    assert getattr(ProducerLimits(**{name: 1}), name) == 1
    with pytest.raises(ProducerMisused, match=name):
        ProducerLimits(**{name: 0})
