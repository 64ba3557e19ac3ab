"""Load on one namespace of a cluster, and a record of it: what was acknowledged, what arrived, the longest pause."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from types import TracebackType

from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.nats import NatsBroker, NatsSettings
from stepmesh_broker.protocol import subjects
from stepmesh_broker.protocol.ids import Namespace, Partition, Pool, Position

POOL = Pool("cpu")
P = Partition(0)
PROGRESS_S = 60.0


class Channel:
    """Numbers that go in one by one until they are acknowledged, and what came out."""

    def __init__(self, put: Callable[[int], Awaitable[object]]) -> None:
        self._put = put
        self.acknowledged = 0
        self.refusals: list[str] = []
        self.pause_s = 0.0
        self.gap_s = 0.0
        self.came: Counter[int] = Counter()
        self._last = math.inf

    async def feed(self) -> None:
        """Until cancelled. A number that was refused is offered again, as a producer does."""
        last = time.monotonic()
        while True:
            try:
                await self._put(self.acknowledged)
            except BrokerUnavailable as problem:
                self.refusals.append(problem.code)  # not the error, whose frames would live on
                continue
            self.acknowledged += 1
            self.pause_s, last = max(self.pause_s, time.monotonic() - last), time.monotonic()

    def out(self, number: int) -> None:
        """It arrived."""
        now = time.monotonic()
        self.gap_s, self._last = max(self.gap_s, now - self._last), now
        self.came[number] += 1

    @property
    def is_complete(self) -> bool:
        """Whether all that was acknowledged arrived."""
        return all(number in self.came for number in range(self.acknowledged))


class Traffic:
    """`async with`: a producer on `produce_at`, a consumer on `consume_at` (addresses), both under way until the end of the block."""

    def __init__(self, namespace: Namespace, produce_at: str, consume_at: str, publish_timeout_s: float = 15.0) -> None:
        def broker(url: str, timeout_s: float) -> NatsBroker:
            return NatsBroker(NatsSettings.parse(url, namespace, ack_wait_s=1.0, publish_timeout_s=timeout_s))

        self.producer, self.consumer = broker(produce_at, publish_timeout_s), broker(consume_at, 30.0)
        self.tasks = Channel(lambda number: self.producer.publish_tasks(POOL, b"%d" % number, f"t{number}"))
        self.inbox = Channel(lambda number: self.producer.post(P, b"%d" % number, f"i{number}"))
        self._api = subjects.api(namespace)
        self.requests = Channel(lambda number: self.producer.request(self._api, b"%d" % number, 1.0))
        self.positions: list[tuple[Position, int]] = []
        self.uncounted: list[int] = []
        self._under_way: list[asyncio.Task[None]] = []

    @property
    def channels(self) -> list[Channel]:
        """All of them."""
        return [self.tasks, self.inbox, self.requests]

    async def __aenter__(self) -> Traffic:
        await self.producer.connect()
        await self.consumer.connect()
        await self.consumer.serve(self._api, self._answer)
        self._feeds = [asyncio.ensure_future(channel.feed()) for channel in self.channels]
        self._readers = [asyncio.ensure_future(self._work()), asyncio.ensure_future(self._read())]
        await self.progress()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        for task in (*self._feeds, *self._readers):
            task.cancel()
        ends = await asyncio.gather(*self._feeds, *self._readers, return_exceptions=True)
        await self.producer.close()
        await self.consumer.close()
        broken = [end for end in ends if isinstance(end, Exception)]
        if broken and kind is None:
            raise broken[0]

    async def progress(self, numbers: int = 50) -> None:
        """Returns when each channel took so many more, and all that it took by then arrived."""
        wanted = [channel.acknowledged + numbers for channel in self.channels]
        await self.until(lambda: all(channel.acknowledged >= want for channel, want in zip(self.channels, wanted, strict=True)))
        await self.until(
            lambda: all(all(n in channel.came for n in range(want)) for channel, want in zip(self.channels, wanted, strict=True))
        )

    async def stop_feeding(self) -> None:
        """And wait until all that was acknowledged arrived."""
        for feed in self._feeds:
            feed.cancel()
        await asyncio.wait(self._feeds)
        await self.until(lambda: self.tasks.is_complete and self.inbox.is_complete)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait; a reader that ended with an error ends this as well."""
        async with asyncio.timeout(PROGRESS_S):
            while not holds():
                for task in (*self._feeds, *self._readers):
                    if task.done() and not task.cancelled():
                        task.result()
                await asyncio.sleep(0.02)

    async def _answer(self, data: bytes) -> bytes:
        self.requests.out(int(data))
        return data

    async def _work(self) -> None:
        source = await self.consumer.tasks(POOL)
        while True:
            for delivery in await source.fetch(16, 60):
                number = int(delivery.data)
                self.tasks.out(number)
                if self.tasks.came[number] > 1 and delivery.deliveries == 1:
                    self.uncounted.append(number)
                await delivery.ack()

    async def _read(self) -> None:
        inbox = await self.consumer.inbox(P, Position(0))
        while True:
            for entry in await inbox.fetch(64, 60):
                self.positions.append((entry.position, int(entry.data)))
                self.inbox.out(int(entry.data))
                await inbox.ack(entry.position)
