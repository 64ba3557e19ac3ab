"""`stepmesh trace`: one item of a run as a waterfall, from a span file, or from what the journal knows.

Spans of a file show queue waits, user spans and all processes. Without a file, spans are built from the run's events, with the same ids:
an attempt then reads as one bar from its dispatch to its end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from stepmesh.client import Client
from stepmesh_broker.protocol import attributes as names
from stepmesh_broker.protocol import tracecontext
from stepmesh_broker.protocol.api import GetSteps, RunEvent, Steps, StepStatus
from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.telemetry.span_file import AttributeValue, SpanRecord, load
from stepmesh_cli import exits
from stepmesh_cli.connection import HERE, Target, connected, run_to_end
from stepmesh_cli.errors import CommandError
from stepmesh_cli.tables import print_json
from stepmesh_cli.waterfall import waterfall

_MS = 1_000_000
_SERVICE = "journal"
_ENDS = {
    "step_completed": "success", "step_failed": "failed", "step_defaulted": "defaulted", "step_retrying": "retrying",
}  # fmt: skip


def trace(
    run: str,
    /,
    *,
    item: int = 0,
    file: Annotated[Path | None, Parameter(env_var="STEPMESH_TRACE_FILE")] = None,
    width: int = 60,
    json: bool = False,
    target: Target = HERE,
) -> int:
    """Show one item of a run as a waterfall.

    Parameters
    ----------
    run
        Id of the run.
    item
        Index of the item.
    file
        Span file; without one, or when it does not have the run, the journal is asked.
    width
        Characters of the time axis.
    json
        One JSON object per span of the item, as the span file has them.
    """
    spans = load(file)[0] if file is not None and file.is_file() else []
    below = spans_below(spans, run, item)
    if not below:
        spans = run_to_end(_asked(target, run))
        below = spans_below(spans, run, item)
    if not below:
        raise CommandError(f"run {run} has no item {item} that began", hint=f"stepmesh status {run}")
    if json:
        for span in below:
            print_json(msgspec.to_builtins(span))
    else:
        print(waterfall(spans, run, item, width))
    return exits.OK


def spans_below(spans: Iterable[SpanRecord], run: str, item: int) -> list[SpanRecord]:
    """The span of an item and all that hang below it, by start; empty when there is none. A span that came twice counts once."""
    top = f"{tracecontext.item_span(run, item):016x}"
    by_id = {span.span_id: span for span in spans}
    children: defaultdict[str, list[str]] = defaultdict(list)
    for span in by_id.values():
        children[span.parent_id].append(span.span_id)
    found: dict[str, SpanRecord] = {}
    waiting = [top]
    while waiting:
        span_id = waiting.pop()
        if span_id in by_id and span_id not in found:
            found[span_id] = by_id[span_id]
        waiting.extend(children.pop(span_id, ()))
    return sorted(found.values(), key=lambda span: (span.start_ns, span.end_ns))


async def _asked(target: Target, run: str) -> list[SpanRecord]:
    async with connected(target) as client:
        return await spans_of(client, run)


async def spans_of(client: Client, run: str) -> list[SpanRecord]:
    """Spans of a run and its sub-runs as far as the journal tells. Raises `RunNotFound`."""
    history = _History()
    async for event in client.events(run, follow=False):
        if event.run not in history.steps:
            steps = (await client.requests.ask(GetSteps(RunId(event.run)), Steps)).steps
            history.steps[event.run] = {step.step_id: step for step in steps}
        history.take(event)
    return history.spans


@dataclass(slots=True)
class _History:
    """Events → spans, in one pass. `began`: since when (ns) what has not ended runs, by run, item and step; `attempts`: number of the
    present attempt of steps that were tried again; `parents`: span ids of what started the runs. The trace id is not in the events."""

    spans: list[SpanRecord] = field(default_factory=list[SpanRecord])
    steps: dict[str, dict[str, StepStatus]] = field(default_factory=dict[str, dict[str, StepStatus]])
    parents: dict[str, int | None] = field(default_factory=dict[str, int | None])
    began: dict[tuple[str, ...], int] = field(default_factory=dict[tuple[str, ...], int])
    attempts: dict[tuple[str, ...], int] = field(default_factory=dict[tuple[str, ...], int])

    def take(self, event: RunEvent) -> None:
        """The next event in order."""
        data: dict[str, Any] = msgspec.json.decode(event.data)
        item, step = event.item or 0, event.step_id or ""
        at = event.at_ms * _MS
        if event.kind == "run_created":
            self._run_created(event, data, at)
        elif event.kind == "item_started":
            self.began[event.run, str(item)] = at
        elif event.kind in ("step_started", "step_sleeping", "step_awaiting"):
            self.began.setdefault((event.run, str(item), step), at)
        elif event.kind in _ENDS:
            self._attempt(event, data, item, step, at)
        elif event.kind == "item_completed":
            self._item(event, data, item, at)
        elif event.kind == "run_completed":
            start = self.began.get((event.run,), at)
            status = "error" if data.get("status") == "failed" else "unset"
            about: dict[str, AttributeValue] = {names.KIND: "run", names.RUN_STATUS: str(data.get("status"))}
            self._add(event.run, "run", tracecontext.run_span(event.run), self.parents.get(event.run), (start, at), about, status)

    def _run_created(self, event: RunEvent, data: dict[str, Any], at: int) -> None:
        self.began[event.run,] = at
        owner = data.get("parent_run_id")
        if owner is None:
            return
        item, index = int(data["parent_item"]), int(data["parent_step"])
        step = next((one.step_id for one in self.steps.get(owner, {}).values() if one.step == index), "")
        attempt = self.attempts.get((owner, str(item), step), 1)
        self.parents[event.run] = tracecontext.attempt_span(owner, item, index, attempt)
        self.began.setdefault((owner, str(item), step), at)

    def _attempt(self, event: RunEvent, data: dict[str, Any], item: int, step: str, at: int) -> None:
        key = (event.run, str(item), step)
        known = self.steps[event.run].get(step)
        start = self.began.pop(key, None)
        if known is None or (start is None and event.kind == "step_failed"):  # inherited: it never ran
            return
        number = int(data.get("attempt", self.attempts.get(key, 1)))
        error = data.get("error") or {}
        about: dict[str, AttributeValue] = {
            names.KIND: "attempt", names.ITEM: item, names.STEP_ID: step, names.COMPONENT: known.component, names.ATTEMPT: number,
            names.OUTCOME: _ENDS[event.kind],
        }  # fmt: skip
        span = tracecontext.attempt_span(event.run, item, known.step, number)
        self._add(
            event.run, f"step {step}", span, tracecontext.item_span(event.run, item), (at if start is None else start, at), about,
            _status(error, about),
        )  # fmt: skip
        if event.kind == "step_retrying":
            self.attempts[key] = number + 1

    def _item(self, event: RunEvent, data: dict[str, Any], item: int, at: int) -> None:
        about: dict[str, AttributeValue] = {names.KIND: "item", names.ITEM: item}
        status = _status(data.get("error") or {}, about)
        period = (self.began.pop((event.run, str(item)), at), at)
        self._add(event.run, "item", tracecontext.item_span(event.run, item), tracecontext.run_span(event.run), period, about, status)

    def _add(
        self, run: str, name: str, span: int, parent: int | None, period: tuple[int, int], about: dict[str, AttributeValue], status: str
    ) -> None:
        above = "" if parent is None else f"{parent:016x}"
        self.spans.append(
            SpanRecord("", f"{span:016x}", above, name, "internal", *period, _SERVICE, status, "", {names.RUN_ID: run, **about})
        )


def _status(error: dict[str, Any], about: dict[str, AttributeValue]) -> str:
    """`error` or `unset`; an error names its code among the attributes."""
    if not error:
        return "unset"
    about[names.ERROR_TYPE] = str(error.get("code", ""))
    return "error"
