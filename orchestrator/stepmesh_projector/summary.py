"""Windows added up over partitions and time, per name: what a person or a program asks for. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from ddsketch.ddsketch import BaseDDSketch

from stepmesh_projector.windows import Counts, Place, Window

QUANTILES = (0.5, 0.95, 0.99)


class Summary(msgspec.Struct, frozen=True):
    """Of one pool, flow or namespace. `latency_ms` and `wait_ms` are the `QUANTILES`; None when nothing was measured. `failure_rate`: of
    tasks for a pool, else of runs; None when none ended."""

    namespace: str
    name: str
    counts: Counts
    latency_ms: list[float] | None
    wait_ms: list[float] | None
    failure_rate: float | None


def summaries(windows: Iterable[tuple[Place, Window]]) -> list[Summary]:
    """In the order of namespaces and names. `windows`: of one kind."""
    totals: dict[tuple[str, str, str], Window] = {}
    for place, window in windows:
        label = place.label
        totals.setdefault((label.namespace, label.name, label.kind), Window()).add(window)
    return [_summary(namespace, name, kind, total) for (namespace, name, kind), total in sorted(totals.items(), key=lambda pair: pair[0])]


def _summary(namespace: str, name: str, kind: str, total: Window) -> Summary:
    counts = total.counts
    good, bad = (counts.succeeded, counts.failed) if kind == "pool" else (counts.runs_completed, counts.runs_failed)
    rate = bad / (good + bad) if good + bad else None
    return Summary(namespace, name, counts, _quantiles(total.latency), _quantiles(total.wait), rate)


def _quantiles(sketch: BaseDDSketch) -> list[float] | None:
    found = [sketch.get_quantile_value(quantile) for quantile in QUANTILES]
    return [round(value, 1) for value in found if value is not None] or None
