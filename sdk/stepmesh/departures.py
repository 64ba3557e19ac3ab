"""What a worker still has to say to its gateway, and what the gateway has not confirmed.

Invariant: a result is kept until it is recorded, and goes out again on every new stream until then; nothing else outlives a stream,
because the next gateway has taken the rest back. This module must not know streams or clocks.
"""

from __future__ import annotations

import asyncio
from collections import deque

from stepmesh import gateway_messages
from stepmesh_broker.pb.stepmesh.v1 import worker_pb2 as pb
from stepmesh_broker.protocol.messages import Result

MESSAGE_BYTES = 1024 * 1024
"""Results in one message, in bytes; a larger one travels alone."""
MESSAGE_RESULTS = 2048
"""Results in one message."""


class Departures:
    """`wake` is set while there may be something to say."""

    def __init__(self) -> None:
        self.wake = asyncio.Event()
        self.unrecorded: dict[str, Result] = {}
        self.unrecorded_bytes = 0
        self._unsent: dict[str, Result] = {}
        self._returned: list[str] = []
        self._idle: list[str] = []
        self._answers: deque[pb.Answer] = deque()
        self._progress: list[pb.Progress] = []
        self._hello: pb.Hello | None = None
        self._leaving = self._said_leaving = self._beat = False

    @property
    def pending(self) -> int:
        """Results that were not sent on this stream."""
        return len(self._unsent)

    @property
    def empty(self) -> bool:
        """Nothing to send, nothing to be confirmed."""
        said = self._hello is None and self._said_leaving == self._leaving
        return said and not (self.unrecorded or self._returned or self._idle)

    def begin(self, hello: pb.Hello) -> None:
        """A new stream."""
        self._unsent = dict(self.unrecorded)
        self._said_leaving = False
        self.introduce(hello)

    def introduce(self, hello: pb.Hello) -> None:
        """Say who this worker is."""
        self._hello = hello
        self.wake.set()

    def end(self) -> None:
        """The stream is over: what it was to say of unfinished tasks is nobody's concern any more."""
        self._hello = None
        self._returned.clear()
        self._idle.clear()
        self._answers.clear()
        self._progress.clear()

    def result(self, id: str, result: Result) -> None:
        """A task ended."""
        self.unrecorded[id] = self._unsent[id] = result
        self.unrecorded_bytes += _bytes(result)
        self.wake.set()

    def hand_back(self, id: str) -> None:
        """A task will not be worked on here."""
        self._returned.append(id)
        self.wake.set()

    def let_go(self, id: str) -> None:
        """A function waits for others: nothing of it runs here, and it has no result."""
        self._idle.append(id)
        self.wake.set()

    def answer(self, number: int, answer: bytes) -> None:
        """To a question of this stream."""
        self._answers.append(pb.Answer(number=number, answer=answer))
        self.wake.set()

    def beat(self, progress: list[pb.Progress]) -> None:
        """A sign of life, whether or not there is something to tell."""
        self._progress.extend(progress)
        self._beat = True
        self.wake.set()

    def leave(self) -> None:
        """Say that no more tasks are wanted."""
        self._leaving = True
        self.wake.set()

    def recorded(self, id: str) -> None:
        """The result need not be kept any more."""
        result = self.unrecorded.pop(id, None)
        if result is not None:
            self.unrecorded_bytes -= _bytes(result)
            self._unsent.pop(id, None)

    def next(self, credit: int) -> pb.FromWorker | None:
        """The next message, with as much as fits; None when there is nothing to say."""
        if self._answers and self._hello is None:  # each by itself: it may fill a message
            return pb.FromWorker(credit=credit, answers=[self._answers.popleft()])
        leaving = self._leaving and not self._said_leaving
        ended = self._unsent or self._returned or self._idle
        if not (ended or credit or self._progress or self._beat or leaving or self._hello):
            return None
        message = pb.FromWorker(credit=credit, progress=self._progress, returned=self._returned, leaving=leaving, idle=self._idle)
        if self._hello is not None:
            message.hello.CopyFrom(self._hello)
        self._fill(message)
        self._returned.clear()
        self._idle.clear()
        self._progress.clear()
        self._hello, self._beat, self._said_leaving = None, False, self._leaving
        return message

    def _fill(self, message: pb.FromWorker) -> None:
        size, unsent = 0, self._unsent
        for count, (id, result) in enumerate(unsent.items()):
            if count and (size + _bytes(result) > MESSAGE_BYTES or count == MESSAGE_RESULTS):
                break
            size += gateway_messages.add_result(message, id, result)
        if len(message.results) == len(unsent):
            unsent.clear()
        else:
            for sent in message.results:
                del unsent[sent.id]


def _bytes(result: Result) -> int:
    failure = result.failure
    return len(result.output or b"") + (0 if failure is None else 4 * len(failure.message) + len(failure.data or b""))
