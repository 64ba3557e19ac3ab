"""The outbox: in order, never past what is not published, patient with a broker that is away, clear about what can never be sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests.simulation.virtual_loop import LoopTimeClock
from tests.unit.orchestrator.runtime.lab import W1, Lab, frame_of, ref, until, virtual

from stepmesh_broker.errors import BrokerUnavailable, MessageTooLarge, StepmeshError
from stepmesh_broker.memory import MemoryBus
from stepmesh_broker.protocol.codec import decode_task_frame
from stepmesh_broker.protocol.functions import FunctionTurn, FunctionTurns
from stepmesh_broker.protocol.histories import Began, Issued, Kind
from stepmesh_broker.protocol.ids import Namespace, Partition, Pool, Position, RunId
from stepmesh_broker.protocol.messages import FORMAT, Task, TaskFrame
from stepmesh_orchestrator.core.flow.routing import Route, Router
from stepmesh_orchestrator.runtime.leases import Flight
from stepmesh_orchestrator.runtime.outbox import Departure, Outbox


class Sink:
    """A broker that takes frames, and fails as told: by message id, each failure once."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.claimed: dict[str, bool] = {}
        self.troubles: dict[str, list[Exception]] = {}
        self.gate = asyncio.Event()
        self.gate.set()

    async def publish_tasks(self, pool: Pool, data: bytes, message_id: str) -> Position:
        await self.gate.wait()
        if self.troubles.get(message_id):
            raise self.troubles[message_id].pop(0)
        self.taken.append(message_id)
        self.claimed[message_id] = all(task.claim_first for task in decode_task_frame(data).tasks)
        return Position(len(self.taken))


def departure(sequence: int, name: str) -> Departure:
    frame = TaskFrame(FORMAT, Namespace("default"), Pool("p"), Partition(0), 1, "j", [Task(RunId("r"), 0, 0, 1, 1, "a", "/c", b"1")])
    return Departure(sequence, frame, name, Flight("p", None, [(RunId("r"), 0, 0)]), asyncio.get_running_loop().time())


class Bench:
    """An outbox at work over a `Sink`. `refused`: what it said can never be sent."""

    def __init__(self, confirmed: int = 0, instead: Callable[[Departure], list[Departure]] = lambda _: []) -> None:
        self.sink = Sink()
        self.refused: list[tuple[str, StepmeshError]] = []
        self._instead = instead
        self.outbox = Outbox(self.sink, confirmed, self._refuse, LoopTimeClock())  # type: ignore[arg-type]  # only what an outbox uses
        self.running = asyncio.create_task(self.outbox.run())

    def _refuse(self, gone: Departure, problem: StepmeshError) -> list[Departure]:
        self.refused.append((gone.message_id, problem))
        return self._instead(gone)


@virtual
async def test_frames_leave_in_the_order_of_their_turns_with_their_positions() -> None:
    bench = Bench()
    sent = [departure(1, "a"), departure(1, "b"), departure(2, "c")]
    bench.outbox.put(1, sent[:2])
    bench.outbox.put(2, sent[2:])
    await bench.outbox.drained()
    assert bench.sink.taken == ["a", "b", "c"]
    assert [one.flight.position for one in sent] == [1, 2, 3]
    assert (bench.outbox.confirmed, bench.outbox.published, len(bench.outbox)) == (2, 3, 0)


@virtual
@pytest.mark.parametrize(("waits", "late"), [(0, False), (4, False), (5, True)])
async def test_what_leaves_late_is_claimed_before_it_is_begun(waits: int, late: bool) -> None:
    """This process may have stood still, while the partition's next owner sent the same tasks."""
    bench = Bench()
    bench.sink.troubles["a"] = [BrokerUnavailable("away") for _ in range(waits)]  # a quarter of a second each
    bench.outbox.put(1, [departure(1, "a")])
    await bench.outbox.drained()
    assert bench.sink.claimed == {"a": late}


@virtual
async def test_a_turn_without_tasks_is_confirmed_when_nothing_waits_before_it() -> None:
    bench = Bench(confirmed=4)
    assert bench.outbox.confirmed == 4
    bench.outbox.put(5, [])
    assert bench.outbox.confirmed == 5
    bench.sink.gate.clear()
    bench.outbox.put(6, [departure(6, "a")])
    bench.outbox.put(7, [])
    await asyncio.sleep(1)
    assert bench.outbox.confirmed == 5
    bench.sink.gate.set()
    await bench.outbox.drained()
    assert bench.outbox.confirmed == 7


