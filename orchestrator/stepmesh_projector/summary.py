"""Windows added up over partitions and time, per name: what a person or a program asks for. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from ddsketch.ddsketch import BaseDDSketch

from stepmesh_projector.usage import BILLION
from stepmesh_projector.windows import Counts, Place, Window

QUANTILES = (0.5, 0.95, 0.99)


class Tokens(msgspec.Struct, frozen=True):
    """As steps told them in their outputs."""

    prompt: int = 0
    completion: int = 0
    total: int = 0


class Summary(msgspec.Struct, frozen=True):
    """Of one pool, flow or namespace. `latency_ms` and `wait_ms` are the `QUANTILES`; None when nothing was measured. `failure_rate`: of
    tasks for a pool, else of runs; None when none ended. `cost`: by currency, "" for one that was not named."""

    namespace: str
    name: str
    counts: Counts
    latency_ms: list[float] | None
    wait_ms: list[float] | None
    failure_rate: float | None
    tokens: Tokens
    cost: dict[str, float]


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
    usage = total.usage
    tokens = Tokens(usage.prompt_tokens, usage.completion_tokens, usage.total_tokens)
    cost = {currency: billionths / BILLION for currency, billionths in sorted(usage.costs.items())}
    return Summary(namespace, name, counts, _quantiles(total.latency), _quantiles(total.wait), rate, tokens, cost)


def _quantiles(sketch: BaseDDSketch) -> list[float] | None:
    found = [sketch.get_quantile_value(quantile) for quantile in QUANTILES]
    return [round(value, 1) for value in found if value is not None] or None
