"""Trace context as text (W3C Trace Context, traceparent version 00) and the ids that Stepmesh derives for its own spans.

Invariant: an id follows from what it names and from nothing else, so any process derives the same one at any time: a span can be made
after the fact, a restart keeps a trace in one piece, and a worker knows its parent from the task alone. Knows no telemetry library.
"""

from __future__ import annotations

import re
from hashlib import blake2s
from typing import NamedTuple

_HEADER = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_LOW_64_BITS = (1 << 64) - 1


class TraceContext(NamedTuple):
    """A span as its children see it. Ids are unsigned integers of 128 and 64 bits, never 0."""

    trace_id: int
    span_id: int
    sampled: bool

    @property
    def header(self) -> str:
        """As a traceparent."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{self.sampled:02x}"


def parse(traceparent: str) -> TraceContext | None:
    """None for anything that is no valid traceparent, which a receiver must then ignore (W3C Trace Context, section 3.2.2)."""
    found = _HEADER.fullmatch(traceparent)
    if found is None:
        return None
    version, trace, span, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest) or not int(trace, 16) or not int(span, 16):
        return None
    return TraceContext(int(trace, 16), int(span, 16), bool(int(flags, 16) & 1))


def trace_of(root: str, ratio: float) -> TraceContext:
    """The context of a root run whose submitter gave none: its span is that of the run. `ratio`: see `is_sampled`."""
    trace = _hash(f"trace/{root}", 16)
    return TraceContext(trace, run_span(root), is_sampled(trace, ratio))


def is_sampled(trace_id: int, ratio: float) -> bool:
    """Whether a new trace is recorded when `ratio` (0 … 1) of them are; decided as OpenTelemetry's TraceIdRatioBased does."""
    return trace_id & _LOW_64_BITS < round(ratio * (_LOW_64_BITS + 1))


def submit_span(run: str) -> int:
    """Id of the span of a client's submission."""
    return _hash(f"submit/{run}", 8)


def run_span(run: str) -> int:
    """Id of the span of a run."""
    return _hash(f"run/{run}", 8)


def item_span(run: str, item: int) -> int:
    """Id of the span of an item."""
    return _hash(f"item/{run}/{item}", 8)


def attempt_span(run: str, item: int, step: int, attempt: int) -> int:
    """Id of the span of one attempt of a step."""
    return _hash(f"attempt/{run}/{item}/{step}/{attempt}", 8)


def queue_span(run: str, item: int, step: int, attempt: int) -> int:
    """Id of the span of an attempt's wait in its pool."""
    return _hash(f"queue/{run}/{item}/{step}/{attempt}", 8)


def _hash(name: str, size: int) -> int:
    return int.from_bytes(blake2s(name.encode(), digest_size=size).digest(), "big") or 1
