"""A gateway and its streams as a test plays them: what a worker said on each, and what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.pb.stepmesh.v1 import worker_pb2 as pb
from stepmesh_broker.protocol.subjects import Subject

PAYLOAD = 10_000


class Stream:
    """One call: `said` is what the worker sent."""

    target = "gateway:1"

    def __init__(self, elsewhere: bool) -> None:
        self.elsewhere = elsewhere
        self.said: list[pb.FromWorker] = []
        self.down: asyncio.Queue[pb.ToWorker | Exception | None] = asyncio.Queue()
        self.finished = False
        self.cancelled = False

    async def send(self, message: pb.FromWorker) -> None:
        if self.cancelled:
            raise BrokerUnavailable("the stream broke")
        self.said.append(message)

    async def receive(self) -> pb.ToWorker | None:
        found = await self.down.get()
        if isinstance(found, Exception):
            self.cancelled = True
            raise found
        return found

    async def finish(self) -> None:
        self.finished = True

    def cancel(self) -> None:
        self.cancelled = True

    def tell(self, **parts: Any) -> None:
        self.down.put_nowait(pb.ToWorker(**parts))

    def welcome(self, heartbeat_ms: int = 2000, **more: Any) -> None:
        self.tell(welcome=pb.Welcome(heartbeat_ms=heartbeat_ms, payload_bytes=PAYLOAD, gateway="g", **more))

    @property
    def hello(self) -> pb.Hello:
        return self.said[0].hello

    @property
    def credit(self) -> int:
        return sum(message.credit for message in self.said)

    @property
    def results(self) -> list[pb.Result]:
        return [result for message in self.said for result in message.results]

    @property
    def returned(self) -> list[str]:
        return [id for message in self.said for id in message.returned]

    @property
    def answers(self) -> list[pb.Answer]:
        return [answer for message in self.said for answer in message.answers]

    @property
    def idle(self) -> list[str]:
        return [id for message in self.said for id in message.idle]

    @property
    def progress(self) -> list[pb.Progress]:
        return [told for message in self.said for told in message.progress]


class Gateway:
    """`stepmesh_broker.ports.TaskGateway`, as the test plays it."""

    max_message_bytes = 1_000_000

    def __init__(self) -> None:
        self.streams: list[Stream] = []

    def work(self, elsewhere: bool = False) -> Stream:
        self.streams.append(Stream(elsewhere))
        return self.streams[-1]

    async def connect(self) -> None:
        """It is there."""

    async def close(self) -> None:
        """It stays."""

    async def request(self, subject: Subject, data: bytes, timeout_s: float) -> bytes:
        raise BrokerUnavailable("nobody serves that here")

    async def stream(self, number: int = 1) -> Stream:
        """The worker's stream of that number, once it has said hello."""
        await until(lambda: len(self.streams) >= number and self.streams[number - 1].said)
        return self.streams[number - 1]


async def until(what: Callable[[], Any]) -> None:
    for _ in range(2_000):
        if what():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to that")


def task(id: str, component: str = "/slow", input: bytes = b"1", **more: Any) -> pb.Task:
    return pb.Task(id=id, component=component, input=input, attempt=1, run_id="r", root_run_id="r", step_id="s", **more)
