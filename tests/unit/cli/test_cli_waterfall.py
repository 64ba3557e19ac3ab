"""The waterfall: which lines, in which order and depth, and what each bar covers."""

from __future__ import annotations

from stepmesh_broker.protocol import attributes as names
from stepmesh_broker.protocol import tracecontext
from stepmesh_broker.telemetry.span_file import SpanRecord
from stepmesh_cli.waterfall import waterfall

RUN = "0192a000-0000-7000-8000-000000000001"
CHILD = "0192a000-0000-7000-8000-000000000002"
MS = 1_000_000
TOP, ITEM = tracecontext.run_span(RUN), tracecontext.item_span(RUN, 0)


def span(name: str, own: int, parent: int | None, start_ms: float, end_ms: float, kind: str = "", **more: object) -> SpanRecord:
    attributes = {names.KIND: kind} | {key: value for key, value in more.items() if key != "status"}
    return SpanRecord(
        "t", f"{own:016x}", "" if parent is None else f"{parent:016x}", name, "internal", int(start_ms * MS), int(end_ms * MS), "s",
        str(more.get("status", "unset")), "", attributes,  # type: ignore[arg-type]  # what tests give
    )  # fmt: skip


def attempt(step: str, index: int, number: int, times: tuple[float, float, float], **more: object) -> list[SpanRecord]:
    """An attempt that was dispatched, began and ended at these times (ms)."""
    own = tracecontext.attempt_span(RUN, 0, index, number)
    dispatched, began, ended = times
    return [
        span(f"step {step}", own, ITEM, dispatched, ended, "attempt", **{names.ATTEMPT: number, names.POOL: "cpu", **more}),
        span("queue cpu", tracecontext.queue_span(RUN, 0, index, number), own, dispatched, began, "queue"),
        span("execute /c", own ^ 1, own, began, ended, "execute"),
    ]


def drawn(spans: list[SpanRecord], item: int = 0) -> list[str]:
    return waterfall(spans, RUN, item, width=10).splitlines()


def bars(lines: list[str]) -> dict[str, str]:
    """Label → bar, of the lines between title and legend."""
    return {line[:34].strip(): line[35:45] for line in lines[1:-1]}


FRAME = [span("run f", TOP, None, 0, 100, "run"), span("item", ITEM, TOP, 0, 100, "item", **{names.ITEM: 0})]


def test_queue_and_execution_are_one_bar() -> None:
    lines = drawn([*FRAME, *attempt("a", 0, 1, (0, 30, 50)), *attempt("b", 1, 1, (50, 60, 100))])
    assert bars(lines) == {"run f": "──────────", "item 0": "──────────", "step a": "░░░██     ", "step b": "     ░████"}
    assert lines[3].endswith("waited 30.0 ms")


def test_lines_are_indented_by_parent_and_in_order_of_time() -> None:
    user = span("look up", 77, tracecontext.attempt_span(RUN, 0, 1, 1) ^ 1, 70, 80)
    lines = drawn([*attempt("b", 1, 1, (50, 60, 100)), user, *attempt("a", 0, 1, (0, 30, 50)), *reversed(FRAME)])
    assert [line[:34].rstrip() for line in lines[1:-1]] == ["run f", "  item 0", "    step a", "    step b", "      look up"]


def test_retries_and_failures_are_marked() -> None:
    failed = {"status": "error", names.ERROR_TYPE: "TIMEOUT", names.OUTCOME: "retrying"}
    lines = drawn([*FRAME, *attempt("a", 0, 1, (0, 10, 40), **failed), *attempt("a", 0, 2, (50, 60, 100))])
    assert lines[3].endswith("✗ TIMEOUT, tried again")
    assert lines[4].lstrip().startswith("step a #2")


def test_sub_runs_hang_below_their_step() -> None:
    step = tracecontext.attempt_span(RUN, 0, 0, 1)
    child = span("run inner", tracecontext.run_span(CHILD), step, 10, 90, "run")
    inner = span("item", tracecontext.item_span(CHILD, 0), tracecontext.run_span(CHILD), 10, 90, "item", **{names.ITEM: 0})
    own = span("step each", step, ITEM, 0, 100, "attempt", **{names.ATTEMPT: 1, names.WAIT: "sub_run"})
    lines = drawn([*FRAME, own, child, inner])
    assert [line[:34].rstrip() for line in lines[3:-1]] == ["    step each", "      run inner", "        item 0"]
    assert bars(lines)["step each"] == "──────────", "no pool, no queue"


def test_only_the_asked_item_is_shown() -> None:
    other = span("item", tracecontext.item_span(RUN, 1), TOP, 0, 500, "item", **{names.ITEM: 1})
    lines = drawn([*FRAME, other, *attempt("a", 0, 1, (0, 30, 50))])
    assert "item 1" not in "\n".join(lines)
    assert " 100.0 ms" in lines[0]


def test_an_item_that_still_runs_shows_what_is_over() -> None:
    lines = drawn(attempt("a", 0, 1, (0, 30, 50)))
    assert bars(lines) == {"step a": "░░░░░░████"}


def test_an_attempt_that_nobody_executed_only_waited() -> None:
    own = tracecontext.attempt_span(RUN, 0, 0, 1)
    lost = span("step a", own, ITEM, 0, 50, "attempt", **{names.POOL: "cpu", names.ATTEMPT: 1, names.OUTCOME: "cancelled"})
    lines = drawn([*FRAME, lost])
    assert bars(lines)["step a"] == "░░░░░     "
    assert lines[3].endswith("cancelled")


def test_spans_that_come_twice_count_once() -> None:
    spans = [*FRAME, *attempt("a", 0, 1, (0, 30, 50))]
    assert drawn(spans + spans) == drawn(spans)


def test_a_moment_still_has_a_bar() -> None:
    spans = [*FRAME, span("step n", tracecontext.attempt_span(RUN, 0, 0, 1), ITEM, 100, 100, "attempt", **{names.ATTEMPT: 1})]
    assert bars(drawn(spans))["step n"].strip() == "─"


def test_nothing_known_draws_nothing() -> None:
    assert waterfall([], RUN, 0) == ""
    assert waterfall(FRAME, RUN, 7) == ""
