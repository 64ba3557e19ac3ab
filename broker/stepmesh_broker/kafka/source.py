"""One consumer of a pool: takes frames of the partitions that are its own, hands them out, and says what became of them.

Invariant: a frame that came here is handed out, left to the partition's next owner, or written anew; a frame in hand stays this source's,
whoever owns its partition. A source that does not fetch keeps few frames, and passes those on to consumers that wait.
It must not know what a frame holds.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from stepmesh_broker.errors import BrokerError, BrokerUnavailable
from stepmesh_broker.kafka.delivery import Hands, KafkaDelivery
from stepmesh_broker.kafka.hunger import Announcer, Guests, Hungry
from stepmesh_broker.kafka.ledger import Frame, Ledger
from stepmesh_broker.kafka.membership import Committed, Seat
from stepmesh_broker.kafka.pool import Standing
from stepmesh_broker.kafka.publisher import Publisher
from stepmesh_broker.kafka.records import Key, Outgoing, headers_of, number, text
from stepmesh_broker.kafka.settings import KafkaSettings
from stepmesh_broker.kafka.topics import Topics
from stepmesh_broker.ports import Subscription

_log = logging.getLogger(__name__)
READ_AHEAD = 64
"""Frames that may wait here; with so many, nothing more is taken from the broker."""
COMMIT_S = 0.1
HOLD_S = 0.1
"""A source that does not fetch for so long lets others have what waits here."""
PATIENCE = 5
"""Ack waits for which an owner that is gone, or a frame that was written anew, is waited for before it may count as lost."""
_RETRY_S = 0.5


class KafkaTaskSource:
    """`TaskSource`. `seat` makes its place in the group; `announce` tells the other consumers of the pool that this one waits, and
    `listener` is what hears them."""

    def __init__(
        self,
        settings: KafkaSettings,
        topics: Topics,
        publisher: Publisher,
        topic: str,
        seat: Callable[[Callable[[Standing], None], Callable[[], Awaitable[Committed]]], Seat],
        announce: Callable[[bytes], Awaitable[None]],
    ) -> None:
        self.topic = topic
        self.listener: Subscription | None = None
        self._settings = settings
        self._topics = topics
        self._publisher = publisher
        self._announce = announce
        self._id = secrets.token_hex(6)
        self._count = 0
        self._sought: dict[int, int] = {}
        self._seat = seat(self._taken, self._given_up)
        self._hands = Hands(settings.ack_wait_s, self._acked, self._silent, self._returned)
        self._ledgers: dict[int, Ledger] = {}
        self._past: dict[int, Ledger] = {}
        self._ready: deque[Frame] = deque()
        self._news = asyncio.Event()
        self._announcer = Announcer()
        self._guests = Guests()
        self._committed: dict[int, tuple[int, str]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._beside: set[asyncio.Task[None]] = set()
        self._fetching = 0
        self._fetched = 0.0
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False

    async def open(self) -> None:
        """Join the group. Raises `BrokerUnavailable`."""
        self._count = await self._topics.ensure(self.topic)
        await self._seat.join()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._pull()), loop.create_task(self._tick())]

    @property
    def is_closed(self) -> bool:
        """Whether it takes no more."""
        return self._closed

    @property
    def is_over(self) -> bool:
        """Whether it is closed, and nothing of it is in hand or on its way any more."""
        return self._closed and self._hands.are_empty and not self._beside

    async def fetch(self, max_frames: int, timeout_s: float) -> Sequence[KafkaDelivery]:
        """Up to `max_frames` as soon as there is one. Raises `BrokerUnavailable` once closed."""
        if self._closed:
            raise BrokerUnavailable("this task source is closed")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        self._fetching += 1
        try:
            while not (self._ready or self._closed) and (left := deadline - loop.time()) > 0:
                await self._wait(max_frames, left)
        finally:
            self._fetching -= 1
            self._fetched = loop.time()
        page: list[KafkaDelivery] = []
        while self._ready and len(page) < max_frames:
            frame = self._ready.popleft()
            if not frame.done:
                page.append(self._hands.give(frame))
        if page:
            self._announcer.fed()
        self._regulate()
        return page

    async def close(self) -> None:
        """Take no more. What waits here goes to the others at once; what is in hand, after its ack wait."""
        if self._closed:
            return
        self._closed = True
        self._news.set()
        for task in self._tasks:
            task.cancel()
        if self.listener is not None:
            await self.listener.close()
        await self._seat.leave()

    async def hand_back(self) -> None:
        """The connection ends: what is in hand is written anew at once."""
        frames = self._hands.empty()
        for frame in frames:
            self._returned(frame)
        if self._beside:
            await asyncio.wait(self._beside, timeout=2)
        for task in self._beside:
            task.cancel()

    async def heard(self, data: bytes) -> None:
        """A consumer of the pool waits."""
        hungry = Hungry.decode(data)
        if hungry is not None and hungry.member != self._id and not self._closed:
            self._guests.heard(hungry, asyncio.get_running_loop().time())
            self._share()

    # --- taking -------------------------------------------------------------------------------------------------

    async def _pull(self) -> None:
        while True:
            await self._room.wait()
            found = await self._seat.records(max(1, READ_AHEAD - len(self._ready)))
            for partition, records in found.items():
                ledger = self._ledgers.get(partition)
                if ledger is not None and records and self._is_next(partition, ledger, records[0].offset):
                    self._arrived(ledger, records)
            self._regulate()

    def _is_next(self, partition: int, ledger: Ledger, offset: int) -> bool:
        """A gap is looked at twice: it may be the rest of an earlier seat, else the records of it are gone for good."""
        if offset <= ledger.next or self._sought.get(partition) == ledger.next:
            return True
        self._sought[partition] = ledger.next
        self._seat.seek(partition, ledger.next)
        return False

    def _arrived(self, ledger: Ledger, records: Sequence[Any]) -> None:
        for record in records:
            headers = dict(record.headers)
            message_id, origin = text(headers, Key.MESSAGE_ID), number(headers, Key.ORIGIN)
            handed = number(headers, Key.DELIVERIES)
            frame = ledger.arrived(record.offset, record.timestamp, message_id, origin, handed, record.value or b"")
            if frame is not None:
                self._ready.append(frame)
        if self._ready:
            self._news.set()

    def _regulate(self) -> None:
        was = self._room.is_set()
        flowing = len(self._ready) < (READ_AHEAD if was else READ_AHEAD // 2)
        if flowing and not was:
            self._room.set()
        elif was and not flowing:
            self._room.clear()
        if flowing != was:
            self._seat.flow(flowing)

    async def _wait(self, max_frames: int, left: float) -> None:
        now = asyncio.get_running_loop().time()
        pause = self._announcer.waits(now)
        others = 0 < len(self._ledgers) < self._count
        if pause <= 0 and others:
            self._announcer.spoke(now)
            self._spawn(self._speak(max_frames))
            pause = self._announcer.waits(now)
        self._news.clear()
        try:
            await asyncio.wait_for(self._news.wait(), min(left, pause) if others else left)
        except TimeoutError:
            pass  # the caller looks at its deadline

    async def _speak(self, room: int) -> None:
        try:
            await self._announce(Hungry(self._id, room, tuple(self._ledgers)).encoded())
        except BrokerError as problem:
            _log.info("nobody heard that a consumer of %s waits: %s", self.topic, problem)

    # --- passing on ---------------------------------------------------------------------------------------------

    def _share(self) -> None:
        """Let those who wait have what waits here: all of it, or half when this source fetches as well."""
        now = asyncio.get_running_loop().time()
        idle = not self._fetching and now - self._fetched > HOLD_S
        spare = len(self._ready) if idle else len(self._ready) // 2
        while spare > 0 and (guest := self._guests.next(now)) is not None:
            for index in range(min(spare, guest.room)):
                spare -= 1
                frame = self._ready.pop()
                if not frame.done:
                    self._write_anew(frame, guest.partitions[index % len(guest.partitions)])
        self._regulate()

    def _write_anew(self, frame: Frame, partition: int | None = None) -> None:
        if partition is None:
            elsewhere = [number for number in range(self._count) if number not in self._ledgers]
            partition = random.choice(elsewhere or range(self._count))
        frame.ledger.depart(frame)
        again = secrets.token_hex(8)  # what was given up may be written still: readers drop the copy
        headers = headers_of(deliveries=frame.handed, origin=frame.position, message_id=again)
        self._spawn(self._write(frame, Outgoing(self.topic, partition, frame.data, headers), again))

    async def _write(self, frame: Frame, record: Outgoing, message_id: str) -> None:
        while not frame.done:
            try:
                await self._publisher.publish(record, message_id)
            except BrokerError as problem:
                _log.warning("a frame of %s is handed back later: %s", self.topic, problem)
                await asyncio.sleep(_RETRY_S)
            else:
                frame.done = True
                frame.ledger.move(frame, asyncio.get_running_loop().time())

    # --- what becomes of frames ---------------------------------------------------------------------------------

    def _acked(self, frame: Frame) -> None:
        """Committed by the next tick."""

    def _silent(self, frame: Frame) -> None:
        if frame.ledger.live and not self._closed:
            frame.ledger.take_back(frame)
            self._ready.appendleft(frame)
            self._news.set()
        else:
            self._write_anew(frame)

    def _returned(self, frame: Frame) -> None:
        self._write_anew(frame)

    # --- partitions ---------------------------------------------------------------------------------------------

    def _taken(self, standing: Standing) -> None:
        """What is in hand of another life keeps its ledger, for its offsets are other frames' now."""
        now, settings, owner = asyncio.get_running_loop().time(), self._settings, f"{self._id}@{standing.life}"
        patience_s, window_ms = PATIENCE * settings.ack_wait_s, settings.dedupe_window_s * 1000
        for partition, (offset, mark) in standing.committed.items():
            ledger = Ledger(owner, offset, mark, now, patience_s, window_ms)
            past = self._past.pop(partition, None)
            if past is not None and past.owner == owner:
                ledger.adopt(past)
            self._ledgers[partition] = ledger
        self._sought = {}
        self._room.set()
        self._regulate()
        self._news.set()

    async def _given_up(self) -> Committed:
        for partition, ledger in self._ledgers.items():
            for frame in ledger.release():
                self._write_anew(frame)
            self._past[partition] = ledger
        offers = self._offers()
        self._ledgers = {}
        self._committed = {}
        self._ready = deque(frame for frame in self._ready if frame.ledger.live)
        return offers

    def _offers(self) -> dict[int, tuple[int, str]]:
        now = asyncio.get_running_loop().time()
        return {partition: (ledger.committed, ledger.mark(now).text()) for partition, ledger in self._ledgers.items()}

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(COMMIT_S)
            self._share()
            changed = {partition: said for partition, said in self._offers().items() if self._committed.get(partition) != said}
            if await self._seat.commit(changed):
                self._committed.update(changed)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)
