"""Runs, items, steps and events of api.py as stepflow.v1 messages. Pure; it looks nothing up."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from stepmesh_broker.pb.stepflow.v1 import common_pb2, runs_pb2
from stepmesh_broker.protocol import api
from stepmesh_gateway.translate.execution import error_of, execution_status, outcome_of
from stepmesh_gateway.translate.status_events import EventType, StatusEvent
from stepmesh_gateway.translate.timestamps import timestamp
from stepmesh_gateway.translate.values import NoJson, put_value


def number(member: IntEnum) -> Any:
    """A number of ours as the enum of a message, whose stub has a type of its own."""
    return int(member)


def statistics(run: api.RunSummary) -> common_pb2.ItemStatistics:
    """How many items stand how. A run that is over has none running: those that never began are not counted."""
    ended = run.completed + run.failed + run.cancelled
    running = 0 if run.is_over else run.total - ended
    return common_pb2.ItemStatistics(total=run.total, completed=run.completed, running=running, failed=run.failed, cancelled=run.cancelled)


def run_summary(run: api.RunSummary) -> runs_pb2.RunSummary:
    """A run."""
    return runs_pb2.RunSummary(
        run_id=run.run,
        flow_id=run.flow,
        flow_name=run.flow_name or None,
        status=number(execution_status(run.status)),
        items=statistics(run),
        created_at=timestamp(run.created_ms),
        completed_at=None if run.finished_ms is None else timestamp(run.finished_ms),
        root_run_id=run.root,
        parent_run_id=run.parent,
        orchestrator_id=run.owner or None,
        created_at_seqno=run.created_at,
        finished_at_seqno=run.finished_at,
    )


def item_result(item: api.ItemResult) -> common_pb2.ItemResult:
    """An item, ended or not. An output that protobuf cannot hold is left out, and the message says why: the others can be told."""
    outcome = outcome_of(item.result)
    message = common_pb2.ItemResult(
        item_index=item.item,
        status=number(execution_status(item.status)),
        completed_at=timestamp(item.finished_ms) if item.finished_ms else None,
    )
    if outcome.output is not None:
        _put_output(message, outcome.output)
    if outcome.error is not None:
        message.error_message = outcome.error.message
        message.error_code = number(outcome.error.code)
    return message


def step_status(step: api.StepStatus) -> runs_pb2.StepStatus:
    """A step of an item; its output as that of an item."""
    updated_ms = step.finished_ms or step.started_ms
    message = runs_pb2.StepStatus(
        step_id=step.step_id,
        step_index=step.step,
        item_index=step.item,
        status=number(execution_status(step.status)),
        component=step.component or None,
        started_at=timestamp(step.started_ms) if step.started_ms else None,
        completed_at=timestamp(step.finished_ms) if step.finished_ms else None,
        journal_seqno=step.position,
        updated_at=timestamp(updated_ms) if updated_ms else None,
    )
    if step.output is not None:
        _put_output(message, step.output)
    if step.failure is not None:
        error = error_of(step.failure)
        message.error_message = error.message
        message.error_code = number(error.code)
    return message


def status_event(event: StatusEvent) -> runs_pb2.StatusEvent:
    """An event. A result that protobuf cannot hold is left out."""
    message = runs_pb2.StatusEvent(sequence_number=event.position, timestamp=timestamp(event.at_ms))
    _FILL[event.type](message, event)
    return message


def _run_created(message: runs_pb2.StatusEvent, event: StatusEvent) -> None:
    message.run_created.CopyFrom(runs_pb2.RunCreatedEvent(run_id=event.run, flow_id=event.flow, item_count=event.items))


def _sub_run_created(message: runs_pb2.StatusEvent, event: StatusEvent) -> None:
    made = runs_pb2.SubRunCreatedEvent(run_id=event.run, parent_run_id=event.parent or "", flow_id=event.flow, item_count=event.items)
    message.sub_run_created.CopyFrom(made)


def _steps_needed(message: runs_pb2.StatusEvent, event: StatusEvent) -> None:
    message.steps_needed.CopyFrom(runs_pb2.StepsNeededEvent(run_id=event.run, item_index=event.item, step_ids=event.step_ids))


def _step_ready(message: runs_pb2.StatusEvent, event: StatusEvent) -> None:
    message.step_ready.CopyFrom(
        runs_pb2.StepReadyEvent(run_id=event.run, item_index=event.item, step_index=event.step, step_id=event.step_id)
    )


def _step_started(message: runs_pb2.StatusEvent, event: StatusEvent) -> None:
    message.step_started.CopyFrom(
        runs_pb2.StepStartedEvent(
            run_id=event.run, item_index=event.item, step_index=event.step, step_id=event.step_id, attempt=event.attempt
        )
    )


def _step_completed(message: runs_pb2.StatusEvent, event: StatusEvent) -> None:
    message.step_completed.CopyFrom(
        runs_pb2.StepCompletedEvent(
            run_id=event.run, item_index=event.item, step_index=event.step, step_id=event.step_id, status=number(event.status)
        )
    )
    _put_result(message.step_completed, event)


def _item_completed(message: runs_pb2.StatusEvent, event: StatusEvent) -> None:
    message.item_completed.CopyFrom(runs_pb2.ItemCompletedEvent(run_id=event.run, item_index=event.item))
    _put_result(message.item_completed, event)


def _run_completed(message: runs_pb2.StatusEvent, event: StatusEvent) -> None:
    message.run_completed.CopyFrom(runs_pb2.RunCompletedEvent(run_id=event.run, status=number(event.status)))


def _put_output(message: common_pb2.ItemResult | runs_pb2.StepStatus, output: bytes) -> None:
    try:
        put_value(message.output, output)
    except NoJson as problem:
        message.ClearField("output")
        message.error_message = f"the output cannot be told here: {problem}"


def _put_result(message: runs_pb2.StepCompletedEvent | runs_pb2.ItemCompletedEvent, event: StatusEvent) -> None:
    if event.result is None:
        return
    try:
        put_value(message.result, event.result)
    except NoJson:
        message.ClearField("result")  # items and steps say why


_FILL = {
    EventType.RUN_CREATED: _run_created,
    EventType.SUB_RUN_CREATED: _sub_run_created,
    EventType.STEPS_NEEDED: _steps_needed,
    EventType.STEP_READY: _step_ready,
    EventType.STEP_STARTED: _step_started,
    EventType.STEP_COMPLETED: _step_completed,
    EventType.ITEM_COMPLETED: _item_completed,
    EventType.RUN_COMPLETED: _run_completed,
}
