"""Fixtures of the SDK tests: virtual time, the in-process broker, and a shard that answers claims as it is told."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from stepmesh import Worker
from stepmesh_broker.memory import MemoryBroker, MemoryBus
from stepmesh_broker.protocol import codec, subjects
from stepmesh_broker.protocol.api import ItemResult, RunInfo, RunSummary
from stepmesh_broker.protocol.ids import FlowId, Namespace, Partition, Pool, Position, RunId
from stepmesh_broker.protocol.messages import (
    FORMAT,
    Accepted,
    Cancel,
    Claim,
    Claimed,
    Heartbeat,
    Hello,
    Refused,
    Result,
    Results,
    Stop,
    Submit,
    Task,
    TaskFrame,
    TaskRef,
    Verdict,
)

NAMESPACE, POOL = Namespace("default"), Pool("cpu")
RUN = RunId("0192a000-0000-7000-8000-000000000001")


class _JumpingSelector:
    """A selector that does not wait: when nothing is ready it moves the clock to the next timer."""

    def __init__(self, real: selectors.BaseSelector, now: float) -> None:
        self._real = real
        self.now = now

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def select(self, timeout: float | None = None) -> Any:
        ready = self._real.select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            return self._real.select()
        self.now += timeout
        return []


@pytest.fixture
async def time_passes() -> None:
    """Virtual time: an hour of waiting takes no time. Modules with threads override this, since threads live in real time."""
    loop: Any = asyncio.get_running_loop()
    selector = loop._selector = _JumpingSelector(loop._selector, loop.time())
    loop.time = lambda: selector.now


class Shard:
    """The orchestrator's side of one partition, without rules: records what it hears, answers what it is told to."""

    def __init__(self, broker: MemoryBroker, partition: int = 0) -> None:
        self.broker = broker
        self.partition = Partition(partition)
        self.verdict: Callable[[TaskRef], Verdict] = lambda ref: Verdict.GRANTED
        self.lease_ms = 3000
        self.claims: list[Claim] = []
        self.heartbeats: list[Heartbeat] = []
        self.submits: list[Submit] = []
        self.cancels: list[Cancel] = []
        self.hellos: list[Hello] = []
        self.posts: list[Results] = []
        self.results: list[Result] = []
        self.heard = asyncio.Event()
        self.refuse: Refused | None = None
        self._frames = 0
        self._inbox: Any = None
        self._control: Any = None

    async def open(self) -> None:
        self._inbox = await self.broker.inbox(self.partition, Position(0))
        await self.broker.listen(subjects.presence(NAMESPACE), self._presence)
        await self.answer_control()

    async def answer_control(self) -> None:
        self._control = await self.broker.serve(subjects.control(NAMESPACE, self.partition), self._answer)

    async def be_away(self) -> None:
        await self._control.close()

    async def send(self, *tasks: Task, pool: Pool = POOL) -> None:
        self._frames += 1
        frame = TaskFrame(FORMAT, NAMESPACE, pool, self.partition, 1, "journal-1", list(tasks))
        await self.broker.publish_tasks(pool, codec.encode(frame), f"{self.partition}/{self._frames}")

    async def stop_tasks(self, *tasks: Task) -> None:
        refs = [TaskRef(task.run, task.item, task.step, task.attempt) for task in tasks]
        await self.broker.send(subjects.workers(NAMESPACE, POOL), codec.encode(Stop(refs)))

    async def until_results(self, count: int) -> list[Result]:
        """All results so far, once there are `count`."""
        while len(self.results) < count:
            for entry in await self._inbox.fetch(100, 60.0):
                message = codec.decode_inbox(entry.data)
                assert isinstance(message, Results)
                self.posts.append(message)
                self.results.extend(message.results)
                await self._inbox.ack(entry.position)
        return self.results

    async def no_result(self, seconds: float = 20.0) -> bool:
        """Whether nothing comes within some virtual seconds."""
        return not await self._inbox.fetch(1, seconds)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Returns once `condition` holds; checked after each message."""
        while not condition():
            self.heard.clear()
            await asyncio.wait_for(self.heard.wait(), 120)

    async def frames_left(self) -> int:
        depth = await self.broker.depth(POOL)
        return depth.ready + depth.in_flight

    async def _presence(self, data: bytes) -> None:
        message = codec.decode_presence(data)
        assert isinstance(message, Hello)
        self.hellos.append(message)
        self.heard.set()

    async def _answer(self, data: bytes) -> bytes:
        message = codec.decode_control(data)
        self.heard.set()
        if isinstance(message, Claim):
            self.claims.append(message)
            return codec.encode(Claimed([self.verdict(ref) for ref in message.tasks], self.lease_ms))
        if isinstance(message, Heartbeat):
            self.heartbeats.append(message)
            return codec.encode(Claimed([self.verdict(progress.task) for progress in message.tasks], self.lease_ms))
        if self.refuse is not None:
            return codec.encode(self.refuse)
        if isinstance(message, Submit):
            self.submits.append(message)
        else:
            self.cancels.append(message)
        return codec.encode(Accepted(message.run))


class Api:
    """The api subject: answers by message type, from functions that a test sets; remembers what was asked."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker = broker
        self.asked: list[Any] = []
        self.answers: dict[type, Callable[[Any], Any]] = {}
        self._serving: Any = None

    async def open(self) -> None:
        self._serving = await self.broker.serve(subjects.api(NAMESPACE), self._answer)

    async def be_away(self) -> None:
        await self._serving.close()

    async def _answer(self, data: bytes) -> bytes:
        request = codec.decode_api_request(data)
        self.asked.append(request)
        made = self.answers[type(request)](request)
        return codec.encode(await made if asyncio.iscoroutine(made) else made)


