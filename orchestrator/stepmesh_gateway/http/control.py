"""Routes of `/v1` that stop, move or continue runs: one at a time, or many at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Literal

import msgspec
from starlette.responses import StreamingResponse

from stepmesh.bulk import Outcome, RunFilter
from stepmesh_broker.protocol.continuation import Continued, ContinueRun
from stepmesh_broker.protocol.ids import FlowId, RunId
from stepmesh_gateway.http.messages import NULL, Json, MaybeObject, Uint32
from stepmesh_gateway.http.refusals import bad_body, bad_parameter
from stepmesh_gateway.http.registry import Answer, Asked, NoQuery, Route, Scope
from stepmesh_gateway.operations import Operations
from stepmesh_gateway.translate.fields import flow_id, run_id

NDJSON = "application/x-ndjson"
MAX_REASON = 1_000
MAX_VERSION = 200
Reason = Annotated[str, msgspec.Meta(max_length=MAX_REASON)]
Version = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_VERSION)]
Action = Literal["cancel", "pause", "resume", "retry", "delete"]
Named = Annotated[str, msgspec.Meta(extra_json_schema={"format": "uuid"})]
KEY = {"Idempotency-Key": "the same key gives the same new run, however often it is sent"}


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """`reason`: kept with the run."""

    reason: Reason = ""


class ResumeBody(msgspec.Struct, frozen=True, kw_only=True):
    """`version`: its durable functions belong to that one of their code from now on; as live workers have it, or an unambiguous part."""

    version: Version | None = None


class WakeBody(msgspec.Struct, frozen=True, kw_only=True):
    """Which sleeps; all of the run's without these."""

    item: Uint32 | None = None
    step: str | None = None


class RetryBody(msgspec.Struct, frozen=True, kw_only=True):
    """`items`: only these of those that did not succeed. `from_step`: also this one runs again, and what depends on it."""

    items: list[Uint32] | None = None
    from_step: str | None = None


class ForkBody(msgspec.Struct, frozen=True, kw_only=True):
    """`from_step` and what depends on it run again, and what the changes reach. `input`: one value per item."""

    from_step: str | None = None
    items: list[Uint32] | None = None
    input: list[Json] | None = None
    variables: MaybeObject = msgspec.field(default_factory=lambda: Json(NULL))
    overrides: MaybeObject = msgspec.field(default_factory=lambda: Json(NULL))
    flow_id: str | None = None
    tags: dict[str, str] | None = None


class FilterBody(msgspec.Struct, frozen=True, kw_only=True):
    """Root runs for which all of it holds; an empty one is refused."""

    status: Literal["queued", "running", "paused", "completed", "failed", "cancelled"] | None = None
    flow_name: str | None = None
    tags: dict[str, str] | None = None


class BulkBody(msgspec.Struct, frozen=True, kw_only=True):
    """Either `ids` or `filter`. `version`: of `resume`."""

    action: Action
    ids: list[Named] | None = None
    filter: FilterBody | None = None
    version: Version | None = None


