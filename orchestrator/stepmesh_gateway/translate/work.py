"""Messages of `stepmesh.v1.WorkerService` ⇄ the bridge's values. Pure. JSON text passes as it is; who keeps the journal checks it."""

from __future__ import annotations

from stepmesh import outcome
from stepmesh.outcome import Outcome
from stepmesh_broker.pb.stepmesh.v1 import worker_pb2 as pb
from stepmesh_broker.protocol.messages import Failure, Result, Task, TaskRef

HISTORY_BYTES = 256 * 1024
"""The longest history that travels along with its task, bytes; the worker asks for a longer one page by page."""


def fill_task(message: pb.Task, id: str, task: Task, component: str, path_params: dict[str, str]) -> None:
    """Write a task into a message that was added to a `ToWorker`."""
    message.id = id
    message.component = component
    message.input = task.input
    message.attempt = task.attempt
    message.run_id = task.run
    message.item = task.item
    message.step_id = task.step_id
    message.root_run_id = root = task.root or task.run
    message.flow_id = task.flow
    message.step = task.step
    message.idempotency_key = f"{root}/{task.run}/{task.item}/{task.step_id}"
    if task.timeout_ms:
        message.timeout_ms = task.timeout_ms
    if task.traceparent:
        message.traceparent = task.traceparent
    if path_params:
        message.path_params.update(path_params)


def fill_activation(message: pb.Activation, journal: str, task: Task, fresh: bool) -> int:
    """What a durable function goes on from; bytes of its records, which are left out where they are large: the worker asks for them."""
    message.journal = journal
    message.at_ms = task.at_ms
    message.records = task.records
    message.driver, message.seen, message.fresh = task.driver, task.seen, fresh
    if len(task.history) + len(task.news) <= HISTORY_BYTES:
        message.history, message.news = task.history, task.news
    return len(message.history) + len(message.news)


def result_of(message: pb.Result, ref: TaskRef, payload_bytes: int) -> Result:
    """How a task ended. An output above `payload_bytes` is the failure that a worker would have made of it."""
    failed = message.HasField("failure")
    output, failure = Outcome(None, _failure(message.failure)) if failed else outcome.within(message.output, payload_bytes)
    return Result(ref.run, ref.item, ref.step, ref.attempt, output, failure, message.started_us, message.duration_us)


def _failure(message: pb.Failure) -> Failure:
    after = message.retry_after_ms if message.HasField("retry_after_ms") else None
    return Failure(message.code, message.message, message.data or None, after)
