"""What is asked of a partition while it is handed over: the answer comes soon, and is its next owner's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from tests.simulation.cluster_world import ClusterWorld
from tests.simulation.deployment_world import until
from tests.simulation.losses import LosingBroker, Plan
from tests.simulation.test_cluster import QUICK
from tests.simulation.virtual_loop import run_virtual

from stepmesh.runs import RunHandle
from stepmesh.uuid7 import new_run_id_on
from stepmesh_broker.ports import Broker
from stepmesh_broker.protocol import subjects
from stepmesh_broker.protocol.api import GetItems, GetRun, GetSteps
from stepmesh_broker.protocol.codec import decode_api_answer, decode_task_frame, encode
from stepmesh_broker.protocol.ids import Namespace, Partition, Pool, Position
from stepmesh_broker.protocol.messages import Cancel, Refused, Submit
from stepmesh_orchestrator.node import Node
from stepmesh_orchestrator.ports import Frame, ItemRow, RunGone, RunRow
from stepmesh_orchestrator.store.memory import MemoryStore

LIMIT_S = 1_000.0
NAMESPACE = Namespace("default")
SLOW = {"name": "slow", "steps": [{"id": "a", "component": "/cpu/slow", "input": {"$input": "$"}}], "output": {"$step": "a"}}
NAP = {
    "name": "nap",
    "steps": [{"id": "nap", "component": "/builtin/sleep", "input": {"duration": "3600s", "passthrough": {"$input": "$"}}}],
    "output": {"$step": "nap"},
}


class SlowStore(MemoryStore):
    """Writes no rows while the gate is shut."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()

    async def project(
        self, partition: Partition, sequence: int, runs: Sequence[RunRow], items: Sequence[ItemRow], gone: Sequence[RunGone] = ()
    ) -> None:
        await self.gate.wait()
        await super().project(partition, sequence, runs, items, gone)


async def owner_and_heir(world: ClusterWorld) -> tuple[Node, Node]:
    """Of the only partition."""
    nodes = [await world.join() for _ in range(2)]
    await world.settled()
    return (nodes[0], nodes[1]) if nodes[0].partitions else (nodes[1], nodes[0])


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize("ask", [lambda run: GetRun(run, 20_000), GetItems, GetSteps], ids=["wait", "items", "steps"])
def test_a_run_that_was_accepted_is_known_while_its_partition_is_handed_over(ask: Callable[[Any], Any]) -> None:
    """Its row is not in the store yet, and its owner has let go of it."""

    async def play() -> None:
        world = ClusterWorld(1)
        store = world.store = SlowStore()
        owner, _ = await owner_and_heir(world)
        client = await world.client()
        flow = await client.store_flow(QUICK)
        await client.list_runs()
        store.gate.clear()
        handle = await client.submit(flow, [{"n": 1}])
        door = subjects.owner(NAMESPACE, Partition(0))
        asked = asyncio.create_task((await world.connection()).request(door, encode(ask(handle.id)), 60.0))
        await asyncio.sleep(0.01)
        leaving = asyncio.create_task(world.leave(owner))
        answer = decode_api_answer(await asked)
        assert isinstance(answer, Refused)
        assert answer.code == "SM-5110"
        store.gate.set()
        await leaving
        await world.start_worker()
        assert (await handle.wait(timeout=60)).summary.status == "completed"
        await world.close()
        await world.audit()

    run_virtual(play(), LIMIT_S)


def test_who_waits_at_an_orchestrator_that_stops_is_told_at_once() -> None:
    """The process ends soon, and with it all that it had still to say."""

    async def play() -> None:
        world = ClusterWorld(1)
        owner, _ = await owner_and_heir(world)
        client = await world.client()
        handle = await client.submit(await client.store_flow(QUICK), [{"n": 1}])
        asked = asyncio.create_task(owner.api.serve(encode(GetRun(handle.id, 20_000))))
        await asyncio.sleep(1.0)
        began = now()
        await world.leave(owner)
        answer = decode_api_answer(await asked)
        assert isinstance(answer, Refused)
        assert answer.code == "SM-5110"
        assert now() - began < 0.1
        await world.start_worker()
        assert (await handle.wait(timeout=60)).summary.status == "completed"
        await world.close()

    run_virtual(play(), LIMIT_S)


def test_a_cancel_that_wakes_a_dormant_run_is_not_lost_in_a_hand_over() -> None:
    """Its image is being read while the partition goes: nobody would ever decide on it."""

    async def play() -> None:
        world = ClusterWorld(1)
        owner, _ = await owner_and_heir(world)
        client = await world.client()
        handle = await client.submit(await client.store_flow(NAP), [1])
        await until(lambda: owner.partitions[Partition(0)].shard.session.state.dormant.places)
        reading, go_on, read = asyncio.Event(), asyncio.Event(), world.journal.read

        async def slowly(partition: Partition, after: int = 0) -> AsyncIterator[Frame]:
            reading.set()
            await go_on.wait()
            async for frame in read(partition, after):
                yield frame

        world.journal.read = slowly  # type: ignore[method-assign]
        cancelling = asyncio.create_task(client.requests.tell(Partition(0), Cancel(handle.id, "enough")))
        await reading.wait()
        world.journal.read = read  # type: ignore[method-assign]
        began = now()
        await world.leave(owner)
        go_on.set()
        await cancelling
        assert now() - began < 1.0
        assert (await handle.wait(timeout=60)).summary.status == "cancelled"
        await world.close()
        await world.audit()

    run_virtual(play(), LIMIT_S)


