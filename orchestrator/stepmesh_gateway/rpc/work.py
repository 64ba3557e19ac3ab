"""stepmesh.v1 WorkerService: one stream per worker, on a seat of the bridge.

Invariant: a stream that ends, however it ends, gives up its seat; what its worker had not begun is then another's at once. The first
message says who comes. It must not know pools, leases or brokers: those are the bridge's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from google.protobuf.descriptor import ServiceDescriptor

from stepmesh_broker.errors import StepmeshError
from stepmesh_broker.pb.stepmesh.v1 import worker_pb2 as pb
from stepmesh_broker.protocol.ids import Pool, WorkerId
from stepmesh_broker.protocol.subjects import checked_name
from stepmesh_gateway.identity import TaskId
from stepmesh_gateway.operations import Operations
from stepmesh_gateway.rpc.gateway import check_namespace, turn_bytes
from stepmesh_gateway.rpc.statuses import Context
from stepmesh_gateway.rpc.work_line import WorkLine
from stepmesh_gateway.translate.work import result_of
from stepmesh_gateway.work.bridge import Bridge
from stepmesh_gateway.work.line import Offer, WorkerHello
from stepmesh_gateway.work.seat import Seat

DESCRIPTOR: ServiceDescriptor = pb.DESCRIPTOR.services_by_name["WorkerService"]
CREDIT = 10_000
"""A worker's tasks at once, and the credit that it has not used, are cut to this: what waits for a slow reader stays small."""
MESSAGE_BYTES = 4 * 1024 * 1024
"""What a worker takes that does not say so: the limit of gRPC clients unless they are told otherwise."""
NAME_LENGTH = 256
"""Characters of a worker's id at most."""


class NoHello(StepmeshError):
    """A worker's stream that does not begin with who the worker is."""

    default_code = "SM-7304"


class WorkMethods:
    """The RPC of WorkerService."""

    def __init__(self, bridge: Bridge, operations: Operations) -> None:
        self._bridge = bridge
        self._operations = operations
        self._settings = operations.settings

    async def Work(self, messages: AsyncIterator[pb.FromWorker], context: Context) -> AsyncIterator[pb.ToWorker]:
        """Until the worker ends the stream, or leaves, and all its results are recorded. Raises `NoHello`, `OtherNamespace`, what
        `Bridge.join` raises, and `MalformedMessage` for an id that is none."""
        first = await anext(messages, None)
        if first is None or not first.HasField("hello"):
            raise NoHello("the stream does not begin with a hello", hint="send FromWorker.hello in the first message")
        hello, line = self._hello(first.hello), WorkLine()
        seat = await self._bridge.join(hello, line)
        visit = Visit(seat, line, self._settings.limits.payload_bytes)
        listener = asyncio.create_task(visit.listen(first, messages), name=f"stepmesh stream of {hello.worker}")
        listener.add_done_callback(lambda _: line.wake.set())
        try:
            yield pb.ToWorker(welcome=self._welcome())
            while True:
                message = line.next()
                if message is not None:
                    yield message
                    continue
                if listener.done():
                    listener.result()
                if visit.over or (listener.done() and not line.awaited):
                    return
                await line.wake.wait()
        finally:
            listener.cancel()
            seat.lost()

    def _welcome(self) -> pb.Welcome:
        return pb.Welcome(
            heartbeat_ms=self._settings.heartbeat_s * 1000,
            payload_bytes=self._settings.limits.payload_bytes,
            gateway=self._operations.id,
            turn_bytes=turn_bytes(self._operations),
        )

    def _hello(self, said: pb.Hello) -> WorkerHello:
        check_namespace(said.namespace, self._operations)
        if not 0 < len(said.worker) <= NAME_LENGTH:
            raise NoHello(f"the worker's id has {len(said.worker)} characters", hint=f"use 1 to {NAME_LENGTH}, the same over reconnects")
        return WorkerHello(
            WorkerId(said.worker),
            Pool(checked_name("pool", said.pool)),
            min(said.capacity or 1, CREDIT),
            said.version,
            offers_of(said),
            said.exclusive,
            running=tuple(TaskId.parse(id) for id in said.running),
            message_bytes=min(said.message_bytes or MESSAGE_BYTES, self._settings.limits.message_bytes),
        )


class Visit:
    """What one worker says on its stream, carried to its seat."""

    def __init__(self, seat: Seat, line: WorkLine, payload_bytes: int) -> None:
        self._seat = seat
        self._line = line
        self._payload_bytes = payload_bytes
        self._leaving = False

    @property
    def over(self) -> bool:
        """The worker leaves, and all that it had is recorded."""
        return self._leaving and not self._seat.in_hand and not self._line.awaited

    async def listen(self, first: pb.FromWorker, messages: AsyncIterator[pb.FromWorker]) -> None:
        """Until the worker says no more."""
        self._hear(first)
        async for message in messages:
            if message.HasField("hello"):
                self._seat.offer(offers_of(message.hello))
            self._hear(message)
            await self._line.calm.wait()

    def _hear(self, message: pb.FromWorker) -> None:
        seat, line = self._seat, self._line
        if message.credit:
            seat.allow(max(0, min(message.credit, CREDIT - seat.credit - line.unsent)))
        for result in message.results:
            task = line.ended(result.id)
            line.wait_for(result.id)
            seat.finish(task, result_of(result, task.ref, self._payload_bytes))
        for told in message.progress:
            fraction = told.fraction if told.HasField("fraction") else None
            seat.progress(line.named(told.id), fraction, told.details or None)
        for id in message.returned:
            seat.give_back(line.ended(id))
        for id in message.idle:
            seat.idle(line.ended(id))
        for one in message.answers:
            seat.answer(one.number, one.answer)
        if message.leaving:
            self._leaving = True
            seat.leave()
        if self._leaving:
            line.wake.set()


def offers_of(said: pb.Hello) -> tuple[Offer, ...]:
    """What a worker offers: a component is called by its path."""
    return tuple(
        Offer(
            one.path, one.path, one.description, one.input_schema.encode() or None, one.output_schema.encode() or None, one.function,
            one.version,
        )
        for one in said.components
    )  # fmt: skip
