"""The span file: finished spans of all processes of a deployment, one JSON object per line, for development and the demo.

Invariant: a line is written by one append of one process, so processes may share the file. A process that is killed may leave a torn
line; reading goes on behind it. Knows no telemetry library.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

AttributeValue = str | bool | int | float | list[str]


class SpanLink(msgspec.Struct, frozen=True):
    """A link to another span; ids in hex."""

    trace_id: str
    span_id: str
    attributes: dict[str, AttributeValue] = {}


class SpanRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A finished span. Ids in hex, `parent_id` "" for a root; times in ns since 1970; `status`: unset, ok or error."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    start_ns: int
    end_ns: int
    service: str
    status: str = "unset"
    message: str = ""
    attributes: dict[str, AttributeValue] = {}
    links: list[SpanLink] = []


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(SpanRecord)


def append(path: Path, spans: Iterable[SpanRecord]) -> None:
    """Add spans to the file, which is made if there is none. Raises `OSError`."""
    lines = b"".join(_encoder.encode(span) + b"\n" for span in spans)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        while lines:
            lines = lines[os.write(descriptor, lines) :]
    finally:
        os.close(descriptor)


def load(path: Path) -> tuple[list[SpanRecord], int]:
    """The file's spans in order, and how many lines are no span (torn by a process that was killed). Raises `OSError`."""
    spans: list[SpanRecord] = []
    torn = 0
    for line in path.read_bytes().splitlines():
        try:
            spans.append(_decoder.decode(line))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            torn += 1
    return spans, torn
