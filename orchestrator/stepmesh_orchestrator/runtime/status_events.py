"""Events of the journal as the api tells them: kind, step and data. Pure; the journal's own values are not changed on the way."""

from __future__ import annotations

import msgspec

from stepmesh_broker.protocol.api import RunEvent
from stepmesh_broker.protocol.histories import Began, Issued, Kind, Record, Settled, TakenOver, Tried, UpdateAsked
from stepmesh_broker.protocol.messages import Failure
from stepmesh_orchestrator.core import events, function_events, gate_events
from stepmesh_orchestrator.core.decide.waits import awaited_json
from stepmesh_orchestrator.core.events import Event
from stepmesh_orchestrator.core.failures import error_json, flow_result
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.replica import Consequences
from stepmesh_orchestrator.core.schedule_events import ScheduleEvent

_KINDS: dict[type, str] = {
    events.RunCreated: "run_created",
    events.ItemStarted: "item_started",
    events.StepDispatched: "step_started",
    events.StepSucceeded: "step_completed",
    events.StepFailed: "step_failed",
    events.StepDefaulted: "step_defaulted",
    events.StepSkipped: "step_skipped",
    events.StepRetrying: "step_retrying",
    events.StepSleeping: "step_sleeping",
    events.StepFallingBack: "step_falling_back",
    events.StepAwaiting: "step_awaiting",
    events.WaitOver: "wait_over",
    events.ItemEnded: "item_completed",
    events.RunEnded: "run_completed",
    events.RunCancelled: "run_cancelled",
    events.RunDeleted: "run_deleted",
    gate_events.RunHeld: "run_queued",
    gate_events.RunReleased: "run_released",
    function_events.HistoryGrew: "function_advanced",
    function_events.FunctionIdle: "function_idle",
    function_events.FunctionContinued: "function_continued",
    function_events.FunctionsSeeded: "functions_seeded",
    function_events.FunctionTookOver: "function_took_over",
    function_events.FunctionUnwound: "function_unwound",
    function_events.FunctionResumed: "function_resumed",
    function_events.RunCancelling: "run_cancelling",
    events.RunPaused: "run_paused",
    events.RunResumed: "run_resumed",
    events.StepWoken: "step_woken",
    events.RunSeeded: "run_seeded",
}


def status_events(event: Event, position: int, at_ms: int, flow: CompiledFlow | None, follows: Consequences) -> list[RunEvent]:
    """The event, then what followed from it at once: which steps became needed, and which ready. All have its position."""
    item: int | None = getattr(event, "item", None)
    step: int | None = getattr(event, "step", None)

    def told(kind: str, step_id: str | None, data: bytes) -> RunEvent:
        return RunEvent(position, at_ms, kind, event.run, item, step_id, data)

    found = [told(_KINDS[type(event)], _step_id(flow, step), _data(event))]
    if flow is None:
        return found
    found += [told("step_reused", flow.steps[index].id, _reused(index, output)) for index, output in follows.reused]
    if follows.needed:
        found.append(told("steps_needed", None, msgspec.json.encode({"steps": [flow.steps[index].id for index in follows.needed]})))
    found += [told("step_ready", flow.steps[index].id, b'{"step":%d}' % index) for index in follows.ready]
    return found


def _step_id(flow: CompiledFlow | None, step: int | None) -> str | None:
    return None if step is None or flow is None else flow.steps[step].id


def _data(event: Event) -> bytes:
    """What the event adds, as a JSON object. `step`: index of the step in its flow."""
    if isinstance(event, events.RunCreated):
        return _created(event)
    if isinstance(event, events.ItemEnded):
        return flow_result(event.failure if event.failure is not None else event.output or b"null")
    if isinstance(event, events.RunEnded):
        return msgspec.json.encode({"status": event.status})
    if isinstance(event, gate_events.RunHeld):
        return msgspec.json.encode({"keys": [gate.key for gate in event.gates]})
    if isinstance(event, gate_events.RunReleased):
        return msgspec.json.encode({"key": event.key})
    if isinstance(event, events.RunCancelled | function_events.RunCancelling | events.RunPaused):
        return msgspec.json.encode({"reason": event.reason})
    if isinstance(event, events.RunSeeded):
        return msgspec.json.encode({"source": event.source, "items": event.items})
    if isinstance(event, function_events.FunctionsSeeded):
        return msgspec.json.encode({"functions": [{"item": one.item, "step": one.step} for one in event.seeds]})
    if isinstance(event, gate_events.PermitAsked | gate_events.PermitMoved | gate_events.BreakerMoved | gate_events.PermitDoubted):
        return b"{}"  # of no run, so nobody is told
    if isinstance(
        event, events.ItemStarted | events.RunDeleted | events.RunResumed | events.TreeDormant | events.TreeWoken | ScheduleEvent
    ):
        return b"{}"
    if isinstance(event, events.EventReceived | events.WaiterPlaced | events.WaiterLeft):
        return b"{}"  # of no run, so nobody is told
    return b'{"step":%d%b}' % (event.step, _of_step(event))