@virtual
async def test_confirmed_never_passes_a_frame_that_is_not_published() -> None:
    bench = Bench()
    bench.sink.troubles["b"] = [BrokerUnavailable("away")] * 8
    bench.outbox.put(1, [departure(1, "a")])
    bench.outbox.put(2, [departure(2, "b")])
    bench.outbox.put(3, [departure(3, "c")])
    await until(lambda: bench.sink.taken == ["a", "c"])
    assert bench.outbox.confirmed < 2
    await bench.outbox.drained()
    assert bench.sink.taken == ["a", "c", "b"]
    assert bench.outbox.confirmed == 3
    assert bench.refused == []


@virtual
async def test_what_comes_while_the_broker_is_away_waits_its_turn() -> None:
    bench = Bench()
    bench.sink.troubles["a"] = [BrokerUnavailable("away")] * 3
    bench.outbox.put(1, [departure(1, "a")])
    await asyncio.sleep(0.1)
    bench.outbox.put(2, [departure(2, "b")])
    await bench.outbox.drained()
    assert bench.sink.taken == ["a", "b"]


@virtual
async def test_room_comes_back_as_frames_leave() -> None:
    bench = Bench()
    bench.sink.gate.clear()
    bench.outbox.put(1, [departure(1, str(number)) for number in range(300)])
    below = asyncio.create_task(bench.outbox.below(300))
    await asyncio.sleep(1)
    assert not below.done()
    await asyncio.wait_for(bench.outbox.below(301), 1)
    bench.sink.gate.set()
    await below
    assert len(bench.outbox) < 300


@virtual
async def test_what_can_never_be_sent_is_said_and_lets_the_rest_pass() -> None:
    bench = Bench()
    bench.sink.troubles["a"] = [MessageTooLarge.of(9, 8)]
    bench.outbox.put(1, [departure(1, "a"), departure(1, "b")])
    await bench.outbox.drained()
    assert [(name, problem.code) for name, problem in bench.refused] == [("a", "SM-3002")]
    assert (bench.sink.taken, bench.outbox.confirmed) == (["b"], 1)


@virtual
async def test_what_is_given_instead_is_published_before_the_turn_is_confirmed() -> None:
    bench = Bench(instead=lambda gone: [departure(gone.sequence, gone.message_id + "/1"), departure(gone.sequence, gone.message_id + "/2")])
    bench.sink.troubles = {"a": [MessageTooLarge.of(9, 8)], "a/2": [BrokerUnavailable("away")]}
    bench.outbox.put(1, [departure(1, "a")])
    await bench.outbox.drained()
    assert bench.sink.taken == ["a/1", "a/2"]
    assert bench.outbox.confirmed == 1


@virtual
async def test_a_defect_ends_the_outbox_and_is_not_hidden() -> None:
    bench = Bench()
    bench.sink.troubles["a"] = [ZeroDivisionError()]
    bench.outbox.put(1, [departure(1, "a")])
    with pytest.raises(ZeroDivisionError):
        await bench.running


# --- the whole way: a step whose task the broker does not take ---

LIMIT = 20_000
BIG = {"name": "big", "steps": [{"id": "a", "component": "/py/work", "input": {"$input": "$"}}], "output": {"$step": "a"}}


