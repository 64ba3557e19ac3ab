"""The live view of a run on a terminal: its steps, or a bar for a batch."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stepmesh_broker.protocol.api import RunSummary, StepStatus
from stepmesh_cli.progress import LIVE_S

MARKS = {
    "success": ("✔", "green"),
    "failed": ("✘", "red"),
    "skipped": ("–", "dim"),
    "cancelled": ("■", "yellow"),
    "running": ("●", "cyan"),
    "child": ("●", "cyan"),
    "queued": ("○", "cyan"),
    "retrying": ("↻", "yellow"),
    "sleeping": ("◔", "blue"),
    "awaiting": ("◔", "blue"),
    "parked": ("◔", "blue"),
}
"""State of a step → mark and colour; every other state is dim."""


class LiveView:
    """`View` that redraws in place and leaves nothing behind."""

    interval_s = LIVE_S

    def __init__(self, console: Console | None = None) -> None:
        self._live = Live(console=console or Console(stderr=True), transient=True, auto_refresh=False)
        self._live.start()

    def show(self, summary: RunSummary, steps: Sequence[StepStatus]) -> None:
        """See `View`."""
        self._live.update(Group(_title(summary), _steps(steps) if steps else _bar(summary)), refresh=True)

    def close(self) -> None:
        """See `View`."""
        self._live.stop()


def _title(summary: RunSummary) -> RenderableType:
    return Text.assemble((summary.flow_name or "flow", "bold"), "  ", (summary.run, "dim"))


def _steps(steps: Sequence[StepStatus]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for step in steps:
        mark, colour = MARKS.get(step.status, ("·", "dim"))
        attempt = f"attempt {step.attempt}" if step.attempt > 1 else ""
        table.add_row(Text(mark, colour), step.step_id, Text(step.component, "dim"), Text(step.status, colour), attempt)
    return table


def _bar(summary: RunSummary) -> RenderableType:
    ended = summary.completed + summary.failed + summary.cancelled
    row = Table.grid(padding=(0, 2))
    failed = Text(f"{summary.failed} failed", "red") if summary.failed else Text("")
    row.add_row(ProgressBar(total=max(1, summary.total), completed=ended, width=40), f"{ended}/{summary.total} items", failed)
    return row
