"""The span file: shared by processes, read back as written, torn lines counted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import SpanKind

from stepmesh_broker.protocol import attributes as names
from stepmesh_broker.telemetry.file_exporter import FileSpanExporter, record
from stepmesh_broker.telemetry.sink import Period, SpanSink, link_to
from stepmesh_broker.telemetry.span_file import SpanLink, SpanRecord, append, load


def span(number: int, **more: object) -> SpanRecord:
    return SpanRecord("t", f"{number:016x}", "", f"span {number}", "internal", number, number + 1, "service", **more)  # type: ignore[arg-type]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    spans = [span(1), span(2, attributes={"a": 1, "b": "x", "c": True, "d": 0.5}, links=[SpanLink("t", "s", {"why": "retry"})])]
    append(tmp_path / "f", spans[:1])
    append(tmp_path / "f", spans[1:])
    assert load(tmp_path / "f") == (spans, 0)


def test_writers_do_not_tear_each_others_lines(tmp_path: Path) -> None:
    big = {"text": "x" * 20_000}
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: append(tmp_path / "f", [span(number, attributes=big)]), range(64)))
    spans, torn = load(tmp_path / "f")
    assert torn == 0
    assert sorted(one.start_ns for one in spans) == list(range(64))


def test_a_torn_line_is_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    append(tmp_path / "f", [span(1)])
    with (tmp_path / "f").open("ab") as file:
        file.write(b'{"trace_id":"t","span_\n\xff\xfe\n')
    append(tmp_path / "f", [span(2)])
    spans, torn = load(tmp_path / "f")
    assert ([one.start_ns for one in spans], torn) == ([1, 2], 2)


def test_an_empty_file_has_no_spans(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    assert load(tmp_path / "f") == ([], 0)


class Kept:
    """A processor that keeps what it gets."""

    def __init__(self) -> None:
        self.spans: list[SpanRecord] = []

    def on_end(self, span: object) -> None:
        self.spans.append(record(span))  # type: ignore[arg-type]  # the sink sends readable spans


def test_a_span_made_after_the_fact_has_what_it_was_given() -> None:
    kept = Kept()
    sink = SpanSink(Resource({names.SERVICE_NAME: "me"}), (kept,))  # type: ignore[arg-type]  # the one method that the sink calls
    links = [link_to(1, 5, "previous_attempt")]
    sink.emit("step a", 1, 2, 3, Period(10, 20), {names.ITEM: 4}, kind=SpanKind.CONSUMER, error="broke", links=links)
    sink.emit("root", 1, 3, None, Period(30, 20), {})
    first, second = kept.spans
    assert first == SpanRecord(
        f"{1:032x}", f"{2:016x}", f"{3:016x}", "step a", "consumer", 10, 20, "me", "error", "broke", {names.ITEM: 4},
        [SpanLink(f"{1:032x}", f"{5:016x}", {names.LINK: "previous_attempt"})],
    )  # fmt: skip
    assert (second.parent_id, second.status) == ("", "unset")
    assert second.end_ns == second.start_ns == 30, "clocks of two machines never make a span of negative length"


def test_a_file_that_cannot_be_written_loses_the_spans_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    exporter = FileSpanExporter(tmp_path / "absent" / "f")
    kept = Kept()
    SpanSink(Resource({}), (kept,)).emit("x", 1, 2, None, Period(1, 2), {})  # type: ignore[arg-type]  # as above
    assert exporter.export([]) is SpanExportResult.FAILURE
    assert "were not written" in caplog.text