@virtual
async def test_a_task_under_the_brokers_limit_is_sent_and_one_over_it_fails_its_step() -> None:
    lab = await Lab(bus=MemoryBus(max_message_bytes=LIMIT)).start()
    small = await lab.submit(BIG, "x" * (LIMIT - 1_000))
    (task,) = await lab.take()
    await lab.finish(task, output=1)
    assert (await lab.result(small))["outcome"] == "success"

    composed = {**BIG, "steps": [{"id": "a", "component": "/py/work", "input": [{"$input": "$"}, {"$input": "$"}]}]}
    large = await lab.submit(composed, "x" * (LIMIT // 2))
    error = (await lab.result(large))["error"]
    assert error["code"] == "INVALID_INPUT"
    assert str(LIMIT) in error["message"]
    assert "'a'" in error["message"]
    assert "blobs" in error["message"]
    assert lab.shard.dispatcher.leases.flights == {}
    await asyncio.sleep(60)
    assert lab.shard.dispatcher.leases.by_pool == {}
    assert lab.sweeper.redispatched == 0, "it is not sent again for ever"
    await lab.stop()


@virtual
async def test_a_default_stands_in_for_an_input_that_is_too_large() -> None:
    lab = await Lab(bus=MemoryBus(max_message_bytes=LIMIT)).start()
    step = {"id": "a", "component": "/py/work", "input": [{"$input": "$"}, {"$input": "$"}]}
    run = await lab.submit({**BIG, "steps": [{**step, "onError": {"action": "useDefault", "defaultValue": "small"}}]}, "x" * (LIMIT // 2))
    assert (await lab.result(run))["result"] == "small"
    await lab.stop()


@virtual
async def test_a_frame_that_is_too_large_as_a_whole_is_cut() -> None:
    lab = await Lab(bus=MemoryBus(max_message_bytes=LIMIT)).start()
    for _ in range(200):
        lab.shard.dispatcher._pace("py").observe(1)  # type: ignore[reportPrivateUsage]  # a fast pool gets large frames
    map_flow = {
        "name": "many",
        "steps": [
            {
                "id": "m",
                "component": "/builtin/map",
                "input": {"items": [{"$input": "$"}] * 7, "workflow": {"$literal": BIG}},
            }
        ],
        "output": {"$step": "m", "path": "successful"},
    }
    run = await lab.submit(map_flow, "x" * (LIMIT // 4), max_concurrency=0)
    taken: list[Task] = []
    frames = 0
    while len(taken) < 7:
        for delivery in await lab.frames():
            frames += 1
            taken.extend(frame_of(delivery).tasks)
            await delivery.ack()
    assert frames > 1
    assert len({(task.run, task.item) for task in taken}) == 7, "each task came once"
    await lab.finish(*taken, output="y")
    assert (await lab.result(run))["outcome"] == "success"
    await lab.stop()


@virtual
async def test_a_pool_whose_name_the_broker_refuses_fails_its_steps_and_no_others() -> None:
    lab = Lab()
    lab.router = Router({}, lambda component: Route("p", "not a name!" if "odd" in component else "py", component))
    await lab.start()
    odd = await lab.submit({**BIG, "steps": [{"id": "a", "component": "/odd", "input": 1}]})
    good = await lab.submit(BIG, 1)
    error = (await lab.result(odd))["error"]
    assert error["code"] == "ORCHESTRATOR_ERROR"
    assert "SM-3004" in error["message"]
    (task,) = await lab.take()
    assert task.run == good
    await asyncio.sleep(10)
    assert list(lab.shard.dispatcher.leases.by_pool) == ["py"]
    await lab.finish(task)
    await lab.ended(good)
    await lab.stop()


@virtual
async def test_an_oversize_task_fails_also_when_the_orchestrator_dies_before_its_failure_is_journaled() -> None:
    lab = await Lab(bus=MemoryBus(max_message_bytes=10_000_000)).start()
    run = await lab.submit(BIG, "x" * LIMIT)
    await lab.take()  # lost with its worker
    await lab.node.abort()
    lab.bus.max_message_bytes = LIMIT
    await lab.start()
    error = (await lab.result(run))["error"]
    assert error["code"] == "INVALID_INPUT"
    await lab.stop()


@virtual
async def test_news_that_do_not_fit_beside_the_input_are_asked_for_instead() -> None:
    lab = await Lab(bus=MemoryBus(max_message_bytes=LIMIT)).start()
    run = await lab.submit(BIG, "x" * (LIMIT // 2))
    (task,) = await lab.take()
    asked = Issued("r/call", Kind.CALL, "/py/none", "", b"null", "orders.py:7")
    first = FunctionTurn(ref(task), 1, 1, 0, [Began(0), asked], idle=True)
    answer = await lab.control(FunctionTurns(W1, [first]))
    assert [one.left for one in answer.answers] == [True]
    news: list[Task] = []
    while not (again := [one for one in news if one.attempt == 2 and one.run == run]):
        news += await lab.take()
        await lab.finish(*(one for one in news if one.run != run), output="y" * (LIMIT // 2 + 2_000))
    assert (again[0].news, again[0].seen, again[0].records) == (b"", 2, 3)
    await lab.finish(again[0], output="done")
    assert (await lab.result(run))["outcome"] == "success"
    await lab.stop()
