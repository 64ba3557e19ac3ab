"""What is seen of a run while it works: a live view on a terminal, plain lines elsewhere. Everything goes to stderr.

Only looks: it asks the deployment now and then, and never decides anything about the run.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from typing import Protocol

from stepmesh.client import Client
from stepmesh_broker.protocol.api import GetSteps, RunSummary, Steps, StepStatus
from stepmesh_broker.protocol.ids import RunId
from stepmesh_cli.reporting import say, warn

LIVE_S = 0.1
"""Between two looks on a terminal, in seconds."""
PLAIN_S = 2.0
"""Between two lines elsewhere, in seconds."""
UNSERVED_S = 3.0
"""A step that waits this long for a pool without a worker is told, in seconds: workers need a moment to start."""
NOBODY = "has 0 workers"
"""How `explain` says that a pool has no worker."""


class View(Protocol):
    """Where progress is shown."""

    interval_s: float

    def show(self, summary: RunSummary, steps: Sequence[StepStatus]) -> None:
        """The present state; `steps` of the only item, empty for a batch."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


class PlainView:
    """A line when something changed."""

    interval_s = PLAIN_S

    def __init__(self) -> None:
        self._last = ""

    def show(self, summary: RunSummary, steps: Sequence[StepStatus]) -> None:
        """See `View`."""
        ended = summary.completed + summary.failed + summary.cancelled
        line = f"{ended}/{summary.total} items" + (f", {summary.failed} failed" if summary.failed else "")
        if steps:
            line = ", ".join(f"{step.step_id} {step.status}" for step in steps)
        if line != self._last:
            say(f"  {line}")
        self._last = line

    def close(self) -> None:
        """See `View`."""


def view(quiet: bool) -> View | None:
    """The view that fits stderr; None for none."""
    if quiet:
        return None
    if not sys.stderr.isatty():
        return PlainView()
    from stepmesh_cli.live_view import LiveView  # late: rich is for terminals

    return LiveView()


async def watch(client: Client, run: str, on: View | None) -> None:
    """Show a run until cancelled; warn once of each step that waits for a pool without workers."""
    began, told = time.monotonic(), set[str]()
    interval = PLAIN_S if on is None else on.interval_s
    try:
        while True:
            await asyncio.sleep(interval)
            if on is not None:
                summary = (await client.handle(run).info()).summary
                single = summary.total == 1
                on.show(summary, (await client.requests.ask(GetSteps(RunId(run), 0), Steps)).steps if single else ())
            if time.monotonic() - began > UNSERVED_S:
                began = time.monotonic()
                for line in await client.explain(run):
                    if NOBODY in line and line not in told:
                        told.add(line)
                        warn(line)
    finally:
        if on is not None:
            on.close()
