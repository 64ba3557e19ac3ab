"""traceparent as text, and the ids that follow from names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from stepmesh_broker.protocol import tracecontext
from stepmesh_broker.protocol.tracecontext import TraceContext, is_sampled, parse, trace_of

RUN = "0192a000-0000-7000-8000-000000000001"
VALID = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_the_example_of_the_standard() -> None:
    context = parse(VALID)
    assert context == TraceContext(0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7, sampled=True)
    assert context is not None
    assert context.header == VALID


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans())
def test_what_is_written_is_read_back(trace_id: int, span_id: int, sampled: bool) -> None:
    context = TraceContext(trace_id, span_id, sampled)
    assert parse(context.header) == context


@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        VALID.upper(),
        VALID[:-1],
        VALID + "-more",
        "ff" + VALID[2:],
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
        VALID.replace("-", "_"),
        " " + VALID,
        VALID + "\n",
    ],
)
def test_what_is_malformed_is_ignored(text: str) -> None:
    assert parse(text) is None


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    assert parse("01" + VALID[2:] + "-what-comes-then") == parse(VALID)


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("03", True), ("ff", True)])
def test_only_the_sampled_flag_counts(flags: str, sampled: bool) -> None:
    context = parse(VALID[:-2] + flags)
    assert context is not None
    assert context.sampled is sampled


def test_ids_are_the_same_in_every_process() -> None:
    assert f"{trace_of(RUN, 1.0).trace_id:032x}" == "51de38aecb9fe73f7869f6e51370c10e"
    assert f"{tracecontext.attempt_span(RUN, 3, 1, 2):016x}" == "b3afef74ba97916f"


def test_what_differs_has_another_id() -> None:
    other = RUN[:-1] + "2"
    ids = [
        tracecontext.submit_span(RUN), tracecontext.run_span(RUN), tracecontext.run_span(other), tracecontext.item_span(RUN, 0),
        tracecontext.item_span(RUN, 1), tracecontext.attempt_span(RUN, 0, 0, 1), tracecontext.attempt_span(RUN, 0, 0, 2),
        tracecontext.attempt_span(RUN, 0, 1, 1), tracecontext.attempt_span(RUN, 1, 0, 1), tracecontext.queue_span(RUN, 0, 0, 1),
    ]  # fmt: skip
    assert len(set(ids)) == len(ids)
    assert all(0 < one < 2**64 for one in ids)


def test_a_trace_without_a_submitter_begins_with_its_run() -> None:
    assert trace_of(RUN, 1.0).span_id == tracecontext.run_span(RUN)


@given(st.integers(1, 2**128 - 1), st.sampled_from([0.0, 0.01, 0.5, 0.999, 1.0]))
def test_sampling_agrees_with_the_library(trace_id: int, ratio: float) -> None:
    theirs = TraceIdRatioBased(ratio).should_sample(None, trace_id, "x").decision is Decision.RECORD_AND_SAMPLE
    assert is_sampled(trace_id, ratio) == theirs


def test_ratios_at_the_ends() -> None:
    assert not any(is_sampled(one, 0.0) for one in (1, 2**64 - 1))
    assert all(is_sampled(one, 1.0) for one in (1, 2**64 - 1))
