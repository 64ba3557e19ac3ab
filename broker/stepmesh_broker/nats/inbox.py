"""A partition's inbox from JetStream, and topics of plain records: shares of a stream, each read by a consumer of its own.

Invariant: messages are handed out in order of position. A reader's consumer has a name that nobody used before, begins at the
oldest message, and is replaced after every reconnect, and whenever the consumer sent what did not arrive (it counts what it sends;
in a cluster, messages are lost between two servers); so order never depends on redelivery timers, and a reader that lost its
partition can neither read nor acknowledge. It must not know what the messages mean.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from typing import Generic, TypeVar

from stepmesh_broker.errors import BrokerUnavailable, InboxTaken
from stepmesh_broker.nats.pull import StandingPull, heard
from stepmesh_broker.nats.streams import Share, Streams
from stepmesh_broker.nats.wire import Disconnected, Wire, published
from stepmesh_broker.ports import InboxEntry
from stepmesh_broker.protocol.ids import Partition, Position
from stepmesh_broker.protocol.records import PlainRecord, Topic

_E = TypeVar("_E")
_log = logging.getLogger(__name__)
READ_AHEAD = 256
"""Messages requested beyond what was fetched: there is only one reader, so nobody else waits for them."""
_RETRY_S = 0.1
_ACK_TIMEOUT_S = 1.0
KEY_HEADER = "stepmesh-key"
"""A message of NATS has no key: this header is that of a plain record."""
_MOST_LOOKS = 100
"""An election takes up to 9 s."""


class ShareReader(ABC, Generic[_E]):
    """What `Inbox` and `TopicReader` have in common. `_entry` makes a message into what is handed out."""

    def __init__(self, wire: Wire, streams: Streams, share: Share, after: Position, taken: InboxTaken) -> None:
        self._wire = wire
        self._streams = streams
        self._share = share
        self._acked = after
        self._taken = taken
        self._unread: deque[_E] = deque()
        self._unacked: deque[tuple[Position, bytes]] = deque()
        self._news = asyncio.Event()
        self._consumer = ""
        self._names: set[str] = set()
        self._born: datetime | None = None
        self._last_ack = b""
        self._pull: StandingPull | None = None
        self._arrivals = 0
        self._looks = 0
        self._closed = False

    async def open(self) -> None:
        """Begin to read at the oldest message after the last acknowledged one."""
        self._unread.clear()
        self._unacked.clear()
        name = f"{self._share.prefix}{secrets.token_hex(6)}"
        stream = await self._streams.ensure(self._share.stream)
        self._born = stream.created
        if self._acked > stream.state.last_seq:
            self._acked = Position(0)  # a position of a stream that was lost
        self._names.add(name)  # before: the server may make it, and the answer may be lost
        await self._streams.open_reader(self._share, name)
        self._consumer = name
        self._arrivals = self._looks = 0
        self._pull = StandingPull(self._wire, self._share.stream, name, self._arrived, self._news.set)

    async def fetch(self, max_messages: int, timeout_s: float) -> Sequence[_E]:
        """Up to `max_messages` as soon as there is one. Raises `InboxTaken`, or `BrokerUnavailable` once closed."""
        if self._closed:
            raise BrokerUnavailable("this reader is closed")
        deadline = asyncio.get_running_loop().time() + timeout_s
        while not (self._unread or self._closed) and (left := deadline - asyncio.get_running_loop().time()) > 0:
            await self._wait(max_messages, left)
        return [self._unread.popleft() for _ in range(min(max_messages, len(self._unread)))]

    async def ack_upto(self, position: Position) -> None:
        """Everything up to and with `position` may go. Sent, not waited for; what gets lost is acknowledged when it comes again."""
        self._acked = max(self._acked, position)
        done: list[bytes] = []
        while self._unacked and self._unacked[0][0] <= position:
            self._last_ack = self._unacked.popleft()[1]
            done.append(b"PUB %b 0\r\n\r\n" % self._last_ack)
        if done:
            self._wire.put(b"".join(done))

    async def close(self) -> None:
        """Stop reading; the consumer goes, the messages stay. A waiting `fetch` returns empty."""
        if self._closed:
            return
        self._closed = True
        self._news.set()
        if self._pull is not None:
            self._pull.give_back()
        if self._wire.is_connected and self._consumer:
            await self._acks_arrived()
            await self._remove_consumer()

    def disconnected(self) -> None:
        """The connection was lost, or messages: what is unacknowledged will be read anew."""
        if self._pull is not None:
            self._pull.give_back()
        self._pull = None
        self._unread.clear()
        self._unacked.clear()

    def reconnected(self) -> None:
        """The connection is back."""
        self._news.set()

    async def _wait(self, max_messages: int, timeout_s: float) -> None:
        self._news.clear()
        if self._pull is None and self._wire.is_connected:
            await self._reopen()
        elif self._pull is None:
            await heard(self._news, timeout_s)
        elif self._pull.gone:
            await self._lost_consumer()
        elif not self._pull.silence_in or self._pull.last_sent > self._arrivals:
            _log.info("%s: the server's consumer fell silent or sent what did not arrive; reading anew", self._share.subject)
            self.disconnected()
        else:
            self._pull.want(max(READ_AHEAD, max_messages))
            await heard(self._news, min(timeout_s, self._pull.silence_in))

    async def _reopen(self) -> None:
        """After a reconnect, or after the stream was lost."""
        try:
            if set(await self._streams.readers(self._share)) - self._names:
                raise self._taken
            await self.open()
        except BrokerUnavailable:
            await asyncio.sleep(_RETRY_S)

    async def _lost_consumer(self) -> None:
        """The next reader removed the consumer, and then this one is over; or the whole stream is new; or the consumer is there, and a
        cluster is finding a leader for it: one that never finds one is replaced."""
        try:
            stream = await self._streams.find(self._share.stream)
            left = await self._streams.readers(self._share)
        except BrokerUnavailable:
            await asyncio.sleep(_RETRY_S)
            return
        if stream is None or stream.created != self._born or self._pull is None:
            self._pull = None
        elif self._consumer in left and self._looks < _MOST_LOOKS:
            self._pull.gone = False
            self._looks += 1
            await asyncio.sleep(_RETRY_S)
        elif self._consumer in left:
            self.disconnected()
        else:
            raise self._taken

    async def _remove_consumer(self) -> None:
        try:
            await self._streams.remove_consumer(self._share.stream, self._consumer)
        except BrokerUnavailable as problem:
            _log.info("the consumer of %s stays until its next reader removes it: %s", self._share.subject, problem)

    async def _acks_arrived(self) -> None:
        """A consumer that is removed forgets acknowledgements that it did not work on yet; it answers the last one after all others."""
        if self._last_ack:
            try:
                await self._wire.ask(self._last_ack.decode(), b"", b"", _ACK_TIMEOUT_S)
            except (TimeoutError, Disconnected):
                _log.info("the last acknowledgements of %s may be lost; those messages come again", self._share.subject)

    @abstractmethod
    def _entry(self, position: Position, time_ms: int, data: bytes, headers: bytes | None) -> _E:
        """A message as it is handed out."""

    def _arrived(self, reply: bytes, data: bytes, headers: bytes | None) -> None:
        tokens = reply.split(b".")
        at = 5 if len(tokens) == 9 else 7
        position = Position(int(tokens[at]))
        if tokens[at - 2].decode() != self._consumer or not self._is_next(int(tokens[at + 1])):
            return  # of a consumer that was replaced, or there is a gap before it: it comes again
        if position <= self._acked:
            self._last_ack = reply
            self._wire.put(published(reply.decode(), b""))
            return
        self._unacked.append((position, reply))
        self._unread.append(self._entry(position, int(tokens[at + 2]) // 1_000_000, data, headers))
        self._news.set()

    def _is_next(self, sent: int) -> bool:
        if sent == self._arrivals + 1:
            self._arrivals = sent
            return True
        if self._pull is not None:
            self._pull.last_sent = max(sent, self._arrivals + 1)
        self._news.set()
        return False


class NatsInbox(ShareReader[InboxEntry]):
    """`Inbox` of a partition."""

    def __init__(self, wire: Wire, streams: Streams, partition: Partition, after: Position) -> None:
        super().__init__(wire, streams, streams.inbox_share(partition), after, InboxTaken.of(partition))

    async def ack(self, position: Position) -> None:
        """Everything up to and with `position` may go."""
        await self.ack_upto(position)

    def _entry(self, position: Position, time_ms: int, data: bytes, headers: bytes | None) -> InboxEntry:
        return InboxEntry(position, data)


class NatsTopicReader(ShareReader[PlainRecord]):
    """`TopicReader` of all records of a topic: the stream is one lane."""

    def __init__(self, wire: Wire, streams: Streams, topic: Topic) -> None:
        super().__init__(wire, streams, streams.plain_share(topic), Position(0), InboxTaken.of_topic(topic))

    async def ack(self, records: Sequence[PlainRecord]) -> None:
        """They may go, and those before them."""
        if records:
            await self.ack_upto(Position(max(record.position for record in records)))

    def _entry(self, position: Position, time_ms: int, data: bytes, headers: bytes | None) -> PlainRecord:
        named = header_lines(headers)
        return PlainRecord(0, position, time_ms, data, named.get(KEY_HEADER, b""), named)


def header_lines(raw: bytes | None) -> dict[str, bytes]:
    """Headers by their names in lower case; of several with one name the last."""
    named: dict[str, bytes] = {}
    for line in (raw or b"").split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            named[name.strip().decode(errors="replace").lower()] = value.strip()
    return named
