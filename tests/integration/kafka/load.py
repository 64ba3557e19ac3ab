"""Load for one namespace: frames and inbox messages that go in, and the ones that came out."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter

from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.kafka import KafkaBroker, KafkaSettings
from stepmesh_broker.protocol.ids import Namespace, Partition, Pool, Position

POOL = Pool("cpu")
P = Partition(1)


def namespace() -> Namespace:
    """One that nobody used."""
    return Namespace(f"t{uuid.uuid4().hex[:12]}")


async def connected(url: str, name: Namespace, **others: object) -> KafkaBroker:
    """With few partitions, so that topics are quickly made."""
    options = {"pool_partitions": 4, "inbox_partitions": 2, "talk_partitions": 2, **others}
    broker = KafkaBroker(KafkaSettings.parse(url, name, **options))
    await broker.connect()
    return broker


class Load:
    """`sent` were taken by the broker; `frames` and `messages` count what arrived. `longest_s`: the longest time without an arrival."""

    def __init__(self, broker: KafkaBroker) -> None:
        self._broker = broker
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._last = 0.0
        self.sent = 0
        self.frames: Counter[bytes] = Counter()
        self.messages: Counter[bytes] = Counter()
        self.positions: list[Position] = []
        self.longest_s = 0.0

    async def start(self) -> None:
        """Join, then go."""
        source, inbox = await self._broker.tasks(POOL), await self._broker.inbox(P, Position(0))
        self._last = asyncio.get_running_loop().time()

        async def take() -> None:
            while True:
                for delivery in await source.fetch(8, 1.0):
                    self.frames[delivery.data] += 1
                    await delivery.ack()
                    now = asyncio.get_running_loop().time()
                    self.longest_s, self._last = max(self.longest_s, now - self._last), now

        async def read() -> None:
            while True:
                for entry in await inbox.fetch(100, 1.0):
                    self.messages[entry.data] += 1
                    self.positions.append(entry.position)

        self._tasks = [asyncio.create_task(work) for work in (take(), read(), self._produce())]

    async def sent_more(self, count: int) -> None:
        """Returns when so many more were taken."""
        goal = self.sent + count
        async with asyncio.timeout(60):
            while self.sent < goal:
                await asyncio.sleep(0.02)

    async def finish(self) -> None:
        """No more; returns when all that was taken has arrived."""
        self._stopping.set()
        async with asyncio.timeout(60):
            await self._tasks[2]
            while len(self.frames) < self.sent or len(self.messages) < self.sent:
                for task in self._tasks[:2]:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.05)
        await self.stop()

    async def stop(self) -> None:
        """At once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _produce(self) -> None:
        number = 0
        while not self._stopping.is_set():
            await asyncio.gather(*(self._one(number + index) for index in range(10)))
            number += 10
            self.sent = number
            await asyncio.sleep(0.02)

    async def _one(self, number: int) -> None:
        """Until it is taken: with the same ids."""
        data = b"%d" % number
        while True:
            try:
                await asyncio.gather(self._broker.publish_tasks(POOL, data, f"t{number}"), self._broker.post(P, data, f"m{number}"))
                return
            except BrokerUnavailable:
                await asyncio.sleep(0.1)
