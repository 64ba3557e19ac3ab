"""A worker as a process over a real nats-server: finds the broker, works, drains on SIGTERM, hands back on a second signal."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from stepmesh.uuid7 import new_run_id
from stepmesh_broker.nats import EmbeddedNats, NatsBroker, NatsSettings
from stepmesh_broker.protocol import codec, subjects
from stepmesh_broker.protocol.ids import Namespace, Partition, Pool, Position
from stepmesh_broker.protocol.messages import FORMAT, Hello, Result, Results, Task, TaskFrame

NAMESPACE, POOL, PARTITION = Namespace("default"), Pool("cpu"), Partition(0)
MODULE = """
import asyncio, threading
from stepmesh import Worker

worker = Worker("cpu", drain_grace_s=20.0, cancel_grace_s=0.2)

@worker.component
async def double(n: int) -> int:
    return n * 2

@worker.component
async def slow(seconds: float, context) -> str:
    print("slow runs", flush=True)
    await asyncio.sleep(seconds)
    return context.step_id

@worker.component
def stuck():
    print("slow runs", flush=True)
    threading.Event().wait()

if __name__ == "__main__":
    worker.serve()
"""


class Bench:
    """The shard's side and the worker's process."""

    def __init__(self, folder: Path, broker: NatsBroker) -> None:
        self.folder = folder
        self.broker = broker
        self.hellos: asyncio.Queue[Hello] = asyncio.Queue()
        self.process: asyncio.subprocess.Process | None = None
        self.sent = 0

    async def start(self) -> asyncio.subprocess.Process:
        (self.folder / "app.py").write_text(MODULE)
        await self.broker.listen(subjects.presence(NAMESPACE), self._hello)
        environment = {key: value for key, value in os.environ.items() if key != "STEPMESH_URL"}
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "app.py",
            cwd=self.folder,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        await asyncio.wait_for(self.hellos.get(), 30)
        return self.process

    async def send(self, component: str, *inputs: str) -> None:
        self.sent += 1
        tasks = [Task(new_run_id(), 0, n, 1, 1, f"s{n}", component, text.encode()) for n, text in enumerate(inputs)]
        frame = TaskFrame(FORMAT, NAMESPACE, POOL, PARTITION, 1, "journal-1", tasks)
        await self.broker.publish_tasks(POOL, codec.encode(frame), f"frame-{self.sent}")

    async def results(self, count: int) -> list[Result]:
        inbox, found = await self.broker.inbox(PARTITION, Position(0)), []
        while len(found) < count:
            for entry in await asyncio.wait_for(inbox.fetch(100, 10.0), 30):
                message = codec.decode_inbox(entry.data)
                assert isinstance(message, Results)
                found.extend(message.results)
        return found

    async def runs(self) -> None:
        """Returns when a slow component said that it runs."""
        assert self.process is not None
        assert self.process.stdout is not None
        assert await asyncio.wait_for(self.process.stdout.readline(), 30) == b"slow runs\n"

    async def exits(self) -> int:
        assert self.process is not None
        return await asyncio.wait_for(self.process.wait(), 30)

    async def _hello(self, data: bytes) -> None:
        message: Any = codec.decode_presence(data)
        self.hellos.put_nowait(message)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with EmbeddedNats(tmp_path / ".stepmesh") as server:
        broker = NatsBroker(NatsSettings(url=server.url, namespace=NAMESPACE))
        await broker.connect()
        one = Bench(tmp_path, broker)
        yield one
        if one.process is not None and one.process.returncode is None:
            one.process.kill()
            await one.process.wait()
        await broker.close()


async def test_a_worker_finds_the_broker_works_and_leaves_on_sigterm(bench: Bench) -> None:
    process = await bench.start()
    await bench.send("/double", *[str(n) for n in range(200)])
    results = await bench.results(200)
    assert [result.output for result in results] == [str(2 * n).encode() for n in range(200)]
    process.send_signal(signal.SIGTERM)
    assert await bench.exits() == 0
    hello = await asyncio.wait_for(bench.hellos.get(), 10)
    while not hello.stopping:
        hello = await asyncio.wait_for(bench.hellos.get(), 10)
    depth = await bench.broker.depth(POOL)
    assert (depth.ready, depth.in_flight) == (0, 0)


async def test_a_running_task_is_finished_before_the_exit(bench: Bench) -> None:
    process = await bench.start()
    await bench.send("/slow", "0.5")
    await bench.runs()
    process.send_signal(signal.SIGINT)
    assert await bench.exits() == 0
    (result,) = await bench.results(1)
    assert result.output == b'"s0"'


@pytest.mark.parametrize("component", ["/slow", "/stuck"])
async def test_a_second_signal_hands_the_work_back_and_exits(bench: Bench, component: str) -> None:
    process = await bench.start()
    await bench.send(component, "3600")
    await bench.runs()
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)  # another one: two equal signals may arrive as one
    assert await bench.exits() == 0
    source = await bench.broker.tasks(POOL)
    (delivery,) = await source.fetch(1, 10.0)
    assert delivery.deliveries == 2
    await source.close()


async def test_a_worker_without_a_broker_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(MODULE)
    environment = {key: value for key, value in os.environ.items() if key != "STEPMESH_URL"}
    process = await asyncio.create_subprocess_exec(sys.executable, "app.py", cwd=tmp_path, env=environment, stderr=asyncio.subprocess.PIPE)
    _, errors = await process.communicate()
    assert process.returncode != 0
    assert b"SM-0110" in errors
    assert b"stepmesh up" in errors
