"""How a run went, for the report: durations by pool and step, waits, retries, throughput. From the journal and the ledger.

Pure. Times in the answers are seconds or milliseconds, as their names say; percentiles are nearest-rank.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from stepmesh_broker.protocol.ids import RunId
from stepmesh_cli.demo.history import History
from stepmesh_cli.demo.ledger import Execution
from stepmesh_orchestrator.core.events import RunCreated, StepDispatched, StepRetrying

BINS = 60
"""Of the throughput timeline."""


class Mark(NamedTuple):
    """Something that happened to the run from outside; µs since 1970."""

    at_us: int
    label: str


def facts(history: History, executions: Sequence[Execution], root: RunId, marks: Sequence[Mark] = ()) -> dict[str, Any]:
    """About the run tree of `root`: JSON for the report. `marks` go onto the timeline."""
    tree = {run for run, created in history.created.items() if created.root == root}
    mine = [one for one in executions if one.run in tree and one.end_us is not None]
    first = min((one.start_us for one in mine), default=0)
    last = max((one.end_us or 0 for one in mine), default=0)
    waits = _waits(history, mine)
    return {
        "run": root,
        "seconds": round((last - first) / 1e6, 3),
        "executions": len(mine),
        "killed": sum(one.run in tree and one.end_us is None for one in executions),
        "sub_runs": len(tree) - 1,
        "sub_items": sum(len(history.created[run].inputs) for run in tree if run != root),
        "events": sum(entry.event.run in tree for entry in history.entries),
        "frames": len({entry.sequence for entry in history.entries if entry.event.run in tree}),
        "pools": [_pool(pool, mine, waits, last - first) for pool in sorted({one.pool for one in mine})],
        "steps": [_step(step, mine) for step in dict.fromkeys(one.step for one in mine)],
        "timeline": {**_timeline(mine, first, last), "marks": [[(mark.at_us - first) / 1e6, mark.label] for mark in marks]},
        "busy_ms_by_item": _busy_by_item(history, mine, root),
        "retries": _retries(history, tree),
    }


def telling_item(history: History, root: RunId) -> int:
    """An item whose trace is worth showing: retried if there is one, with about six functions."""
    functions = {
        created.parent.item: len(created.inputs) for created in history.created.values() if created.parent and created.parent.run == root
    }
    retried = Counter(entry.event.item for entry in history.entries if isinstance(entry.event, StepRetrying) and entry.event.run == root)
    return min(functions, key=lambda item: (not retried[item], abs(functions[item] - 6), item), default=0)


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank; 0 for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))] if ordered else 0.0


def _took_ms(one: Execution) -> float:
    return ((one.end_us or one.start_us) - one.start_us) / 1000


def _waits(history: History, mine: Sequence[Execution]) -> dict[str, list[float]]:
    """Pool → ms from dispatch (frame time) to the first line of the component."""
    dispatched: dict[tuple[object, ...], int] = {}
    for entry in history.entries:
        event = entry.event
        if isinstance(event, StepDispatched):
            dispatched[event.run, event.item, history.step_id(event.run, event.step), event.attempt] = entry.at_ms
    found: defaultdict[str, list[float]] = defaultdict(list)
    for one in mine:
        at_ms = dispatched.get((one.run, one.item, one.step, one.attempt))
        if at_ms is not None:
            found[one.pool].append(max(0.0, one.start_us / 1000 - at_ms))
    return found


def _pool(pool: str, mine: Sequence[Execution], waits: dict[str, list[float]], span_us: int) -> dict[str, Any]:
    took = [_took_ms(one) for one in mine if one.pool == pool]
    processes = len({one.pid for one in mine if one.pool == pool})
    return {
        "pool": pool,
        "processes": processes,
        "executions": len(took),
        "busy_s": round(sum(took) / 1000, 2),
        "per_s": round(len(took) / (span_us / 1e6 or 1), 1),
        "p50_ms": round(percentile(took, 0.5), 1),
        "p95_ms": round(percentile(took, 0.95), 1),
        "wait_p50_ms": round(percentile(waits.get(pool, []), 0.5), 1),
        "wait_p95_ms": round(percentile(waits.get(pool, []), 0.95), 1),
    }


def _step(step: str, mine: Sequence[Execution]) -> dict[str, Any]:
    took = [_took_ms(one) for one in mine if one.step == step]
    pool = next(one.pool for one in mine if one.step == step)
    return {
        "step": step,
        "pool": pool,
        "executions": len(took),
        "total_s": round(sum(took) / 1000, 2),
        "p50_ms": round(percentile(took, 0.5), 1),
        "p95_ms": round(percentile(took, 0.95), 1),
        "max_ms": round(max(took), 1),
    }


def _timeline(mine: Sequence[Execution], first: int, last: int) -> dict[str, Any]:
    """Executions that ended in each bin, by pool."""
    width_us = max(1, (last - first) // BINS + 1)
    series: defaultdict[str, list[int]] = defaultdict(lambda: [0] * BINS)
    for one in mine:
        series[one.pool][min(BINS - 1, ((one.end_us or first) - first) // width_us)] += 1
    return {"bin_s": width_us / 1e6, "pools": dict(sorted(series.items()))}


def _busy_by_item(history: History, mine: Sequence[Execution], root: RunId) -> list[float]:
    busy: Counter[int] = Counter()
    for one in mine:
        busy[history.root_item(RunId(one.run), one.item)[1]] += round(_took_ms(one) * 1000)
    created = history.created.get(root)
    return [busy[item] / 1000 for item in range(len(created.inputs) if isinstance(created, RunCreated) else 0)]


def _retries(history: History, tree: set[RunId]) -> list[dict[str, Any]]:
    return [
        {
            "item": history.root_item(event.run, event.item)[1],
            "step": history.step_id(event.run, event.step),
            "attempt": event.attempt,
            "transport": event.transport,
            "reason": event.failure.message,
        }
        for event in (entry.event for entry in history.entries)
        if isinstance(event, StepRetrying) and event.run in tree
    ]
