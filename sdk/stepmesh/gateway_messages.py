"""Messages of `stepmesh.v1.WorkerService` ⇄ the SDK's own records. Pure: no I/O, no clock.

Invariant: JSON text passes as it is, and a task's id comes back exactly as it came. This module must not know streams.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from msgspec.structs import replace

from stepmesh.attempt import Attempt, Frame
from stepmesh.component import Components
from stepmesh.session import Identity
from stepmesh_broker.pb.stepmesh.v1 import worker_pb2 as pb
from stepmesh_broker.protocol.ids import Partition, RunId
from stepmesh_broker.protocol.messages import FORMAT, Result, Task, TaskFrame

log = logging.getLogger("stepmesh.worker")

SCHEMAS_BYTES = 1024 * 1024
"""A hello that is larger than this leaves the schemas out."""


class KeptByGateway:
    """The delivery of what a gateway sent: the gateway keeps the frame, so there is nothing to do here."""

    data = b""

    def __init__(self, deliveries: int) -> None:
        self.deliveries = deliveries

    async def ack(self) -> None:
        """The gateway's."""

    async def in_progress(self) -> None:
        """The gateway's."""

    async def nak(self, delay_s: float = 0.0) -> None:
        """The gateway's."""


_KEPT = {True: KeptByGateway(1), False: KeptByGateway(2)}


class GatewayAttempt(Attempt):
    """`id`: of the task, as the gateway named it. `came_at`: loop time in s. `told`: the progress that the gateway knows."""

    __slots__ = ("came_at", "id", "told")

    def __init__(self, id: str, task: Task, frame: Frame, came_at: float) -> None:
        super().__init__(task, frame, claim_first=False)
        self.id = id
        self.came_at = came_at
        self.told: tuple[float | None, bytes | None] = (None, None)


def attempts_of(tasks: Iterable[pb.Task], identity: Identity, now: float) -> list[GatewayAttempt]:
    """The attempts of one message; those of one partition share a frame, which stands for what the gateway keeps."""
    frames: dict[tuple[int, str, bool], Frame] = {}
    found: list[GatewayAttempt] = []
    for task in tasks:
        journal, fresh = (task.activation.journal, task.activation.fresh) if task.HasField("activation") else ("", False)
        frame = frames.get((task.partition, journal, fresh))
        if frame is None:
            header = TaskFrame(FORMAT, identity.namespace, identity.pool, Partition(task.partition), 0, journal, [])
            frame = frames[task.partition, journal, fresh] = Frame(_KEPT[fresh], header, now)
        found.append(GatewayAttempt(task.id, _task(task), frame, now))
    return found


def _task(task: pb.Task) -> Task:
    run, root = task.run_id, task.root_run_id
    made = Task(
        RunId(run), task.item, task.step, task.attempt, 1, task.step_id, task.component, task.input, "" if root == run else root,
        task.timeout_ms, False, task.traceparent, dict(task.path_params) or None, task.flow_id,
    )  # fmt: skip
    if not task.HasField("activation"):
        return made
    given = task.activation
    return replace(
        made, at_ms=given.at_ms, records=given.records, history=given.history, driver=given.driver, seen=given.seen, news=given.news
    )


def add_result(message: pb.FromWorker, id: str, result: Result) -> int:
    """Add a result to a message; about how many bytes it takes."""
    failure = result.failure
    if failure is None:
        output = result.output or b"null"
        message.results.add(id=id, output=output, started_us=result.started_us, duration_us=result.duration_us)
        return len(output) + len(id) + 32
    told = pb.Failure(code=failure.code, message=failure.message, data=failure.data or b"")
    if failure.retry_after_ms is not None:
        told.retry_after_ms = failure.retry_after_ms
    message.results.add(id=id, failure=told, started_us=result.started_us, duration_us=result.duration_us)
    return told.ByteSize() + len(id) + 32


def hello(identity: Identity, capacity: int, components: Components, running: list[str], message_bytes: int) -> pb.Hello:
    """What a stream begins with."""
    said = pb.Hello(
        worker=identity.worker,
        pool=identity.pool,
        capacity=capacity,
        version=f"stepmesh-python/{identity.version}",
        components=[
            pb.Component(
                path=component.path,
                description=component.description,
                input_schema=(component.input_schema or b"").decode(),
                output_schema=(component.output_schema or b"").decode(),
                function=component.query is not None,
                version=component.version,
            )
            for component in components
        ],
        exclusive=identity.exclusive,
        running=running,
        namespace=identity.namespace,
        message_bytes=message_bytes,
    )
    if said.ByteSize() > SCHEMAS_BYTES:
        log.error("the schemas of %d components are left out: they have %d bytes", len(said.components), said.ByteSize())
        for component in said.components:
            component.ClearField("input_schema")
            component.ClearField("output_schema")
    return said
