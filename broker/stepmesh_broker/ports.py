"""The Broker port: what every backend must do. The docstrings are the contract; `tests/contract/test_broker.py` is its proof.

A broker delivers; the journal owns. So a backend may lose tasks in a disaster (and then shows another
`incarnation`), but never an inbox message that it acknowledged, short of losing its disk.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from stepmesh_broker.protocol.ids import Partition, Pool, Position
from stepmesh_broker.protocol.records import PlainRecord, Topic
from stepmesh_broker.protocol.subjects import Subject

if TYPE_CHECKING:
    from stepmesh_broker.pb.stepmesh.v1.worker_pb2 import FromWorker, ToWorker

START = Position(0)
"""Before the first message."""


class Promises(NamedTuple):
    """Where backends differ, because their brokers do. A reader of this port must be right with the weaker one.

    `ids_shared`: the broker itself knows message ids. Else another connection that uses one gets a position of its own, and both copies
    count in the depth; consumers get one. `floor_exact`: `PoolDepth.floor` is as high as it can be; else it may be lower.
    `order_across_subjects`: a listener with an ending `>` hears one sender in order over all subjects; else in order on each.
    """

    ids_shared: bool = True
    floor_exact: bool = True
    order_across_subjects: bool = True


class PoolDepth(NamedTuple):
    """What waits in a pool, in frames. `floor`: every frame at or below this position was acknowledged by a worker."""

    ready: int
    in_flight: int
    floor: Position


class InboxEntry(NamedTuple):
    """One message of a partition's inbox. Positions grow by message; a redelivered message keeps its position."""

    position: Position
    data: bytes


class Parked(NamedTuple):
    """One message of the dead-letter topic."""

    position: Position
    pool: Pool
    data: bytes
    reason: str
    source: bytes = b""


class Delivery(Protocol):
    """One task frame as one worker got it. Unless acknowledged or extended within the ack wait, it is delivered again."""

    @property
    def data(self) -> bytes:
        """The frame."""
        ...

    @property
    def deliveries(self) -> int:
        """How often this frame was handed out, this time included; ≥ 1."""
        ...

    async def ack(self) -> None:
        """Done: never deliver again. Idempotent. Raises nothing when the broker is away (the frame then comes again)."""
        ...

    async def in_progress(self) -> None:
        """Restart the ack wait."""
        ...

    async def nak(self, delay_s: float = 0.0) -> None:
        """Hand back: deliver again (to anyone) after `delay_s`."""
        ...


class TaskSource(Protocol):
    """One consumer of a pool's group. Several sources of one pool share its frames; each frame goes to one of them."""

    async def fetch(self, max_frames: int, timeout_s: float) -> Sequence[Delivery]:
        """Up to `max_frames` frames as soon as there is one; empty after `timeout_s`. Survives reconnects."""
        ...

    async def close(self) -> None:
        """Take no more; a waiting `fetch` returns empty, a later one raises `BrokerUnavailable`. Frames fetched but not acknowledged
        are delivered again after the ack wait, and may still be settled. Idempotent."""
        ...


class Inbox(Protocol):
    """The single reader of one partition's inbox, in order of position. A newer reader takes the partition over: `fetch` of
    the older one then raises `InboxTaken`. After `close`, `fetch` raises `BrokerUnavailable`."""

    async def fetch(self, max_messages: int, timeout_s: float) -> Sequence[InboxEntry]:
        """Up to `max_messages`, as soon as there is one; empty after `timeout_s`. Unacknowledged ones come again
        after a reconnect or in a new `Inbox`, with the same positions."""
        ...

    async def ack(self, position: Position) -> None:
        """Everything up to and with `position` is journaled and may be removed."""
        ...

    async def close(self) -> None:
        """Stop reading; unacknowledged messages stay for the next reader."""
        ...


class TopicReader(Protocol):
    """The reader of one partition's share of a topic of plain records, in order within each lane. A newer reader takes the share over; an
    older one may not notice at once, so a record may be read by both: `fetch` raises `InboxTaken` when it does. After `close`, it raises
    `BrokerUnavailable`."""

    async def fetch(self, max_messages: int, timeout_s: float) -> Sequence[PlainRecord]:
        """Up to `max_messages`, as soon as there is one; empty after `timeout_s`. Unacknowledged ones come again to the next reader."""
        ...

    async def ack(self, records: Sequence[PlainRecord]) -> None:
        """These are dealt with, and so is all that was fetched before them. Raises nothing when the broker is away (they come again)."""
        ...

    async def close(self) -> None:
        """Stop reading. A waiting `fetch` returns empty. Idempotent."""
        ...


class Subscription(Protocol):
    """A listener that can be ended."""

    async def close(self) -> None:
        """Hear no more. Idempotent."""
        ...


Handler = Callable[[bytes], Awaitable[None]]
Responder = Callable[[bytes], Awaitable[bytes]]


