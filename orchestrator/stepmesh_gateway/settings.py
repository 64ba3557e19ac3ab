"""What a gateway is told when it starts; its limits, each with the name under which a refusal explains it."""

from __future__ import annotations

import msgspec

from stepmesh_broker.protocol.ids import Namespace, Pool


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one client or worker may ask of a gateway; a refusal names the limit, its value, and the setting that raises it."""

    payload_bytes: int = 8 * 1024 * 1024
    """One input, output, variable set or blob, as JSON."""
    message_bytes: int = 64 * 1024 * 1024
    """One gRPC message or HTTP body: a payload as protobuf Values takes several times the bytes of its JSON."""
    assignment_bytes: int = 4 * 1024 * 1024
    """One task as a stepflow.v1 message: gRPC clients refuse larger ones unless they are told otherwise, and lose their stream then."""
    header_bytes: int = 16 * 1024
    """All headers of one HTTP request; gRPC metadata."""
    streams_per_worker: int = 4
    """PullTasks or Work streams with one worker id."""
    streams: int = 10_000
    """Open task and event streams in all."""
    request_s: float = 300.0
    """The longest wait of one request."""
    arrival_s: float = 30.0
    """Until the head of an HTTP request has come, and then until its body has."""
    idle_s: float = 60.0
    """How long an HTTP connection is kept without a request, and how long a reader may take nothing of an answer."""
    connections: int = 10_000
    """Open connections to the port, whatever they speak."""
    unread_events: int = 1_000
    """Events that wait for one slow reader; beyond it the gateway reads no further until the reader did."""


class NatsQueue(msgspec.Struct, frozen=True, kw_only=True):
    """Workers that take their tasks from a NATS server: `<stream>.tasks` in the work-queue stream `stream`."""

    pool: Pool
    url: str
    stream: str


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """`port` 0: any free one. `advertised`: `host:port` that workers are told to answer to; "" is `host:port` itself, with
    127.0.0.1 for a host that means every interface. `grpc_port`: a port for gRPC alone, beside the one that takes all; workers are told
    that one. `heartbeat_s`: how often workers say that a task goes on; a third of a lease. `silent_s`: a claimed task of which nothing
    was heard for so long is lost, even if its worker is connected (whose event loop may be blocked meanwhile); `queue_silent_s`: the same
    for workers of `queues`, who are not connected."""

    namespace: Namespace = Namespace("default")
    host: str = "127.0.0.1"
    port: int = 0
    grpc_port: int | None = None
    advertised: str = ""
    heartbeat_s: int = 2
    silent_s: float = 3600.0
    queue_silent_s: float = 60.0
    drain_s: float = 10.0
    queues: tuple[NatsQueue, ...] = ()
    limits: Limits = Limits()