class Lanes:
    """A steady load over connections that take their time; the slowest run is remembered."""

    def __init__(self, world: ClusterWorld) -> None:
        self.world = world
        self.slowest_s = 0.0
        self.runs = 0
        self._stopping = False

    def start(self, lanes: int = 12) -> None:
        self._lanes = [asyncio.create_task(self._lane()) for _ in range(lanes)]

    async def ended(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._lanes)

    async def _lane(self) -> None:
        client = await self.world.client()
        flow = await client.store_flow(QUICK)
        while not self._stopping:
            self.runs += 1
            number, began = self.runs, now()
            handle = await client.submit(flow, [{"n": number}])
            assert not handle.existing, "not even when it was sent twice"
            assert (await handle.wait(timeout=60)).summary.status == "completed"
            assert await self._result(handle) == number
            self.slowest_s = max(self.slowest_s, now() - began)

    async def _result(self, handle: RunHandle) -> Any:
        (result,) = [json.loads(item.result) async for item in handle.items()]
        return result["result"]


async def replaced(plan: Plan, seed: int, *, exclusive: bool = False) -> float:
    """All nodes are replaced under load, and the message that the plan names is lost on the way; the slowest run, in seconds."""

    def wrap(broker: Broker) -> Broker:
        losing: Any = LosingBroker(broker, plan, seed)
        return losing  # type: ignore[no-any-return]

    world = ClusterWorld(8, wrap)
    for _ in range(3):
        await world.join()
    for _ in range(2):
        await world.start_worker(exclusive=exclusive)
    await world.settled()
    load = Lanes(world)
    load.start()
    await asyncio.sleep(0.3)
    plan.armed = True
    for node in list(world.nodes):
        await world.leave(node)
        await world.join()
        await world.settled()
    await load.ended()
    assert load.runs > 50
    await world.close()
    await world.audit()
    return load.slowest_s


def test_without_a_loss_a_replacement_of_all_nodes_holds_up_no_run() -> None:
    for seed in range(3):
        assert run_virtual(replaced(Plan(), seed), LIMIT_S) < 0.5


LOST = {
    "question Submit": 3.5,
    "answer Submit": 3.5,
    "question owner": 2.0,
    "answer owner": 2.0,
    "question api": 2.0,
    "answer api": 2.0,
    "send moves": 1.5,
    "ack": 1.5,
    "frame": 5.0,  # found by the sweeper
    "delivery": 6.5,  # the broker's ack wait is 6 s
}
"""What one lost message may cost the run that it hits, at most, in seconds."""


@pytest.mark.parametrize("kind", LOST)
def test_no_single_lost_message_holds_a_run_up_for_long(kind: str) -> None:
    for first in (0, 7):
        plan = Plan(kind, first)
        assert run_virtual(replaced(plan, first), LIMIT_S) < LOST[kind]
        assert plan.lost == 1


@pytest.mark.parametrize("kind", ["question Claim", "answer Claim"])
def test_a_lost_claim_does_not_either(kind: str) -> None:
    """After a recovery, who does not run a task waits 3 s for a sign of who may; a claim is given up after 2 s."""
    for first in (0, 7):
        plan = Plan(kind, first)
        assert run_virtual(replaced(plan, first, exclusive=True), LIMIT_S) < 6.0
        assert plan.lost == 1


class Forgetful:
    """The broker takes the first frame of one partition and forgets it."""

    def __init__(self, inner: Broker, partition: Partition, forgotten: list[Position]) -> None:
        self._inner = inner
        self._partition = partition
        self._forgotten = forgotten

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def publish_tasks(self, pool: Pool, data: bytes, message_id: str) -> Position:
        if self._forgotten or decode_task_frame(data).partition != self._partition:
            return await self._inner.publish_tasks(pool, data, message_id)
        self._forgotten.append(await self._inner.publish_tasks(Pool("nowhere"), data, message_id))
        return self._forgotten[0]


def test_a_task_that_was_lost_before_a_hand_over_is_found_soon_though_its_pool_is_busy_with_others() -> None:
    """Its next owner publishes nothing else, and cannot tell from the pool's traffic that the broker is done with the task."""

    async def play() -> None:
        quiet, busy = Partition(0), Partition(1)
        forgotten: list[Position] = []

        def wrap(broker: Broker) -> Broker:
            forgetful: Any = Forgetful(broker, quiet, forgotten)
            return forgetful  # type: ignore[no-any-return]

        world = ClusterWorld(2, wrap)
        nodes = [await world.join() for _ in range(2)]
        await world.settled()
        await world.start_worker()
        client = await world.client()
        flow = await client.store_flow(SLOW)

        async def submitted(partition: Partition) -> RunHandle:
            submit = Submit(new_run_id_on(partition, 2), NAMESPACE, flow, [b"1"])
            return client.handle((await client.requests.tell(partition, submit)).run)

        async def always() -> None:
            while not lost_is_over.done():
                await (await submitted(busy)).wait()

        lost = await submitted(quiet)
        lost_is_over = asyncio.create_task(lost.wait(timeout=100))
        others = [asyncio.create_task(always()) for _ in range(3)]
        await until(lambda: forgotten)
        began = now()
        await world.leave(next(node for node in nodes if quiet in node.partitions))
        await lost_is_over
        assert now() - began < 15.0
        await asyncio.gather(*others)
        await world.close()
        await world.audit()

    run_virtual(play(), LIMIT_S)
