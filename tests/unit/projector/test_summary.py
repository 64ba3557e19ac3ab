"""Windows of several partitions and spans add up per name."""

from __future__ import annotations

import pytest

from stepmesh_broker.protocol.ids import Namespace
from stepmesh_cli.errors import CommandError
from stepmesh_cli.stats import seconds_of
from stepmesh_projector.summary import summaries
from stepmesh_projector.windows import Counts, Label, Place, Window, decode_window, encode_window


def window(latencies: list[int], **counts: int) -> Window:
    found = Window(1, Counts(**counts))
    for latency in latencies:
        found.latency.add(latency)
    return decode_window(encode_window(found))


def place(kind: str, name: str, start_ms: int = 0) -> Place:
    return Place(Label(Namespace("default"), kind, name), start_ms)


def test_tasks_of_a_pool() -> None:
    slow, quick = summaries([
        (place("pool", "gpu"), window([100, 200], succeeded=2)),
        (place("pool", "gpu", 10_000), window([300, 0], succeeded=1, failed=1, retried=3)),
        (place("pool", "io"), window([], dispatched=1)),
    ])  # fmt: skip
    assert (slow.name, slow.counts, slow.failure_rate) == ("gpu", Counts(0, 3, 1, 3), 0.25)
    assert slow.latency_ms == [pytest.approx(100, rel=0.03), pytest.approx(200, rel=0.03), pytest.approx(200, rel=0.03)]
    assert slow.wait_ms is None
    assert (quick.name, quick.latency_ms, quick.failure_rate) == ("io", None, None)


def test_runs_of_a_flow() -> None:
    (flow,) = summaries([(place("flow", "etl"), window([5], runs_completed=3, runs_failed=1, failed=7))])
    assert flow.failure_rate == 0.25


def test_spans_of_time() -> None:
    assert [seconds_of(text) for text in ("30s", "10m", "2h")] == [30, 600, 7_200]
    for wrong in ("", "10", "0m", "-1s", "1d", "99999999s"):
        with pytest.raises(CommandError):
            seconds_of(wrong)
