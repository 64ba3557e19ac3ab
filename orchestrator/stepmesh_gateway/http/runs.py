"""Routes of runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, TypeVar

import msgspec
from starlette.responses import Response

from stepmesh_broker.protocol import api, tracecontext
from stepmesh_broker.protocol.ids import Namespace, RunId
from stepmesh_gateway.http import answers, messages, views
from stepmesh_gateway.http.messages import NULL, Name, Uint32, Uint64
from stepmesh_gateway.http.refusals import bad_parameter
from stepmesh_gateway.http.registry import Asked, NoQuery, Ok, Route, Scope
from stepmesh_gateway.operations import NewRun
from stepmesh_gateway.translate.execution import ExecutionStatus
from stepmesh_gateway.translate.fields import flow_id, run_id

_T = TypeVar("_T")
MAX_LIMIT = 1_000
"""Runs of one page."""
_STATUSES = "|".join(["[0-6]", *(name for status in ExecutionStatus for name in (status.name, status.name.lower()))])
StatusFilter = Annotated[str, msgspec.Meta(pattern=f"^({_STATUSES})$", description="number or name of a status")]
OrderFilter = Annotated[
    str, msgspec.Meta(pattern="^([0-2]|by_index|by_completion|BY_INDEX|BY_COMPLETION)$", description="1 by index, 2 by completion")
]


class ListQuery(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Which runs; all conditions must hold. `namespace`: of a tenant, if not the deployment's own."""

    status: StatusFilter | None = None
    flow_name: str | None = None
    root_run_id: str | None = None
    parent_run_id: str | None = None
    roots_only: bool = False
    max_depth: Uint32 | None = None
    limit: Uint32 = 100
    offset: Uint32 = 0
    namespace: Name | None = None


