"""Tasks and their ends as stepflow.v1 messages. Pure; it looks nothing up."""

from __future__ import annotations

import msgspec

from stepmesh import failures, outcome
from stepmesh_broker.pb.stepflow.v1 import common_pb2, orchestrator_pb2, tasks_pb2
from stepmesh_broker.protocol import tracecontext
from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.messages import ErrorCode, Failure, Result, Task, TaskRef
from stepmesh_gateway.identity import TaskId, root_of
from stepmesh_gateway.translate.values import NoJson, from_struct, from_value, to_value

MESSAGE_LIMIT = 65_536
"""Characters of an error's message that are kept: real workers put tracebacks there."""


def assignment(id: TaskId, task: Task, component: str, path_params: dict[str, str]) -> tasks_pb2.TaskAssignment:
    """A task for a worker, without its context. Raises `NoJson` for an input that protobuf cannot hold."""
    return tasks_pb2.TaskAssignment(
        task_id=str(id),
        execute=tasks_pb2.ComponentExecuteRequest(
            component_id=component,
            input=to_value(task.input),
            attempt=task.attempt,
            observability=_observability(task),
            path_params=path_params,
        ),
    )


def context(id: TaskId, task: Task, address: str) -> tasks_pb2.TaskContext:
    """Where the worker answers, and the mark by which a sub-run is linked to the task."""
    return tasks_pb2.TaskContext(orchestrator_service_url=address, root_run_id=root_of(RunId(task.root) if task.root else task.run, id))


def _observability(task: Task) -> common_pb2.ObservabilityContext:
    told = common_pb2.ObservabilityContext(run_id=task.run, step_id=task.step_id, flow_id=task.flow or None)
    trace = tracecontext.parse(task.traceparent) if task.traceparent else None
    if trace is not None:
        told.trace_id = f"{trace.trace_id:032x}"
        told.span_id = f"{trace.span_id:016x}"
    return told


def unsendable(ref: TaskRef, step_id: str, why: str) -> Result:
    """The end of a task that cannot be put into a message."""
    failure = failures.of(ErrorCode.INVALID_INPUT, f"the input of step '{step_id}' cannot be sent to a stepflow.v1 worker: {why}")
    return Result(ref.run, ref.item, ref.step, ref.attempt, None, failure)


def result(ref: TaskRef, request: orchestrator_pb2.CompleteTaskRequest, limit_bytes: int) -> Result | None:
    """How an attempt ended; None when the message has no end."""
    output: bytes | None = None
    failure: Failure | None = None
    if request.HasField("response"):
        output, failure = _end(request.response, limit_bytes)
    elif request.HasField("error"):
        failure = _failure(request.error)
    else:
        return None
    return Result(ref.run, ref.item, ref.step, ref.attempt, output, failure)


def _end(response: tasks_pb2.ComponentExecuteResponse, limit_bytes: int) -> outcome.Outcome:
    try:
        return outcome.within(from_value(response.output), limit_bytes)
    except NoJson as problem:
        return outcome.Outcome(None, failures.of(ErrorCode.WORKER_ERROR, f"the output is not JSON: {problem}"))


def _failure(error: orchestrator_pb2.TaskError) -> Failure:
    data = None
    if error.HasField("data"):
        try:
            data = from_struct(error.data)
        except NoJson as problem:
            data = msgspec.json.encode({"note": f"the error's data is not JSON: {problem}"})
        if len(data) > failures.DATA_LIMIT:
            note = f"the error's data has {len(data)} bytes, above the limit of {failures.DATA_LIMIT}; use put_blob"
            data = msgspec.json.encode({"note": note})
    return Failure(int(error.code) or ErrorCode.COMPONENT_FAILED, failures.clean(error.message, MESSAGE_LIMIT), data)
