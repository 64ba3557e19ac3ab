"""The seams for tracing: what a worker calls around each task, and a client around each submission, when an instrument is set.

Invariant: without an instrument a task or submission pays one comparison. This module must not know any telemetry library.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from stepmesh.context import Context
from stepmesh_broker.protocol.messages import Accepted, Result, Submit


class Instrument(Protocol):
    """Both calls must be quick and must not raise: an exception ends the task it came from (`start`) or the worker (`finish`)."""

    def start(self, context: Context) -> object:
        """Before the component's first line, inside its contextvars context (in its thread for a sync component): what is
        activated here is seen by the component. May set `context.traceparent` for what the component starts. Returns a token.
        """
        ...

    def finish(self, token: object, result: Result | None) -> None:
        """After the end, on the event loop. None: the result was dropped (cancelled, done elsewhere, handed back)."""
        ...


class SubmitInstrument(Protocol):
    """A client's."""

    async def submit(self, request: Submit, send: Callable[[Submit], Awaitable[Accepted]]) -> Accepted:
        """Send the request, with a trace context put in. Raises what `send` raises."""
        ...
