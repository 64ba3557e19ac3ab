"""The core's values as the api's, and pages of them that fit into a message. Pure; it looks nothing up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
from msgspec import structs

from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.tokens import token_of
from stepmesh_orchestrator.core.decide.subruns import CANCELLED
from stepmesh_orchestrator.core.decide.waits import awaited_json, waiter_of
from stepmesh_orchestrator.core.events import PER_FRAME
from stepmesh_orchestrator.core.explain import Cause
from stepmesh_orchestrator.core.failures import flow_result
from stepmesh_orchestrator.core.flow.diagnostics import Diagnostics
from stepmesh_orchestrator.core.projection import step_row
from stepmesh_orchestrator.core.rows import ItemRow, RunRow, StepRow
from stepmesh_orchestrator.core.state import AWAITING, PHASE_NAMES, RUNNING, Item
from stepmesh_orchestrator.runtime.leases import Lease, Leases

_T = TypeVar("_T")
_OVERHEAD = 200
"""Bytes of an entry beside its payloads, about."""


def summary(row: RunRow, owner: str = "") -> api.RunSummary:
    """A run, and who owns its partition if it lives. Rows of an older release know only the frames of its events."""
    ended_at = row.finished_at
    if ended_at is None and row.finished_sequence is not None:
        ended_at = row.finished_sequence * PER_FRAME
    return api.RunSummary(
        row.run, row.namespace, row.partition, row.flow, row.flow_name, row.status, row.total, row.completed, row.failed, row.cancelled,
        row.created_ms, row.finished_ms, row.root, row.parent, row.parent_step, row.run_key, row.tags,
        row.created_at or row.created_sequence * PER_FRAME, ended_at, owner,
    )  # fmt: skip


def item_result(row: ItemRow) -> api.ItemResult:
    """An ended item."""
    return api.ItemResult(row.item, row.status, row.result, row.finished_ms)


def item_without_end(run: RunRow, index: int) -> api.ItemResult:
    """An item without a row: it has not ended, or it never began because the run was cancelled."""
    if run.finished_ms is None:
        return api.ItemResult(index, "running", b"", 0)
    return api.ItemResult(index, "cancelled", flow_result(CANCELLED), run.finished_ms)


def ended_steps(row: ItemRow) -> list[api.StepStatus]:
    """The steps of an ended item."""
    return [_step(row.item, step, step.status) for step in row.steps]


def live_steps(item: Item, leases: Leases, secret: str | None = None) -> list[api.StepStatus]:
    """The steps of an active item that somebody needed; with a `secret` also the tokens of those that wait for somebody outside."""
    steps: list[api.StepStatus] = []
    for index, phase in enumerate(item.phases[:-1]):
        row = step_row(item, index)
        if row is None:
            continue
        lease = leases.held.get((item.run.id, item.index, index)) if phase == RUNNING else None
        shown = _step(item.index, row, row.status if item.outcomes[index] is not None else PHASE_NAMES[phase], lease)
        if phase == AWAITING and secret is not None:
            details = awaited_json(item.wait(index).output or b"")
            shown = structs.replace(shown, token=step_token(item, index, secret), details=details)
        steps.append(shown)
    return steps


def step_token(item: Item, step: int, secret: str) -> str:
    """Of a step that waits for somebody outside."""
    return token_of(waiter_of(item, step, ""), secret)


def cause_line(cause: Cause, note: str) -> str:
    """One line of `explain`."""
    where = "" if cause.item is None else f"item {cause.item}, {cause.step_id}: "
    return f"{where}{cause.text}{note}"


def progress_text(lease: Lease) -> str:
    """Who holds a task, and how far it says to be."""
    said = lease.progress
    done = "" if said is None or said.fraction is None else f", {said.fraction:.0%} done"
    details = "" if said is None or said.details is None else f": {said.details[:200].decode(errors='replace')}"
    return f"; worker {lease.worker} holds it{done}{details}"


def item_bytes(result: api.ItemResult) -> int:
    """About what it takes in a message."""
    return len(result.result) + _OVERHEAD


def step_bytes(step: api.StepStatus) -> int:
    """About what it takes in a message."""
    return (
        len(step.output or b"")
        + len(step.failure or b"")
        + len(step.details or b"")
        + len(step.attributes or b"")
        + len(step.tags or b"")
        + _OVERHEAD
    )


def fitting(entries: Sequence[_T], size: Callable[[_T], int], max_bytes: int) -> list[_T]:
    """As many of the first entries as fit into `max_bytes`, one at least."""
    total = 0
    for count, entry in enumerate(entries):
        total += size(entry)
        if count and total > max_bytes:
            return list(entries[:count])
    return list(entries)


def whole_items(steps: Sequence[api.StepStatus], max_bytes: int) -> list[api.StepStatus]:
    """As many steps as fit into `max_bytes`, but never a part of an item's; one item's at least."""
    page = fitting(steps, step_bytes, max_bytes)
    if len(page) < len(steps):
        cut = steps[len(page)].item
        page = [step for step in page if step.item != cut] or [step for step in steps if step.item == cut]
    return page


def findings(diagnostics: Diagnostics) -> bytes:
    """Diagnostics as JSON."""
    return msgspec.json.encode(
        [
            {
                "code": item.code, "level": item.level.name.lower(), "message": item.message, "path": item.path,
                "line": item.line, "column": item.column, "hint": item.hint,
            }
            for item in diagnostics.items
        ]
    )  # fmt: skip


def _step(item: int, row: StepRow, status: str, lease: Lease | None = None) -> api.StepStatus:
    said = None if lease is None else lease.progress
    return api.StepStatus(
        item, row.step, row.step_id, row.component, status, row.attempt, row.output, row.failure, row.started_ms, row.finished_ms,
        None if said is None else said.fraction, None if said is None else said.details,
        row.position, attributes=row.attributes, tags=row.tags,
    )  # fmt: skip