class Controlled(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The run as it is now. `changed`: false when there was nothing to do. `woken`: steps whose sleep was ended."""

    id: str
    status: str
    changed: bool
    woken: list[str] = []


class Continuation(msgspec.Struct, frozen=True, kw_only=True):
    """The new run, `id`, and where it comes from. `items`: those of the source, in the order of the new run's; the first 1,000. `reused`:
    results taken over. `existing`: the run that this key gave before; nothing is said of its items then."""

    id: str
    source: str
    items: list[int]
    reused: int
    existing: bool


class BulkLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of the answer: what came of one run, or, in the last one, how many there were."""

    run_id: str = ""
    done: bool | None = None
    code: str = ""
    detail: str = ""
    new_run_id: str | None = None
    matched: int | None = None
    refused: int | None = None


async def cancel_run(asked: Asked[NoQuery, Why]) -> Controlled:
    """No new task starts, workers stop, sub-runs too."""
    run = _run(asked)
    before = await asked.operations.get_run(run)
    now = await asked.operations.cancel(run, asked.body.reason or "cancelled by a client")
    return Controlled(id=run, status=now.status, changed=not before.is_over)


async def pause_run(asked: Asked[NoQuery, Why]) -> Controlled:
    """Nothing new of the run and its sub-runs starts; tasks in flight end and count."""
    accepted = await asked.operations.pause(_run(asked), asked.body.reason)
    return await _now(asked, accepted.existing)


async def resume_run(asked: Asked[NoQuery, ResumeBody]) -> Controlled:
    """It goes on where it stood; what came due meanwhile is due at once, and so is what is blocked."""
    accepted = await asked.operations.resume(_run(asked), asked.body.version)
    return await _now(asked, accepted.existing)


async def wake_run(asked: Asked[NoQuery, WakeBody]) -> Controlled:
    """Sleeps of the run end now; those of a sub-run are ended by its own id."""
    woken = await asked.operations.wake(_run(asked), asked.body.item, asked.body.step)
    now = await asked.operations.get_run(_run(asked))
    return Controlled(id=now.run, status=now.status, changed=True, woken=woken)


async def retry_run(asked: Asked[NoQuery, RetryBody]) -> Continuation:
    """A new run of the items that did not succeed, in which steps that succeeded keep their results."""
    body = asked.body
    request = ContinueRun(_run(asked), RunId(""), True, body.items, body.from_step, run_key=_key(asked))
    return _continued(request, await asked.operations.continue_run(request))


async def fork_run(asked: Asked[NoQuery, ForkBody]) -> Continuation:
    """A new run that takes over the results of this one as far as they are still good; the run may still be going on."""
    body = asked.body
    request = ContinueRun(
        _run(asked), RunId(""), False, body.items, body.from_step, _flow(body),
        None if body.input is None else [bytes(one) for one in body.input], _object(body.variables), _object(body.overrides),
        body.tags, _key(asked),
    )  # fmt: skip
    return _continued(request, await asked.operations.continue_run(request))


async def bulk_runs(asked: Asked[NoQuery, BulkBody]) -> Answer:
    """One line of JSON for each run as it is done, then one that counts them. It ends with the connection."""
    body, bulk = asked.body, asked.operations.bulk
    if body.version is not None and body.action != "resume":
        raise bad_body(f"{body.action} takes no version")
    wanted = body.filter
    named = None if body.ids is None else [run_id(one, "ids") for one in body.ids]
    chosen = None if wanted is None else RunFilter(status=wanted.status, flow_name=wanted.flow_name, tags=wanted.tags)
    runs = await bulk.chosen(named, chosen)
    return StreamingResponse(_lines(asked.operations, body, runs), media_type=NDJSON)


async def _lines(operations: Operations, body: BulkBody, runs: Sequence[str]) -> AsyncIterator[bytes]:
    refused = 0
    async for one in operations.bulk.act(body.action, runs, version=body.version):
        refused += not one.done
        yield msgspec.json.encode(_line(one)) + b"\n"
    yield msgspec.json.encode(BulkLine(matched=len(runs), refused=refused)) + b"\n"


def _line(one: Outcome) -> BulkLine:
    return BulkLine(run_id=one.run, done=one.done, code=one.code, detail=one.message, new_run_id=one.new)


def _run(asked: Asked[object, object]) -> RunId:
    return run_id(asked.path["runId"], "runId")


async def _now(asked: Asked[object, object], existing: bool) -> Controlled:
    now = await asked.operations.get_run(_run(asked))
    return Controlled(id=now.run, status=now.status, changed=not existing)


def _continued(request: ContinueRun, found: Continued) -> Continuation:
    return Continuation(id=found.run, source=request.run, items=found.items, reused=found.reused, existing=found.existing)


def _flow(body: ForkBody) -> FlowId | None:
    return None if body.flow_id is None else flow_id(body.flow_id, "flow_id")


def _object(text: Json) -> bytes | None:
    return None if bytes(text) == NULL else bytes(text)


def _key(asked: Asked[object, object]) -> str | None:
    key = asked.caller.headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= 200:
        raise bad_parameter("Idempotency-Key wants 1 to 200 characters")
    return key


ROUTES = (
    Route(
        method="POST", path="/v1/runs/{runId}/cancel", scope=Scope.RUN, summary="Stop a run", handler=cancel_run, body=Why,
        answer=Controlled,
    ),
    Route(
        method="POST", path="/v1/runs/{runId}/pause", scope=Scope.RUN, summary="Start nothing new of a run", handler=pause_run, body=Why,
        answer=Controlled,
    ),
    Route(
        method="POST", path="/v1/runs/{runId}/resume", scope=Scope.RUN, summary="Let a run go on that is paused or blocked",
        handler=resume_run, body=ResumeBody, answer=Controlled,
    ),
    Route(
        method="POST", path="/v1/runs/{runId}/wake", scope=Scope.RUN, summary="End sleeps of a run", handler=wake_run, body=WakeBody,
        answer=Controlled,
    ),
    Route(
        method="POST", path="/v1/runs/{runId}/retry", scope=Scope.RUN, summary="Run again what failed", handler=retry_run,
        body=RetryBody, answer=Continuation, headers=KEY,
    ),
    Route(
        method="POST", path="/v1/runs/{runId}/fork", scope=Scope.RUN, summary="Run again from a step on", handler=fork_run,
        body=ForkBody, answer=Continuation, headers=KEY,
    ),
    Route(
        method="POST", path="/v1/runs/bulk", scope=Scope.RUN, summary="Act on many runs", handler=bulk_runs, body=BulkBody,
        answer=BulkLine, media=(NDJSON,),
    ),
)  # fmt: skip
