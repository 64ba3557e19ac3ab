"""Routes of small libraries for durable workflows, for clients that know those: start by name, look, follow. `notify` is in outside.py.

Invariant: nothing is decided here; each is another path to what the other routes do.
"""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from stepmesh_gateway.http import event_frames, events, messages, runs
from stepmesh_gateway.http.messages import NULL
from stepmesh_gateway.http.refusals import JSON
from stepmesh_gateway.http.registry import EVENT_STREAM, Asked, NoQuery, Route, Scope
from stepmesh_gateway.operations import NewRun


class Triggered(msgspec.Struct, frozen=True, kw_only=True):
    """The run is journaled. `existing`: the key was known already."""

    run_id: str
    existing: bool


async def trigger(asked: Asked[NoQuery, bytes]) -> Triggered:
    """A run of one step, which is the workflow or component of that path. The body is its input."""
    name = asked.path["workflow"].strip("/")
    step = {"id": "run", "component": f"/{name}", "input": {"$input": "$"}}
    stored = await asked.operations.store_flow(msgspec.json.encode({"name": name, "steps": [step], "output": {"$step": "run"}}))
    run_key = asked.caller.headers.get("idempotency-key")
    accepted = await asked.operations.create_run(NewRun(flow=stored.flow, inputs=[asked.body or NULL], run_key=run_key))
    return Triggered(run_id=accepted.run, existing=accepted.existing)


async def look_at_run(asked: Asked[runs.WaitQuery, None]) -> Response:
    """See `runs.get_run`."""
    return await runs.get_run(asked)


async def stream_run(asked: Asked[events.EventsQuery, None]) -> Response:
    """See `events.follow_run`."""
    return await events.follow_run(asked)


ROUTES = (
    Route(
        method="POST", path="/trigger/{workflow:path}", scope=Scope.RUN, summary="Start a workflow by its path", handler=trigger, raw=JSON,
        answer=Triggered, headers={"Idempotency-Key": "the same key gives the same run, however often it is sent"},
    ),
    Route(
        method="GET", path="/runs/{runId}", scope=Scope.READ, summary="A run and its steps", handler=look_at_run, query=runs.WaitQuery,
        answer=messages.Run,
    ),
    Route(
        method="GET", path="/runs/{runId}/stream", scope=Scope.READ, summary="Follow a run", handler=stream_run,
        query=events.EventsQuery, answer=event_frames.Event, headers={"Last-Event-ID": "go on behind this event"}, media=(EVENT_STREAM,),
    ),
)  # fmt: skip
