"""The stream application: faust reads the journal's topic and keeps the windowed table, feeds make the read model.

Invariant: a record is acknowledged to Kafka when a checkpoint holds all up to it, so after a crash the records come again from the last
checkpoint on. A partition's feed, its windows in the table and their changelog live where faust puts the partition. The first failure of
any part ends the application.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, NamedTuple, TypeVar

import faust
from faust.types import TP, EventT

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.ports import Store, StoreError
from stepmesh_orchestrator.runtime.projector import Projector
from stepmesh_projector.delivery import Delivery, Verdict
from stepmesh_projector.faust_app import ApplicationSettings, faust_app
from stepmesh_projector.feed import Cut, Feed, Feeds, ProjectorError
from stepmesh_projector.ports import Keeper
from stepmesh_projector.readings import Reading, Standing, latest
from stepmesh_projector.topic import Topic
from stepmesh_projector.windows import Place

_T = TypeVar("_T")
log = logging.getLogger("stepmesh.projector")
_RETRY_S = 0.5
_SHARE = 10  # checkpoints of very many runs take long: they have at most so small a share of the time
_FETCH_S = 1.2  # faust waits a second for records
_LOOK_EVERY_S = 0.5
_FORGET_EVERY_S = 60.0
_TELL_EVERY_S = 5.0


class _Followed:
    """A partition that is ours. `unsettled`: events since the last checkpoint; `context`: in which its part of the table may be set."""

    def __init__(self, feed: Feed, writing: asyncio.Task[None], delivery: Delivery) -> None:
        self.feed = feed
        self.writing = writing
        self.delivery = delivery
        self.asking: asyncio.Task[None] | None = None
        self.unsettled: list[EventT[Any]] = []
        self.context = contextvars.copy_context()

    def release(self) -> None:
        self.writing.cancel()
        self.feed.release()


class _Past(NamedTuple):
    """What earlier feeds of a partition took."""

    frames: int = 0
    rows: int = 0


class Application:
    """`await run(stop)`; or `start`, `failed`, `stop`."""

    def __init__(self, settings: ApplicationSettings, feeds: Feeds, store: Store, keeper: Keeper) -> None:
        self._settings = settings
        self._feeds = feeds
        self._store = store
        self._keeper = keeper
        self._followed: dict[Partition, _Followed] = {}
        self._past: defaultdict[Partition, _Past] = defaultdict(_Past)
        self._tasks: list[asyncio.Task[None]] = []
        self._beginning = asyncio.Lock()
        self._stopping = asyncio.Event()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._app = faust_app(settings)
        table = self._app.Table("windows", key_type=str, value_type=bytes, partitions=settings.topic.partitions)
        self._table = table.tumbling(settings.size_ms / 1000, expires=settings.table_s)
        self._app.agent(self._app.topic(settings.topic.name, key_serializer="raw", value_serializer="raw"), name="follow")(self._follow)
        self._app.on_partitions_revoked.connect(self._revoked, weak=False)
        if settings.port is not None:
            self._app.page("/health")(self._health)

    async def start(self) -> None:
        """Join the group. Raises what faust raises when Kafka cannot be reached."""
        await self._app.start()
        loops = (self._settle_for_ever(), self._forget_for_ever(), self._look_for_ever(), self._tell_for_ever(), self._watch())
        self._tasks = [self._guarded(loop) for loop in loops]

    async def stop(self) -> None:
        """Keep a last checkpoint, unless something failed, and leave the group."""
        self._stopping.set()
        await asyncio.gather(*self._tasks[:-1], return_exceptions=True)  # told, not cancelled: faust keeps some cancellations to itself
        if not self.failed.done():
            await self._settle()
        await self._app.stop()
        for followed in self._followed.values():
            followed.release()
        await asyncio.gather(*self._tasks, *(followed.writing for followed in self._followed.values()), return_exceptions=True)

    async def run(self, stop: Coroutine[Any, Any, None]) -> None:
        """Until `stop` returns. Raises the first failure."""
        told = asyncio.ensure_future(stop)
        try:
            await self.start()
            await asyncio.wait((told, self.failed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            told.cancel()
            await self.stop()
        if self.failed.done():
            self.failed.result()

    @property
    def group(self) -> str:
        """The consumer group."""
        return self._settings.group

    @property
    def topic(self) -> Topic:
        """That is followed."""
        return self._settings.topic

    def feeds(self) -> Iterable[Feed]:
        """Of the partitions that are ours now."""
        return [followed.feed for followed in self._followed.values()]

    async def _follow(self, stream: faust.Stream[bytes]) -> None:
        try:
            events: Any = stream.noack().events()  # typed as a coroutine, which it is not
            async for event in events:
                await self._take(event)
        except Exception as problem:
            self._fail(problem)
            await asyncio.Event().wait()  # an agent that ends is started again

    async def _take(self, event: EventT[Any]) -> None:
        message = event.message
        followed = await self._followed_at(Partition(message.partition))
        verdict = followed.delivery.check(message.offset, time.monotonic())
        if verdict is Verdict.EARLY:
            self._ask_again(followed, early=True)
        elif verdict is Verdict.TAKE:
            followed.context = contextvars.copy_context()
            data: bytes = event.value
            message.value = event.value = None  # the events that wait for a checkpoint need no more than their place
            await followed.feed.take(message.offset, data)
            followed.unsettled.append(event)

    async def _followed_at(self, partition: Partition) -> _Followed:
        async with self._beginning:
            followed = self._followed.get(partition)
            if followed is None:
                followed = self._followed[partition] = await self._begin(partition)
        return followed

    async def _begin(self, partition: Partition) -> _Followed:
        projector = Projector(self._store, partition)
        feed = await self._feeds.begin(partition, projector, lambda place: self._window(partition, place))
        first = (await self._app.consumer.earliest_offsets(self._place(partition)))[self._place(partition)]
        log.info("partition %d is followed from frame %d on", partition, feed.sequence + 1)
        return _Followed(feed, self._guarded(projector.run()), Delivery(max(first, feed.position + 1), time.monotonic()))

    def _ask_again(self, followed: _Followed, *, early: bool) -> None:
        if followed.asking is None or followed.asking.done():
            followed.asking = self._guarded(self._seek(followed, early=early))

    async def _seek(self, followed: _Followed, *, early: bool) -> None:
        """A batch that faust fetches just now would make it forget the seek: so the partition pauses until there is none."""
        place, consumer = self._place(followed.feed.partition), self._app.consumer
        consumer.pause_partitions({place})
        await asyncio.sleep(_FETCH_S)
        if self._followed.get(followed.feed.partition) is followed:
            log.info("asking again for the record at offset %d of partition %d", followed.delivery.expected, followed.feed.partition)
            await consumer.seek(place, followed.delivery.expected)
            consumer.resume_partitions({place})
            followed.delivery.asked(time.monotonic(), early=early)

    async def _look_for_ever(self) -> None:
        """After what should be ours and come by now."""
        while not await self._pause(_LOOK_EVERY_S):
            if self._app.rebalancing:
                continue
            for place in [place for place in self._app.consumer.assignment() if place.topic == self._settings.topic.name]:
                followed = await self._followed_at(Partition(place.partition))
                if followed.delivery.is_silent(self._end(place), time.monotonic()) and not followed.feed.projector.waiting:
                    self._ask_again(followed, early=False)

    async def _tell_for_ever(self) -> None:
        observe = self._settings.observe
        while observe is not None and not await self._pause(_TELL_EVERY_S):
            observe(self._reading())

    def _reading(self) -> Reading:
        feeds, size_ms = [*self.feeds()], self._settings.size_ms
        return Reading([self._standing(feed) for feed in feeds], size_ms, latest(feeds, size_ms, time.time_ns() // 1_000_000))

    def _standing(self, feed: Feed) -> Standing:
        end, past = self._end(self._place(feed.partition)), self._past[feed.partition]
        lag = None if end is None else max(0, end - feed.position - 1)
        return Standing(feed.partition, lag, past.frames + feed.frames, past.rows + feed.rows)

    def _end(self, place: Any) -> int | None:
        """Of the partition, as far as the client knows."""
        try:
            end: int | None = self._app.consumer.highwater(place)
        except AssertionError:  # it is not ours any more
            return None
        return end

    def _place(self, partition: Partition) -> Any:
        return TP(self._settings.topic.name, partition)

    async def _settle_for_ever(self) -> None:
        took = 0.0
        while not await self._pause(max(self._settings.settle_s, _SHARE * took)):
            begun = time.monotonic()
            await self._settle()
            took = time.monotonic() - begun

    async def _settle(self) -> None:
        for followed in list(self._followed.values()):
            cut = followed.feed.cut()
            if cut is not None:
                settled, followed.unsettled = followed.unsettled, []
                if await self._kept(followed, cut):
                    for event in settled:
                        event.ack()

    async def _kept(self, followed: _Followed, cut: Cut) -> bool:
        partition = followed.feed.partition
        if not await self._patiently(lambda: followed.feed.keep(cut, self._keeper)):
            log.warning("partition %d is followed by another process now", partition)
            return False
        if self._followed.get(partition) is followed:
            followed.context.run(self._publish, cut, partition)
            await self._app.producer.flush()
        return True

    def _publish(self, cut: Cut, partition: Partition) -> None:
        for place, data in cut.windows.items():
            self._table[_key(partition, place)][self._range(place)] = data

    def _window(self, partition: Partition, place: Place) -> bytes | None:
        try:
            found: bytes = self._table[_key(partition, place)][self._range(place)]
        except KeyError:
            return None
        return found

    def _range(self, place: Place) -> tuple[float, float]:
        start, end = self._table.table.window.current(place.start_ms / 1000)
        return start, end

    async def _forget_for_ever(self) -> None:
        while not await self._pause(_FORGET_EVERY_S):
            newest_ms = max((feed.at_ms for feed in self.feeds()), default=0)
            if newest_ms:
                await self._patiently(lambda newest_ms=newest_ms: self._keeper.forget(newest_ms - self._settings.keep_ms))  # type: ignore[misc]

    async def _watch(self) -> None:
        await self._app.wait_until_stopped()
        if not self._stopping.is_set():
            problem = self._app.crash_reason
            raise ProjectorError(f"the stream application ended: {problem or 'no reason was given'}", hint="its log says more") from problem

    async def _revoked(self, app: object, revoked: Iterable[Any], **_: object) -> None:
        for place in revoked:
            followed = self._followed.pop(Partition(place.partition), None) if place.topic == self._settings.topic.name else None
            if followed is not None:
                followed.release()
                past, feed = self._past[followed.feed.partition], followed.feed
                self._past[feed.partition] = _Past(past.frames + feed.frames, past.rows + feed.rows)

    async def _health(self, request: Any) -> Any:
        said = {str(feed.partition): {"frame": feed.sequence, "stored": feed.projector.sequence} for feed in self.feeds()}
        return self._app.web.json({"partitions": said, "frames": sum(feed.frames for feed in self.feeds())})

    async def _pause(self, seconds: float) -> bool:
        """Whether it is time to stop."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass
        return self._stopping.is_set()

    async def _patiently(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """What cannot be written now is tried again, until it is time to stop."""
        while True:
            try:
                return await work()
            except StoreError as problem:
                if not problem.retryable or self._stopping.is_set():
                    raise
                log.error("the projector's tables cannot be written, trying again: %s", problem)
                await self._pause(_RETRY_S)

    def _guarded(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (problem := task.exception()) is not None:
            self._fail(problem)

    def _fail(self, problem: BaseException) -> None:
        if not self.failed.done():
            self.failed.set_exception(problem)


def _key(partition: Partition, place: Place) -> str:
    """Of one journal partition, because a key lies in one partition of the table."""
    return "/".join((str(partition), *place.label))
