"""Spans of one item → a waterfall as text: a line per step, child or user span, indented by parent, over one time axis.

Pure: takes spans, from a span file or built from events (trace.py), and gives text. An attempt's wait in its queue and its execution are
one bar, since they follow each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from stepmesh_broker.protocol import attributes as names
from stepmesh_broker.protocol import tracecontext
from stepmesh_broker.telemetry.span_file import SpanRecord

WAITING, RUNNING, OTHER = "░", "█", "─"
LEGEND = f"{WAITING} waits in its queue   {RUNNING} executes   {OTHER} anything else, what is below included   ✗ failed"
_LABEL = 34
_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class _Line:
    depth: int
    span: SpanRecord
    executed_ns: int | None  # when execution began; None for a span that is no task


class _Family:
    """Spans by id and by parent. The same span twice (sent again after a crash) counts once."""

    def __init__(self, spans: Iterable[SpanRecord]) -> None:
        self.by_id = {span.span_id: span for span in spans}
        self.below: dict[str, list[SpanRecord]] = defaultdict(list)
        for span in sorted(self.by_id.values(), key=lambda span: (span.start_ns, span.end_ns)):
            self.below[span.parent_id].append(span)

    def above(self, span_id: str) -> list[SpanRecord]:
        """From the top down to the span, as far as they are known."""
        chain: list[SpanRecord] = []
        while (span := self.by_id.get(span_id)) is not None and span not in chain:
            chain.insert(0, span)
            span_id = span.parent_id
        return chain

    def lines(self, span_id: str, depth: int) -> Iterator[_Line]:
        """What hangs below a span, depth first, by start."""
        for span in self.below[span_id]:
            kind = span.attributes.get(names.KIND)
            if kind == "queue":
                continue
            if kind == "execute":  # shown as part of its attempt's bar
                yield from self.lines(span.span_id, depth)
                continue
            yield _Line(depth, span, self._executed(span) if kind == "attempt" else None)
            yield from self.lines(span.span_id, depth + 1)

    def _executed(self, attempt: SpanRecord) -> int | None:
        """When the attempt's execution began: as its worker says, else when its wait ended; None for one that went to no pool."""
        parts = self.below[attempt.span_id]
        starts = [part.start_ns for part in parts if part.attributes.get(names.KIND) == "execute"]
        starts += [part.end_ns for part in parts if part.attributes.get(names.KIND) == "queue"]
        if starts:
            return starts[0]
        return attempt.end_ns if names.WORKER not in attempt.attributes and names.POOL in attempt.attributes else None


def waterfall(spans: Iterable[SpanRecord], run: str, item: int, width: int = 60) -> str:
    """The trace of one item. `width`: characters of the time axis. "" when no span of the item is there."""
    family = _Family(spans)
    top = f"{tracecontext.item_span(run, item):016x}"
    above = family.above(top) or family.above(f"{tracecontext.run_span(run):016x}")
    below = list(family.lines(top, len(above)))
    if not below and top not in family.by_id:
        return ""
    shown = [line.span for line in below] + ([family.by_id[top]] if top in family.by_id else [])
    start_ns, end_ns = min(span.start_ns for span in shown), max(span.end_ns for span in shown)
    axis = _Axis(start_ns, max(end_ns, start_ns + 1), width)
    lines = [_Line(depth, span, None) for depth, span in enumerate(above)] + below
    trace = f" · trace {shown[0].trace_id}" if shown[0].trace_id else ""
    title = f"run {run} · item {item}{trace} · {_duration(end_ns - start_ns)}"
    return "\n".join([title, *(axis.draw(line) for line in lines), LEGEND])


@dataclass(frozen=True, slots=True)
class _Axis:
    start_ns: int
    end_ns: int
    width: int

    def draw(self, line: _Line) -> str:
        """One line: label, bar, offset and duration, and what went wrong."""
        span = line.span
        label = _clipped("  " * line.depth + _label(span), _LABEL)
        offset = f"{(span.start_ns - self.start_ns) / _MS:+10.1f} ms"
        text = f"{label} {self._bar(line)} {offset} {_duration(span.end_ns - span.start_ns):>9}"
        if line.executed_ns is not None:
            text += f"  waited {_duration(max(0, line.executed_ns - span.start_ns))}"
        return text + _trouble(span)

    def _bar(self, line: _Line) -> str:
        span = line.span
        first = min(self._column(span.start_ns), self.width - 1)
        last = max(first, self._column(span.end_ns) - 1)
        if line.executed_ns is None:
            body = OTHER * (last - first + 1)
        else:
            turn = min(max(self._column(line.executed_ns), first), last) if line.executed_ns < span.end_ns else last + 1
            body = WAITING * (turn - first) + RUNNING * (last - turn + 1)
        return (" " * first + body).ljust(self.width)

    def _column(self, at_ns: int) -> int:
        share = (min(max(at_ns, self.start_ns), self.end_ns) - self.start_ns) / (self.end_ns - self.start_ns)
        return int(share * self.width)


def _label(span: SpanRecord) -> str:
    attempt = span.attributes.get(names.ATTEMPT)
    if span.attributes.get(names.KIND) == "item":
        return f"item {span.attributes.get(names.ITEM, '')}"
    return f"{span.name} #{attempt}" if isinstance(attempt, int) and attempt > 1 else span.name


def _clipped(text: str, size: int) -> str:
    return text.ljust(size) if len(text) <= size else text[: size - 1] + "…"


def _trouble(span: SpanRecord) -> str:
    outcome = span.attributes.get(names.OUTCOME)
    if span.status != "error":
        return f"  {outcome}" if outcome == "cancelled" else ""
    what = span.attributes.get(names.ERROR_TYPE, "")
    return f"  ✗ {what}" + (", tried again" if outcome == "retrying" else ", default taken" if outcome == "defaulted" else "")


def _duration(ns: int) -> str:
    return f"{ns / _MS:.1f} ms" if ns < 10_000 * _MS else f"{ns / _MS / 1000:.1f} s"