class Requester(Protocol):
    """A connection over which orchestrators can be asked: a broker, or a gateway in front of one. All that a client needs.

    Raises `BrokerUnavailable` (retryable) when it cannot be reached, `MessageTooLarge` above `max_message_bytes`.
    """

    @property
    def max_message_bytes(self) -> int:
        """The largest `data` of any call, in bytes."""
        ...

    async def connect(self) -> None:
        """Open the connection, once. The backend reconnects by itself afterwards."""
        ...

    async def close(self) -> None:
        """Flush what was published, then disconnect. Idempotent."""
        ...

    async def request(self, subject: Subject, data: bytes, timeout_s: float) -> bytes:
        """Ask whoever serves `subject`. Raises `BrokerUnavailable` at once when nobody does, or after `timeout_s`."""
        ...


@runtime_checkable
class TaskGateway(Requester, Protocol):
    """A gateway as workers use it: it keeps frames and leases on their behalf (`stepmesh/v1/worker.proto`)."""

    def work(self, elsewhere: bool = False) -> WorkStream:
        """A new stream of tasks; what is wrong with it shows when it is used. `elsewhere`: from another gateway, if there is one."""
        ...


class WorkStream(Protocol):
    """One worker's stream. Raises `BrokerUnavailable` when it broke: open another one; any other `BrokerError` is not retryable."""

    @property
    def target(self) -> str:
        """Which gateway it leads to, for logs."""
        ...

    async def send(self, message: FromWorker) -> None:
        """Returns when there is room for more; one call at a time."""
        ...

    async def receive(self) -> ToWorker | None:
        """The next message, None when the gateway ended the stream in order; one call at a time."""
        ...

    async def finish(self) -> None:
        """Nothing more will be sent."""
        ...

    def cancel(self) -> None:
        """End it where it is. Idempotent."""
        ...


class Broker(Requester, Protocol):
    """A connection to one namespace of a broker.

    Raises `BrokerUnavailable` (retryable) when it cannot be reached, `MessageTooLarge` above `max_message_bytes`.
    Topics and streams are made on first use with the settings of the backend.
    """

    @property
    def promises(self) -> Promises:
        """What this backend does and others do not."""
        ...

    async def incarnation(self) -> str:
        """Names the present life of the task streams: another value means that undelivered tasks were lost."""
        ...

    async def publish_tasks(self, pool: Pool, data: bytes, message_id: str) -> Position:
        """Add a frame to a pool; returns when the broker has it. The same `message_id` within the dedupe window adds nothing
        and returns the first position (see `Promises.ids_shared`)."""
        ...

    async def tasks(self, pool: Pool) -> TaskSource:
        """Join the pool's consumer group."""
        ...

    async def depth(self, pool: Pool) -> PoolDepth:
        """How much waits. Zeroes for a pool that nobody used yet."""
        ...

    async def post(self, partition: Partition, data: bytes, message_id: str = "") -> Position:
        """Add to a partition's inbox; returns when it is durable as the backend declares. Deduplicated by a non-empty `message_id`."""
        ...

    async def inbox(self, partition: Partition, after: Position) -> Inbox:
        """Read a partition's inbox. Messages at or below `after` are dropped (and acknowledged) by the backend."""
        ...

    async def records(self, topic: Topic, partition: Partition, partitions: int) -> TopicReader | None:
        """Read a partition's share of a topic, to which any program may write (`protocol/records.py`): every record belongs to
        the share of one of the `partitions`. None when this share is, and stays, empty."""
        ...

    async def write(self, topic: Topic, record: PlainRecord) -> None:
        """Write its value, key and headers as a record of the topic, into its lane where the topic has that; returns when the broker has
        it. Place and time are new. Names of headers are in lower case; those that are orders to the broker are left out."""
        ...

    async def park(self, pool: Pool, data: bytes, reason: str, source: bytes = b"") -> Position:
        """Put a message into the namespace's dead-letter topic. `source`: what else is to be known of it, `MAX_SOURCE` bytes of
        `protocol/dead_letters.py` at most."""
        ...

    async def parked(self, limit: int = 1000, after: Position = START) -> Sequence[Parked]:
        """What lies in the dead-letter topic behind a position, oldest first."""
        ...

    async def drop_parked(self, position: Position) -> bool:
        """Remove one; False when it is not there."""
        ...

    async def send(self, subject: Subject, data: bytes) -> None:
        """Tell whoever listens now; at most once, nothing is kept."""
        ...

    async def listen(self, subject: Subject, handler: Handler) -> Subscription:
        """Hear all that is sent to `subject` (an ending `>` matches any rest), each message to every listener, in order per sender
        (see `Promises.order_across_subjects`): from now on what this connection sends, and what others send as soon as their server
        knows of the listener, which takes a moment where a broker is several servers."""
        ...

    async def serve(self, subject: Subject, responder: Responder, group: str = "") -> Subscription:
        """Answer requests; servers with one non-empty `group` share them. Requests are handled concurrently."""
        ...
