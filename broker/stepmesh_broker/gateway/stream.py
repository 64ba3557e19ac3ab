"""One `WorkerService.Work` call, as a worker uses it: send, receive, end.

Invariant: whatever ends the call is raised as an error of ours, once to the sender and once to the receiver. It must not know what the
messages mean, nor when to call again.
"""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio

from stepmesh_broker.errors import BrokerError, BrokerUnavailable
from stepmesh_broker.gateway.refusals import error_of, raised
from stepmesh_broker.pb.stepmesh.v1.worker_pb2 import FromWorker, ToWorker

WORK = "/stepmesh.v1.WorkerService/Work"


class WorkStream:
    """`target`: `host:port` of the gateway. One sender and one receiver at a time."""

    def __init__(self, channel: grpc.aio.Channel, target: str) -> None:
        self.target = target
        work: grpc.aio.StreamStreamMultiCallable[FromWorker, ToWorker] = channel.stream_stream(
            WORK, request_serializer=FromWorker.SerializeToString, response_deserializer=ToWorker.FromString
        )
        self._call = work()

    async def send(self, message: FromWorker) -> None:
        """Returns when the connection has room for more. Raises `BrokerUnavailable`, `GatewayRefused`, `MessageTooLarge`."""
        try:
            await self._call.write(message)
        except grpc.aio.AioRpcError as problem:
            raise raised(problem, self.target) from problem
        except asyncio.InvalidStateError as problem:  # the call is over; the receiver knows why
            raise await self._end() from problem

    async def receive(self) -> ToWorker | None:
        """The next message; None when the gateway ended the call in order. Raises what `send` raises."""
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as problem:
            raise raised(problem, self.target) from problem
        if isinstance(message, ToWorker):
            return message
        if await self._call.code() is grpc.StatusCode.OK:
            return None
        raise await self._end()

    async def finish(self) -> None:
        """Nothing more will be sent; the gateway may still answer."""
        if not self._call.done():
            await self._call.done_writing()

    def cancel(self) -> None:
        """End the call where it is. Idempotent."""
        self._call.cancel()

    async def _end(self) -> BrokerError:
        code = await self._call.code()
        if code is grpc.StatusCode.OK:
            return BrokerUnavailable(f"the gateway {self.target} ended the stream")
        return error_of(code, await self._call.details(), self.target)
