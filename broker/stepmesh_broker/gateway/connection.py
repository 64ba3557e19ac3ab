"""`GatewayConnection`: the Requester port through a gateway, and the stream that a worker takes its tasks from.

Invariant: questions and the stream each use one gateway at a time, and the next of the address when that one is away. What is asked goes
to an orchestrator's api, or to the owner of a partition: a gateway passes nothing else on. It must not know what the messages mean.
"""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio

from stepmesh_broker.errors import BrokerUnavailable, MessageTooLarge
from stepmesh_broker.gateway.address import GatewayAddress
from stepmesh_broker.gateway.refusals import GatewayRefused, raised, unreachable
from stepmesh_broker.gateway.stream import WorkStream
from stepmesh_broker.pb.stepmesh.v1.gateway_pb2 import AskRequest, AskResponse
from stepmesh_broker.protocol import subjects
from stepmesh_broker.protocol.ids import Partition
from stepmesh_broker.protocol.subjects import Subject

ASK = "/stepmesh.v1.GatewayService/Ask"
OVERHEAD = 64 * 1024
"""Bytes of a gRPC message kept free beside the request or answer that it carries."""
LATE_S = 2.0
"""How much longer than the gateway this side waits for an answer, in seconds: then it is the way that is broken."""
_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),  # a connection is closed with its owner, not with the last of the process
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]


class GatewayConnection:
    """`Requester` for one namespace, and `TaskGateway`, over the gateways of an address."""

    def __init__(self, address: GatewayAddress) -> None:
        self._address = address
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._asks = 0
        self._works = 0
        self._opened = False
        self._api = subjects.api(address.namespace)
        self._owners = subjects.control(address.namespace, Partition(0)).removesuffix("0")

    @property
    def max_message_bytes(self) -> int:
        """What fits into one gRPC message."""
        return self._address.message_bytes - OVERHEAD

    async def connect(self) -> None:
        """Raises `BrokerUnavailable` when no gateway of the address answers within `connect_timeout_s` each."""
        self._opened = True
        for number, target in enumerate(self._address.targets):
            try:
                await asyncio.wait_for(self._channel(target).channel_ready(), self._address.connect_timeout_s)
            except TimeoutError:
                continue
            self._asks = self._works = number
            return
        await self.close()
        raise BrokerUnavailable(f"no gateway answers at {self._address}", hint="start `stepmesh server`, or correct STEPMESH_URL")

    async def close(self) -> None:
        """End what is under way and disconnect."""
        self._opened = False
        while self._channels:
            await self._channels.popitem()[1].close()

    async def request(self, subject: Subject, data: bytes, timeout_s: float) -> bytes:
        """Ask through the gateway."""
        if len(data) > self.max_message_bytes:
            raise MessageTooLarge.of(len(data), self.max_message_bytes)
        request = self._asked(subject)
        request.request, request.timeout_ms, request.namespace = data, round(timeout_s * 1000), self._address.namespace
        at, target = self._asks, self._target(self._asks)
        ask: grpc.aio.UnaryUnaryMultiCallable[AskRequest, AskResponse] = self._channel(target).unary_unary(
            ASK, request_serializer=AskRequest.SerializeToString, response_deserializer=AskResponse.FromString
        )
        try:
            answer = await ask(request, timeout=timeout_s + LATE_S)
        except grpc.aio.AioRpcError as problem:
            if unreachable(problem) and at == self._asks:
                self._asks += 1
            raise raised(problem, target) from problem
        return answer.answer

    def work(self, elsewhere: bool = False) -> WorkStream:
        """A new stream for a worker. `elsewhere`: from the next gateway of the address."""
        if elsewhere:
            self._works += 1
        target = self._target(self._works)
        return WorkStream(self._channel(target), target)

    def _asked(self, subject: Subject) -> AskRequest:
        if subject == self._api:
            return AskRequest(any=True)
        partition = subject.removeprefix(self._owners)
        if partition == subject or not partition.isdigit():
            raise GatewayRefused(
                f"a gateway passes nothing on to {subject}", hint="connect to the broker itself: STEPMESH_URL=nats://host:4222"
            )
        return AskRequest(partition=int(partition))

    def _target(self, at: int) -> str:
        return self._address.targets[at % len(self._address.targets)]

    def _channel(self, target: str) -> grpc.aio.Channel:
        if not self._opened:
            raise BrokerUnavailable("this connection is not open", hint="call connect() first, and nothing after close()")
        channel = self._channels.get(target)
        if channel is None:
            limit = self._address.message_bytes
            sizes = [("grpc.max_receive_message_length", limit), ("grpc.max_send_message_length", limit)]
            channel = self._channels[target] = grpc.aio.insecure_channel(target, options=[*_OPTIONS, *sizes])
        return channel