def _reused(step: int, output: bytes | None) -> bytes:
    if output is None:
        return b'{"step":%d,"status":"skipped"}' % step
    return b'{"step":%d,"status":"success","result":%b}' % (step, output)


def _created(event: events.RunCreated) -> bytes:
    about: dict[str, object] = {"flow_id": event.flow, "items": len(event.inputs)}
    if event.parent is not None:
        parent = event.parent
        about |= {"parent_run_id": parent.run, "parent_kind": parent.kind, "parent_item": parent.item, "parent_step": parent.step}
    return msgspec.json.encode(about)


def _of_step(event: Event) -> bytes:
    if isinstance(event, events.StepDispatched):
        return b',"attempt":%d' % event.attempt
    if isinstance(event, events.StepSucceeded):
        return b',"status":"success","result":' + event.output
    if isinstance(event, events.StepDefaulted):
        return b',"status":"success","result":%b,"error":%b' % (event.output, error_json(event.failure))
    if isinstance(event, events.StepFailed):
        return b',"status":"failed","error":' + error_json(event.failure)
    if isinstance(event, events.StepSkipped):
        return b',"status":"skipped"'
    if isinstance(event, events.StepFallingBack):
        return b',"error":' + error_json(event.failure)
    if isinstance(event, events.StepRetrying):
        return b',"attempt":%d,"due_ms":%d,"error":%b' % (event.attempt, event.due_ms, error_json(event.failure))
    if isinstance(event, events.StepSleeping):
        return b',"due_ms":%d' % event.due_ms
    if isinstance(event, function_events.HistoryGrew):
        return b',"records":' + msgspec.json.encode([_record(record) for record in event.records])
    if isinstance(event, function_events.FunctionIdle):
        return b',"blocked":%b' % msgspec.json.encode(event.blocked)
    if isinstance(event, function_events.FunctionTookOver):
        return b',"anew":%b' % (b"true" if event.anew else b"false")
    if isinstance(event, function_events.FunctionResumed):
        return b',"version":%b' % msgspec.json.encode(event.version or None)
    if isinstance(event, events.StepAwaiting):
        return b',"due_ms":%d,"awaits":%b' % (event.due_ms, awaited_json(event.awaited))
    if isinstance(event, events.WaitOver):
        address = (msgspec.json.encode(event.name), msgspec.json.encode(event.key))
        return b',"name":%b,"key":%b,"taken":%b' % (*address, b"true" if event.position else b"false")
    return b""


_SHOWN = frozenset({Kind.STREAM, Kind.REPLY, Kind.ATTRIBUTE, Kind.TAG})
"""What a body notes down for others to see."""


def _record(record: Record) -> dict[str, object]:
    """Of a durable function's history."""
    if isinstance(record, Issued):
        issued: dict[str, object] = {
            "record": "issued", "id": record.id, "kind": record.kind, "name": record.name, "where": record.where
        }  # fmt: skip
        return {**issued, "value": msgspec.Raw(record.arguments)} if record.kind in _SHOWN else issued
    if isinstance(record, Settled):
        ended = {"result": msgspec.Raw(record.value)} if record.failure is None else {"error": _error(record.failure)}
        return {"record": "settled", "id": record.id, "attempt": record.attempt, **ended}
    if isinstance(record, Began):
        return {"record": "began", "version": record.version}
    if isinstance(record, Tried):
        return {"record": "tried", "id": record.id, "attempt": record.attempt, "due_ms": record.due_ms, "error": _error(record.failure)}
    if isinstance(record, UpdateAsked):
        return {"record": "update_asked", "id": record.id, "name": record.name}
    if isinstance(record, TakenOver):
        return {"record": "taken_over", "kept": record.kept}
    return {"record": "cancel_asked", "reason": record.reason}


def _error(failure: Failure) -> msgspec.Raw:
    return msgspec.Raw(error_json(failure))
