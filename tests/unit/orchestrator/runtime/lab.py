"""A node over memory backends in virtual time, and a worker's side that tests move by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, TypeVar

from tests.simulation.virtual_loop import LoopTimeClock, run_virtual

from stepmesh_broker.memory import MemoryBroker, MemoryBus
from stepmesh_broker.ports import Delivery, TaskSource
from stepmesh_broker.protocol import api, subjects
from stepmesh_broker.protocol.codec import decode_answer, decode_api_answer, decode_task_frame, encode
from stepmesh_broker.protocol.ids import FlowId, Namespace, Partition, Pool, RunId, WorkerId, partition_of
from stepmesh_broker.protocol.messages import (
    Accepted,
    Claim,
    Claimed,
    Failure,
    Heartbeat,
    Progress,
    Refused,
    Result,
    Results,
    Submit,
    Task,
    TaskFrame,
    TaskRef,
    Verdict,
)
from stepmesh_orchestrator.core.flow.routing import Router
from stepmesh_orchestrator.core.session import EngineSettings
from stepmesh_orchestrator.journal.memory import MemoryJournal
from stepmesh_orchestrator.node import Node, NodeSettings
from stepmesh_orchestrator.ports import Store
from stepmesh_orchestrator.runtime.partition import Ports
from stepmesh_orchestrator.runtime.shard import Shard
from stepmesh_orchestrator.runtime.sweeper import Sweeper
from stepmesh_orchestrator.store.memory import MemoryStore

W1, W2 = WorkerId("w1"), WorkerId("w2")
ONE_STEP: dict[str, Any] = {
    "name": "one",
    "steps": [{"id": "a", "component": "/py/work", "input": {"$input": "$"}}],
    "output": {"$step": "a"},
}
A = TypeVar("A")


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """An async test in virtual time: ten minutes of it at most."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        run_virtual(test(*args, **kwargs), limit_s=600)

    return run


def js(value: Any) -> bytes:
    """Compact JSON."""
    return json.dumps(value, separators=(",", ":")).encode()


def ref(task: Task) -> TaskRef:
    """The attempt's name."""
    return TaskRef(task.run, task.item, task.step, task.attempt)


def run_id(number: int = 1) -> RunId:
    """A run id."""
    return RunId(f"01900000-0000-7000-8000-{number:012x}")