class WaitQuery(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`wait`: answer when the run ended, at the latest after `timeoutSecs`."""

    wait: bool = False
    timeout_secs: Uint64 | None = None


class ItemsQuery(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """In which order."""

    result_order: OrderFilter = "1"


class StepsQuery(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Of one item only; as the steps were at an event with that `sequenceNumber`."""

    item_index: Uint32 | None = None
    asof: Uint64 | None = None


async def create_run(asked: Asked[NoQuery, messages.CreateRun]) -> Response:
    """Journaled when this answers; the same `Idempotency-Key` gives the same run."""
    body, operations = asked.body, asked.operations
    accepted = await operations.create_run(
        NewRun(
            flow=flow_id(body.flow_id, "flowId"),
            inputs=[bytes(one) for one in body.input],
            variables=_object(body.variables),
            overrides=_object(body.overrides),
            max_concurrency=body.max_concurrency,
            priority=body.priority or 0,
            namespace=None if body.namespace is None else Namespace(body.namespace),
            run_key=_run_key(asked),
            traceparent=_traceparent(asked),
        )
    )
    run = await _waited(asked, accepted.run, _wait_s(asked, body.wait, body.timeout_secs))
    entries = operations.items(accepted.run) if body.wait else _nothing()
    return await answers.listing(_member("summary", views.summary(run)), "results", entries, views.item)


async def list_runs(asked: Asked[ListQuery, None]) -> messages.Runs:
    """Newest first."""
    query = asked.query
    found = await asked.operations.list_runs(
        api.ListRuns(
            status=None if query.status is None else _status_name(query.status),
            flow_name=query.flow_name,
            root=None if query.root_run_id is None else run_id(query.root_run_id, "rootRunId"),
            parent=None if query.parent_run_id is None else run_id(query.parent_run_id, "parentRunId"),
            roots_only=query.roots_only,
            limit=min(query.limit, MAX_LIMIT),
            offset=query.offset,
            max_depth=query.max_depth,
            namespace=None if query.namespace is None else Namespace(query.namespace),
        )
    )
    return messages.Runs(runs=[views.summary(run) for run in found])


async def get_run(asked: Asked[WaitQuery, None]) -> Response:
    """With its steps."""
    name = _run(asked)
    run = await _waited(asked, name, _wait_s(asked, asked.query.wait, asked.query.timeout_secs))
    return await answers.listing(_member("summary", views.summary(run)), "steps", asked.operations.steps(name), views.step)


async def get_run_items(asked: Asked[ItemsQuery, None]) -> Response:
    """Those that run as well."""
    await asked.operations.get_run(_run(asked))
    entries = asked.operations.items(_run(asked))
    if asked.query.result_order.lower() in ("2", "by_completion"):
        entries = _listed(views.by_completion([entry async for entry in entries]))
    return await answers.listing(b"", "results", entries, views.item)


async def get_run_steps(asked: Asked[StepsQuery, None]) -> Response:
    """By item and step."""
    return await answers.listing(b"", "steps", asked.operations.steps(_run(asked), asked.query.item_index, asked.query.asof), views.step)


async def get_run_step(asked: Asked[StepsQuery, None]) -> messages.Step:
    """Of the first item unless another is named."""
    query = asked.query
    found = await asked.operations.step(_run(asked), asked.path["stepId"], query.item_index or 0, query.asof)
    return messages.Step(step=views.step(found))


async def get_run_flow(asked: Asked[NoQuery, None]) -> messages.FlowOfRun:
    """The document that the run runs."""
    run = await asked.operations.get_run(_run(asked))
    flow = await asked.operations.get_flow(run.flow)
    return messages.FlowOfRun(flow=messages.Json(flow.document), flow_id=flow.flow)


async def cancel_run(asked: Asked[NoQuery, messages.Empty]) -> messages.Cancelled:
    """No new task starts, workers stop, sub-runs too."""
    return messages.Cancelled(summary=views.summary(await asked.operations.cancel(_run(asked), "cancelled by a client")))


async def delete_run(asked: Asked[NoQuery, None]) -> Ok:
    """Only after its end."""
    await asked.operations.delete_run(_run(asked))
    return Ok()


async def _waited(asked: Asked[object, object], run: RunId, wait_s: float) -> api.RunSummary:
    """The run when it ended, or when the wait did."""
    found = await asked.caller.while_there(asked.operations.get_run(run, wait_s)) if wait_s else None
    return found or await asked.operations.get_run(run)


def _run(asked: Asked[object, object]) -> RunId:
    return run_id(asked.path["runId"], "runId")


def _wait_s(asked: Asked[object, object], wait: bool | None, timeout_s: int | None) -> float:
    longest = asked.operations.settings.limits.request_s
    return 0.0 if not wait else longest if timeout_s is None else min(float(timeout_s), longest)


def _object(text: messages.Json) -> bytes | None:
    return None if bytes(text) == NULL else bytes(text)


def _status_name(given: str) -> str:
    status = ExecutionStatus(int(given)) if given.strip().isdigit() else ExecutionStatus[given.strip().upper()]
    return status.name.lower()


def _run_key(asked: Asked[object, object]) -> str | None:
    key = asked.caller.headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= 200:
        raise bad_parameter("Idempotency-Key wants 1 to 200 characters")
    return key


def _traceparent(asked: Asked[object, object]) -> str:
    given = asked.caller.headers.get("traceparent", "")
    return given if tracecontext.parse(given) is not None else ""


def _member(name: str, value: msgspec.Struct) -> bytes:
    return b'"%s":%s' % (name.encode(), msgspec.json.encode(value))


async def _nothing() -> AsyncIterator[api.ItemResult]:
    for entry in list[api.ItemResult]():
        yield entry


async def _listed(entries: list[_T]) -> AsyncIterator[_T]:
    for entry in entries:
        yield entry


ROUTES = (
    Route(
        method="POST", path="/api/v1/runs", scope=Scope.RUN, summary="Start a run", handler=create_run, body=messages.CreateRun,
        answer=messages.Created,
        headers={
            "Idempotency-Key": "the same key gives the same run, however often it is sent",
            "traceparent": "the trace that the run belongs to (W3C Trace Context)",
        },
    ),
    Route(
        method="GET", path="/api/v1/runs", scope=Scope.READ, summary="List runs", handler=list_runs, query=ListQuery,
        answer=messages.Runs,
    ),
    Route(
        method="GET", path="/api/v1/runs/{runId}", scope=Scope.READ, summary="A run and its steps", handler=get_run, query=WaitQuery,
        answer=messages.Run,
    ),
    Route(
        method="DELETE", path="/api/v1/runs/{runId}", scope=Scope.RUN, summary="Remove an ended run", handler=delete_run, answer=Ok,
    ),
    Route(
        method="POST", path="/api/v1/runs/{runId}/cancel", scope=Scope.RUN, summary="Stop a run", handler=cancel_run, body=messages.Empty,
        answer=messages.Cancelled,
    ),
    Route(
        method="GET", path="/api/v1/runs/{runId}/items", scope=Scope.READ, summary="The items of a run", handler=get_run_items,
        query=ItemsQuery, answer=messages.Items,
    ),
    Route(
        method="GET", path="/api/v1/runs/{runId}/flow", scope=Scope.READ, summary="The flow of a run", handler=get_run_flow,
        answer=messages.FlowOfRun,
    ),
    Route(
        method="GET", path="/api/v1/runs/{runId}/steps", scope=Scope.READ, summary="The steps of a run", handler=get_run_steps,
        query=StepsQuery, answer=messages.Steps,
    ),
    Route(
        method="GET", path="/api/v1/runs/{runId}/steps/{stepId:path}", scope=Scope.READ, summary="One step of a run", handler=get_run_step,
        query=StepsQuery, answer=messages.Step,
    ),
)  # fmt: skip