def run_info(run: str, status: str = "completed", results: list[Any] | None = None, partition: int = 0) -> RunInfo:
    """A run's state with decoded FlowResults."""
    items = [ItemResult(n, "completed", msgspec.json.encode(result), 1) for n, result in enumerate(results or [])]
    total, ended = len(items), None if status == "running" else 2
    summary = RunSummary(
        RunId(run), NAMESPACE, Partition(partition), FlowId("f" * 64), "flow", status, total, total, 0, 0, 1, ended, RunId(run), None, None
    )
    return RunInfo(summary, items)


def make_task(component: str, input: Any = None, step: int = 0, **fields: Any) -> Task:
    data = input if isinstance(input, bytes) else msgspec.json.encode(input)
    known: dict[str, Any] = {"run": RUN, "item": 0, "attempt": 1, "dispatch": 1, "step_id": f"s{step}", **fields}
    return Task(component=component, input=data, step=step, **known)


@pytest.fixture
def task() -> Callable[..., Task]:
    """`task("/path", input, step=…, …)`."""
    return make_task


@pytest.fixture
def bus() -> MemoryBus:
    return MemoryBus()


@pytest.fixture
async def broker(time_passes: None, bus: MemoryBus) -> AsyncIterator[MemoryBroker]:
    connection = MemoryBroker(bus, NAMESPACE)
    await connection.connect()
    yield connection
    await connection.close()


@pytest.fixture
async def shard(time_passes: None, bus: MemoryBus) -> AsyncIterator[Shard]:
    connection = MemoryBroker(bus, NAMESPACE)
    await connection.connect()
    one = Shard(connection)
    await one.open()
    yield one
    await connection.close()


@pytest.fixture
async def api(time_passes: None, bus: MemoryBus) -> AsyncIterator[Api]:
    connection = MemoryBroker(bus, NAMESPACE)
    await connection.connect()
    one = Api(connection)
    await one.open()
    yield one
    await connection.close()


@pytest.fixture
def info() -> Callable[..., RunInfo]:
    """`info(run, status, results, partition)`."""
    return run_info


@pytest.fixture
def running(broker: MemoryBroker) -> Any:
    """`async with running(worker): …` runs a worker and drains it at the end."""

    @asynccontextmanager
    async def run(worker: Worker) -> AsyncIterator[asyncio.Task[None]]:
        job = asyncio.create_task(worker.run(broker))
        try:
            yield job
        finally:
            worker.stop()
            await job

    return run


@pytest.fixture
def another_shard(bus: MemoryBus) -> Any:
    """`await another_shard(partition)`: a second partition's shard."""

    async def make(partition: int) -> Shard:
        connection = MemoryBroker(bus, NAMESPACE)
        await connection.connect()
        one = Shard(connection, partition)
        await one.open()
        return one

    return make
