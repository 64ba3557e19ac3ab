"""Turns of all functions of a worker on their way to the shards: those of one partition travel together.

Invariant: a turn is repeated until it is answered, because the shard knows it again. At most two messages to a partition are under way;
what comes meanwhile waits and goes with the next one, so that a busy worker sends few and large ones.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Coroutine
from typing import Any

from stepmesh.hedging import first_answer
from stepmesh.requests import RETRY_S, TIMEOUT_S, TOLD_AGAIN_S
from stepmesh_broker.errors import BrokerError, BrokerUnavailable, MalformedMessage, MessageTooLarge
from stepmesh_broker.ports import Requester
from stepmesh_broker.protocol import codec, subjects
from stepmesh_broker.protocol.functions import FunctionsTurned, FunctionTurn, FunctionTurned, FunctionTurns
from stepmesh_broker.protocol.histories import size_of
from stepmesh_broker.protocol.ids import Namespace, Partition, WorkerId

log = logging.getLogger("stepmesh.worker")

AT_ONCE = 2
"""Messages to one partition that are under way."""
TURNS = 256
"""Turns in one message at most."""
MESSAGE_BYTES = 512 * 1024
"""Turns in one message of more than one, bytes, where the way carries so much."""
OVERHEAD_BYTES = 64 * 1024
"""Of a message, beside the payload of its largest record: its other fields, and a failure's text."""
_Waiting = tuple[FunctionTurn, asyncio.Future[FunctionTurned | None]]


class Turns:
    """Of one worker over one connection."""

    def __init__(self, broker: Requester, namespace: Namespace, worker: WorkerId) -> None:
        self._broker = broker
        self.payload_bytes = broker.max_message_bytes - OVERHEAD_BYTES
        """The largest value that a record may carry."""
        self._answer_bytes = 0
        self._namespace = namespace
        self._worker = worker
        self._waiting: defaultdict[Partition, list[_Waiting]] = defaultdict(list)
        self._sending: defaultdict[Partition, int] = defaultdict(int)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def limit(self, message_bytes: int) -> None:
        """No message of the way between carries more than that, in either direction."""
        fitting = min(message_bytes, self._broker.max_message_bytes)
        self.payload_bytes, self._answer_bytes = fitting - OVERHEAD_BYTES, fitting

    async def take(self, partition: Partition, turn: FunctionTurn) -> FunctionTurned:
        """Tell a turn until it is answered."""
        delay, largest = RETRY_S
        while True:
            answer: asyncio.Future[FunctionTurned | None] = asyncio.get_running_loop().create_future()
            self._waiting[partition].append((turn, answer))
            self._send(partition)
            turned = await answer
            if turned is not None:
                return turned
            await asyncio.sleep(delay)
            delay = min(2 * delay, largest)

    def close(self) -> None:
        """Tell nothing more."""
        self._closed = True
        for task in self._tasks:
            task.cancel()

    def _send(self, partition: Partition) -> None:
        if not self._closed and self._sending[partition] < AT_ONCE and self._waiting[partition]:
            self._sending[partition] += 1
            self._spawn(self._deliver(partition))

    async def _deliver(self, partition: Partition) -> None:
        await asyncio.sleep(0)  # what this pass of the loop still brings goes along
        waiting = self._waiting[partition]
        count = _fitting(waiting, min(MESSAGE_BYTES, self.payload_bytes))
        taken, self._waiting[partition] = waiting[:count], waiting[count:]
        answers: list[FunctionTurned | None] = [None] * len(taken)
        try:
            answers = await self._answers(partition, [turn for turn, _ in taken]) if taken else []
        except MessageTooLarge as problem:  # it stays too large however often it is told
            for _, future in taken:
                if not future.done():
                    future.set_exception(problem)
        finally:
            for (_, future), answer in zip(taken, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
            self._sending[partition] -= 1
            self._send(partition)

    async def _answers(self, partition: Partition, turns: list[FunctionTurn]) -> list[FunctionTurned | None]:
        message = FunctionTurns(self._worker, turns, answer_bytes=self._answer_bytes)
        subject, data = subjects.control(self._namespace, partition), codec.encode(message)
        try:
            answer = codec.decode_answer(await first_answer(lambda: self._broker.request(subject, data, TIMEOUT_S), TOLD_AGAIN_S))
        except (BrokerUnavailable, MalformedMessage):
            return [None] * len(turns)
        except MessageTooLarge:
            raise
        except BrokerError as problem:  # of a gateway of an earlier release: the next one may be another
            log.warning("turns of functions wait: %s", problem)
            return [None] * len(turns)
        if isinstance(answer, FunctionsTurned) and len(answer.answers) == len(turns):
            return answer.answers
        return [None] * len(turns)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="stepmesh turns")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _fitting(waiting: list[_Waiting], most: int) -> int:
    """How many go with one message of so many bytes; the first one always does."""
    size = 0
    for index, (turn, _) in enumerate(waiting[:TURNS]):
        size += sum(map(size_of, turn.records)) + sum(map(len, turn.abandoned)) + len(turn.continued or b"")
        if size > most and index:
            return index
    return min(len(waiting), TURNS)
