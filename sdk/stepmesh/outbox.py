"""Results on their way home: batched per partition, posted until the broker has them, then their frames settled.

Invariant: a frame is acknowledged only after the post of its last result returned. While one post of a partition is on its
way the next results gather, so that load makes few large posts and idleness makes one small post at once.
This module must not know how results come about.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from stepmesh import failures
from stepmesh.attempt import Frame
from stepmesh_broker.errors import BrokerUnavailable, MessageTooLarge
from stepmesh_broker.ports import Broker
from stepmesh_broker.protocol import codec
from stepmesh_broker.protocol.ids import Partition, WorkerId
from stepmesh_broker.protocol.messages import ErrorCode, Result, Results

log = logging.getLogger("stepmesh.worker")

BATCH_RESULTS = 1024
"""Results in one post at most."""
OVERHEAD = 512
"""Bytes allowed for a result beside its payload: ids, counters, MessagePack heads."""
LINGER_S = 0.002
"""How long results gather while more tasks are ready to run, in seconds; with none ready they leave at once."""
RETRY_S = (0.05, 2.0)
"""Delay before a post is tried again: first, and largest (seconds); it doubles between."""


_Entry = tuple[Frame, Result | None, Callable[[], None] | None]


class _Lane:
    __slots__ = ("entries", "journal", "partition", "posted", "sending")

    def __init__(self, partition: Partition, journal: str) -> None:
        self.partition = partition
        self.journal = journal
        self.entries: list[_Entry] = []
        self.sending = False
        self.posted = 0


class Outbox:
    """`busy` says whether more results are about to come. `on_settled` is told of each frame that was acknowledged or handed
    back; `on_broken` of what no retry can mend."""

    def __init__(
        self,
        broker: Broker,
        worker: WorkerId,
        busy: Callable[[], bool],
        on_settled: Callable[[Frame], None],
        on_broken: Callable[[BaseException], None],
    ) -> None:
        self._broker = broker
        self._worker = worker
        self._busy = busy
        self._on_settled = on_settled
        self._on_broken = on_broken
        self._lanes: dict[tuple[Partition, str], _Lane] = {}
        self._senders: set[asyncio.Task[None]] = set()
        self._abandoned = False
        self._room = broker.max_message_bytes - 4 * OVERHEAD

    def put(self, frame: Frame, result: Result | None, posted: Callable[[], None] | None = None) -> None:
        """Hand over the end of one attempt of `frame`: its result, or None when nobody wants one. `posted` is called when the broker
        has it."""
        key = (frame.header.partition, frame.header.journal)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(*key)
        if self._abandoned:
            return
        lane.entries.append((frame, result, posted))
        if not lane.sending:
            lane.sending = True
            sender = asyncio.get_running_loop().create_task(self._send(lane), name=f"stepmesh results of partition {key[0]}")
            self._senders.add(sender)
            sender.add_done_callback(self._sent)

    def _sent(self, sender: asyncio.Task[None]) -> None:
        self._senders.discard(sender)
        if not sender.cancelled() and (problem := sender.exception()) is not None:
            self._on_broken(problem)

    async def flushed(self) -> None:
        """Returns when everything handed over so far is posted and its frames are settled."""
        while self._senders:
            await asyncio.wait(self._senders)

    def abandon(self) -> None:
        """Give up what is not posted, and take no more. Its frames were not acknowledged, so the broker delivers them again."""
        self._abandoned = True
        for sender in self._senders:
            sender.cancel()

    async def _send(self, lane: _Lane) -> None:
        try:
            while lane.entries:
                if self._busy() and len(lane.entries) < BATCH_RESULTS:
                    await asyncio.sleep(LINGER_S)
                batch = self._take(lane)
                results = [result for _, result, _ in batch if result is not None]
                if results:
                    await self._post(lane, results)
                for frame, _, posted in batch:
                    if posted is not None:
                        posted()
                    frame.left -= 1
                    if frame.left == 0:
                        await self._settle(frame)
        finally:
            lane.sending = False

    def _take(self, lane: _Lane) -> list[_Entry]:
        size, count = 0, 0
        for _, result, _ in lane.entries[:BATCH_RESULTS]:
            size += OVERHEAD if result is None else _size(result)
            if count and size > self._room:
                break
            count += 1
        batch = lane.entries[:count]
        del lane.entries[:count]
        return batch

    async def _post(self, lane: _Lane, results: list[Result]) -> None:
        data = codec.encode(Results(self._worker, lane.journal, results))
        lane.posted += 1
        message_id = f"{self._worker}/{lane.partition}/{lane.journal}/{lane.posted}"
        delay, largest = RETRY_S
        while True:
            try:
                await self._broker.post(lane.partition, data, message_id)
                return
            except MessageTooLarge as problem:
                await self._post_less(lane, results, problem)
                return
            except BrokerUnavailable as problem:
                log.warning("%d results of partition %d wait for the broker: %s", len(results), lane.partition, problem)
                await asyncio.sleep(delay)
                delay = min(delay * 2, largest)

    async def _post_less(self, lane: _Lane, results: list[Result], problem: MessageTooLarge) -> None:
        if len(results) > 1:
            half = len(results) // 2
            await self._post(lane, results[:half])
            await self._post(lane, results[half:])
            return
        result = results[0]
        failure = failures.of(
            ErrorCode.WORKER_ERROR, f"the result is too large for the broker: {problem}; put large data into a blob (put_blob)"
        )
        small = Result(result.run, result.item, result.step, result.attempt, None, failure, result.started_us, result.duration_us)
        if result.failure is not None and result.failure.code == failure.code:
            raise problem  # not even the error fits: the broker's limit makes no sense
        await self._post(lane, [small])

    async def _settle(self, frame: Frame) -> None:
        try:
            if frame.hand_back:
                await frame.delivery.nak()
            else:
                await frame.delivery.ack()
        except BrokerUnavailable as problem:
            log.info("a settled frame will come again: %s", problem)
        self._on_settled(frame)


def _size(result: Result) -> int:
    failure = result.failure
    if failure is not None:
        return OVERHEAD + 4 * len(failure.message) + len(failure.data or b"")
    return OVERHEAD + len(result.output or b"")
