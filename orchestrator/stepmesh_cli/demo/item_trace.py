"""The trace of one item as a waterfall in text: each attempt of each step, when it was dispatched, began and ended.

Dispatch and outcome come from the journal, begin and end of the code from the ledger. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from stepmesh_broker.protocol.ids import RunId
from stepmesh_cli.demo.history import History
from stepmesh_cli.demo.ledger import Execution
from stepmesh_orchestrator.core.events import RunCreated, RunEnded, StepDispatched, StepRetrying

LABEL = 24
"""Characters of the names."""
WIDTH = 56
"""Characters of the time axis."""
SUB_ITEMS = 6
"""Rows of a sub-run; the rest is one line."""
WAITING, WORKING = "·", "█"
_KINDS = (RunCreated, StepDispatched, RunEnded)


@dataclass(frozen=True, slots=True)
class Row:
    """Times in µs since 1970; `start_us` is when the code began, `dispatched_us` when the task was journaled."""

    label: str
    where: str
    dispatched_us: int
    start_us: int
    end_us: int


def telling_item(history: History, root: RunId) -> int:
    """An item worth showing: retried if there is one, with some functions but not many."""
    functions = {
        created.parent.item: len(created.inputs) for created in history.created.values() if created.parent and created.parent.run == root
    }
    retried = Counter(entry.event.item for entry in history.entries if isinstance(entry.event, StepRetrying) and entry.event.run == root)
    return min(functions, key=lambda item: (not retried[item], abs(functions[item] - 8), item), default=0)


def waterfall(history: History, executions: Sequence[Execution], root: RunId, item: int) -> list[str]:
    """Lines for a terminal, about 110 characters wide."""
    rows = _rows(history, executions, root, item)
    if not rows:
        return [f"item {item}: nothing ran"]
    first = min(row.dispatched_us for row in rows)
    span = max(1, max(row.end_us for row in rows) - first)
    below = [row for row in rows if row.label.startswith(" ")]
    hidden = below[SUB_ITEMS:] if len(below) > SUB_ITEMS + 2 else []
    lines = [_line(row, first, span) for row in rows if row not in hidden]
    if hidden:
        lines.append(f"    … and {len(hidden)} more like it")
    scale = f"{span / 1000:.0f} ms"
    lines.append(f"  {'':<{LABEL}} 0{scale:>{WIDTH}}")
    lines.append(f"  {WAITING} journaled, waits for a slot or a worker   {WORKING} the component's code")
    return lines


def _rows(history: History, executions: Sequence[Execution], root: RunId, item: int) -> list[Row]:
    dispatched: dict[tuple[RunId, int, str, int], int] = {}
    for entry in history.entries:
        event = entry.event
        if isinstance(event, StepDispatched) and history.root_item(event.run, event.item) == (root, item):
            dispatched[event.run, event.item, history.step_id(event.run, event.step), event.attempt] = entry.at_ms * 1000
    rows: list[Row] = []
    for one in executions:
        at_us = dispatched.get((RunId(one.run), one.item, one.step, one.attempt))
        if at_us is not None:
            below = one.run != root
            again = f" (attempt {one.attempt})" if one.attempt > 1 else ""
            label = f"  {one.step}[{one.item}]{again}" if below else f"{one.step}{again}"
            end_us = one.end_us or one.start_us
            rows.append(Row(label, f"{one.pool} {one.pid}", min(at_us, one.start_us), one.start_us, end_us))
    return sorted([*rows, *_maps(history, root, item)], key=lambda row: (row.dispatched_us, row.label.startswith(" "), row.start_us))


def _maps(history: History, root: RunId, item: int) -> list[Row]:
    """The item's sub-runs: created, their first task dispatched, ended."""
    rows: list[Row] = []
    for run, created in history.created.items():
        if created.parent is None or (created.parent.run, created.parent.item) != (root, item):
            continue
        times = {kind: [e.at_ms * 1000 for e in history.entries if e.event.run == run and isinstance(e.event, kind)] for kind in _KINDS}
        began = times[RunCreated][0]
        dispatched = min(times[StepDispatched], default=began)
        label = f"{history.step_id(root, created.parent.step)} ({created.parent.kind} of {len(created.inputs)})"
        rows.append(Row(label, "", began, dispatched, max(times[RunEnded], default=dispatched)))
    return rows


def _line(row: Row, first: int, span: int) -> str:
    wait, start, end = (round((at - first) / span * WIDTH) for at in (row.dispatched_us, row.start_us, row.end_us))
    end = max(end, start + 1)
    bar = " " * wait + WAITING * (start - wait) + WORKING * (end - start)
    took = (row.end_us - row.start_us) / 1000
    return f"  {row.label:<{LABEL}} {bar:<{WIDTH + 1}} {took:7.1f} ms  {row.where}"
