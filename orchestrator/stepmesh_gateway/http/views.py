"""Answers of the orchestrators as bodies of `/api/v1`. Pure; it looks nothing up."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from stepmesh_broker.protocol import api
from stepmesh_gateway.http import messages
from stepmesh_gateway.http.messages import Json
from stepmesh_gateway.translate import documents, offers
from stepmesh_gateway.translate.execution import error_of, execution_status, outcome_of


def rfc3339(ms: int) -> str:
    """Milliseconds since 1970 as text, UTC."""
    at = datetime.fromtimestamp(ms // 1000, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"


def raw(json: bytes | None) -> Json | None:
    """JSON text to be written as it is."""
    return None if json is None else Json(json)


def summary(run: api.RunSummary) -> messages.RunSummary:
    """A run."""
    ended = run.completed + run.failed + run.cancelled
    running = 0 if run.is_over else run.total - ended
    return messages.RunSummary(
        run_id=run.run,
        flow_id=run.flow,
        status=execution_status(run.status),
        items=messages.ItemCounts(total=run.total, completed=run.completed, running=running, failed=run.failed, cancelled=run.cancelled),
        created_at=rfc3339(run.created_ms),
        root_run_id=run.root,
        created_at_seqno=run.created_at,
        flow_name=run.flow_name or None,
        completed_at=None if run.finished_ms is None else rfc3339(run.finished_ms),
        parent_run_id=run.parent,
        orchestrator_id=run.owner or None,
        finished_at_seqno=run.finished_at,
    )


def item(result: api.ItemResult) -> messages.ItemResult:
    """An item."""
    outcome = outcome_of(result.result)
    error = outcome.error
    return messages.ItemResult(
        item_index=result.item,
        status=execution_status(result.status),
        output=raw(outcome.output),
        error_message=None if error is None else error.message,
        error_code=None if error is None else int(error.code),
        error_data=None if error is None else raw(error.data),
        completed_at=rfc3339(result.finished_ms) if result.finished_ms else None,
    )


def step(status: api.StepStatus) -> messages.StepStatus:
    """A step."""
    error = None if status.failure is None else error_of(status.failure)
    updated = status.finished_ms or status.started_ms
    return messages.StepStatus(
        step_id=status.step_id,
        step_index=status.step,
        item_index=status.item,
        status=execution_status(status.status),
        journal_seqno=status.position,
        component=status.component or None,
        output=raw(status.output),
        error_message=None if error is None else error.message,
        error_code=None if error is None else int(error.code),
        error_data=None if error is None else raw(error.data),
        started_at=None if status.started_ms is None else rfc3339(status.started_ms),
        completed_at=None if status.finished_ms is None else rfc3339(status.finished_ms),
        updated_at=None if updated is None else rfc3339(updated),
        token=status.token or None,
        attributes=raw(status.attributes),
        tags=raw(status.tags),
    )


def flow_stored(stored: api.FlowStored) -> messages.FlowStored:
    """What became of a flow."""
    found = documents.findings(stored.diagnostics)
    count = {level: sum(one.level is level for one in found) for level in documents.DiagnosticLevel}
    return messages.FlowStored(
        flow_id=stored.flow,
        stored=stored.stored,
        diagnostics=messages.Diagnostics(
            diagnostics=[
                messages.Diagnostic(
                    kind=one.kind,
                    code=one.number,
                    level=one.level,
                    formatted=one.text,
                    experimental=False,
                    data=raw(one.data),
                    path=one.path,
                )
                for one in found
            ],
            num_fatal=count[documents.DiagnosticLevel.FATAL],
            num_error=count[documents.DiagnosticLevel.ERROR],
            num_warning=count[documents.DiagnosticLevel.WARNING],
        ),
    )


def flow(data: api.FlowData) -> messages.Flow:
    """A stored flow."""
    return messages.Flow(
        flow=Json(data.document),
        flow_id=data.flow,
        all_examples=[
            messages.Example(name=one.name, input=Json(one.input), description=one.description) for one in documents.examples(data.document)
        ],
    )


def variables(found: api.Variables) -> messages.Variables:
    """The variables of a flow."""
    return messages.Variables(
        flow_id=found.flow,
        variables={
            one.name: messages.Variable(
                required=one.required,
                description=one.description,
                default_value=raw(one.default),
                schema=None if one.schema in (b"", b"null", b"{}", b"true") else Json(one.schema),
                env_var=one.env_var,
            )
            for one in found.variables
        },
    )


def components(found: api.Components, queues: api.Queues, with_schemas: bool) -> messages.Components:
    """What the deployment offers."""
    plugin_of = offers.plugins(queues)
    failed = [messages.FailedPlugin(plugin=plugin, error=error) for plugin, error in offers.silent(found, plugin_of)]
    return messages.Components(
        components=[
            messages.Component(
                component_id=entry.component.path,
                path=entry.path,
                plugin=plugin_of.get(entry.pool, entry.pool),
                description=entry.component.description or None,
                input_schema=raw(entry.component.input_schema) if with_schemas else None,
                output_schema=raw(entry.component.output_schema) if with_schemas else None,
            )
            for entry in found.components
        ],
        complete=not failed,
        failed_plugins=failed,
    )


def blob(data: api.BlobData) -> messages.Blob:
    """A blob, without its bytes if it is not JSON."""
    return messages.Blob(
        data=Json(b"null" if data.kind == "binary" else data.data),
        blob_type=data.kind,
        blob_id=data.blob,
        filename=data.filename,
        content_type=data.content_type,
    )


def by_completion(results: Sequence[api.ItemResult]) -> list[api.ItemResult]:
    """In the order in which items ended; those that have not come last."""
    return sorted(results, key=lambda result: (result.finished_ms == 0, result.finished_ms, result.item))