class Lab:
    """`restart` is a crash and a new life over the same journal, store and bus."""

    def __init__(self, partitions: int = 1, namespace: str = "default", bus: MemoryBus | None = None, **engine: Any) -> None:
        self.bus = bus or MemoryBus()
        self.journal = MemoryJournal()
        self.store: Store = MemoryStore()
        self.clock = LoopTimeClock()
        self.namespace = Namespace(namespace)
        self.settings = NodeSettings(namespace=self.namespace, partitions=partitions, engine=EngineSettings(**engine))
        self.router: Router | None = None
        self.broker: Any = MemoryBroker(self.bus, self.namespace)
        self.client = MemoryBroker(self.bus, self.namespace)
        self.node: Node
        self._sources: dict[str, TaskSource] = {}
        self._numbers = 0

    async def start(self) -> Lab:
        """Connect and recover."""
        await self.broker.connect()
        await self.client.connect()
        self.node = Node(Ports(self.broker, self.journal, self.store, self.clock), self.settings, self.router)
        await self.node.start()
        return self

    async def restart(self) -> None:
        """Crash, then recover."""
        await self.node.abort()
        await self.start()

    @property
    def shard(self) -> Shard:
        """Of the first partition."""
        return self.node.partitions[Partition(0)].shard

    @property
    def sweeper(self) -> Sweeper:
        """Of the first partition."""
        return self.node.partitions[Partition(0)].sweeper

    async def ask(self, request: api.ApiRequest, kind: type[A], timeout_s: float = 90) -> A:
        """An api request; its answer is of `kind`."""
        data = await self.client.request(subjects.api(self.namespace), encode(request), timeout_s)
        answer = decode_api_answer(data)
        assert isinstance(answer, kind), answer
        return answer

    async def control(self, message: Any, partition: int = 0, timeout_s: float = 90) -> Any:
        """A request to a shard."""
        return decode_answer(await self.client.request(subjects.control(self.namespace, Partition(partition)), encode(message), timeout_s))

    async def flow(self, document: dict[str, Any]) -> FlowId:
        """Store a flow."""
        stored = await self.ask(api.StoreFlow(js(document)), api.FlowStored)
        assert stored.stored, stored.diagnostics
        return stored.flow

    async def submit(self, document: dict[str, Any] = ONE_STEP, *inputs: Any, **more: Any) -> RunId:
        """Start a run on its own partition; one item on null without inputs."""
        self._numbers += 1
        run = more.pop("run", None) or run_id(self._numbers)
        message = Submit(run, self.namespace, await self.flow(document), [js(value) for value in inputs or (None,)], **more)
        answer = await self.control(message, partition_of(run, self.settings.partitions))
        assert isinstance(answer, Accepted), answer
        return run

    async def frames(self, pool: str = "py", timeout_s: float = 5.0) -> list[Delivery]:
        """Frames of a pool, as one of its workers gets them."""
        if pool not in self._sources:
            self._sources[pool] = await self.client.tasks(Pool(pool))
        return list(await self._sources[pool].fetch(1_000, timeout_s))

    async def take(self, pool: str = "py", timeout_s: float = 5.0) -> list[Task]:
        """Tasks of a pool; their frames are acknowledged, and so are marks, which have none."""
        clock = asyncio.get_running_loop().time
        until_s = clock() + timeout_s
        tasks: list[Task] = []
        while not tasks and (deliveries := await self.frames(pool, max(0.0, until_s - clock()))):
            for delivery in deliveries:
                tasks.extend(frame_of(delivery).tasks)
                await delivery.ack()
        return tasks

    async def finish(self, *tasks: Task, output: Any = "done", failure: Failure | None = None, worker: WorkerId = W1) -> None:
        """Results of these tasks, by partition."""
        homes: dict[Partition, list[Task]] = {}
        for task in tasks:
            homes.setdefault(partition_of(task.root or task.run, self.settings.partitions), []).append(task)
        for partition, done in homes.items():
            results = [Result(one.run, one.item, one.step, one.attempt, None if failure else js(output), failure, 0, 1_000) for one in done]
            await self.client.post(partition, encode(Results(worker, self.shard.ownership.journal_id, results)))

    async def claim(self, task: Task, worker: WorkerId = W1) -> Verdict:
        """The verdict on a claim."""
        answer = await self.control(Claim(worker, [ref(task)]))
        assert isinstance(answer, Claimed)
        return Verdict(answer.verdicts[0])

    async def beat(self, task: Task, worker: WorkerId = W1, fraction: float | None = None, details: bytes | None = None) -> Verdict:
        """The verdict on a heartbeat."""
        answer = await self.control(Heartbeat(worker, [Progress(ref(task), fraction, details)]))
        assert isinstance(answer, Claimed)
        return Verdict(answer.verdicts[0])

    async def ended(self, run: RunId) -> api.RunInfo:
        """The run when it is over, with results."""
        info = await self.ask(api.GetRun(run, 60_000, True), api.RunInfo)
        assert info.summary.status != "running", await self.ask(api.Explain(run), api.Explained)
        return info

    async def result(self, run: RunId) -> Any:
        """The first item's FlowResult."""
        return json.loads((await self.ended(run)).results[0].result)

    async def stop(self) -> None:
        """An orderly end."""
        await self.node.stop()


def frame_of(delivery: Delivery) -> TaskFrame:
    """The frame in a delivery."""
    return decode_task_frame(delivery.data)


async def until(condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    """Let virtual time pass until it holds."""
    async with asyncio.timeout(limit_s):
        while not condition():  # virtual time: waiting costs nothing
            await asyncio.sleep(0.01)


__all__ = ["ONE_STEP", "W1", "W2", "Lab", "Refused", "frame_of", "js", "ref", "run_id", "until", "virtual"]
