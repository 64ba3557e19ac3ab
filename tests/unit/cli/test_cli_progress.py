"""What is seen of a run while it works."""

from __future__ import annotations

import asyncio
import io
import sys

import pytest
from rich.console import Console

from stepmesh_broker.protocol.api import RunSummary, StepStatus
from stepmesh_broker.protocol.ids import FlowId, Namespace, Partition, RunId
from stepmesh_cli import progress
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_cli.live_view import MARKS, LiveView
from stepmesh_cli.progress import PlainView, View, view, watch
from stepmesh_cli.run import ending

RUN = RunId("01928f6e-0000-7000-8000-000000000001")


def summary(total: int = 1, completed: int = 0, failed: int = 0, status: str = "running") -> RunSummary:
    return RunSummary(
        RUN, Namespace("default"), Partition(0), FlowId("f"), "my-flow", status, total, completed, failed, 0, 1, None, RUN, None, None
    )


def step(name: str, status: str, attempt: int = 1) -> StepStatus:
    return StepStatus(0, 0, name, "/cpu/x", status, attempt)


def test_plain_lines_only_when_something_changed(capsys: pytest.CaptureFixture[str]) -> None:
    plain = PlainView()
    plain.show(summary(10, 2, 1), ())
    plain.show(summary(10, 2, 1), ())
    plain.show(summary(10, 4, 1), ())
    plain.show(summary(), [step("a", "success"), step("b", "queued")])
    plain.close()
    shown = capsys.readouterr()
    assert shown.err.splitlines() == ["  3/10 items, 1 failed", "  5/10 items, 1 failed", "  a success, b queued"]
    assert shown.out == ""


def test_the_live_view_draws_steps_and_bars() -> None:
    text = io.StringIO()
    live = LiveView(Console(file=text, force_terminal=True, width=100))
    live.show(summary(), [step("first", status) for status in MARKS] + [step("again", "retrying", 3), step("odd", "unheard of")])
    live.show(summary(8, 3, 1), ())
    live.close()
    drawn = text.getvalue()
    assert "my-flow" in drawn
    assert all(mark in drawn for mark, _ in MARKS.values())
    assert "attempt 3" in drawn
    assert "4/8 items" in drawn
    assert "1 failed" in drawn


def test_the_view_fits_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    assert view(quiet=True) is None
    assert isinstance(view(quiet=False), PlainView)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    shown = view(quiet=False)
    assert isinstance(shown, LiveView)
    shown.close()


def test_the_last_line_counts_items_of_a_batch() -> None:
    assert ending(summary(status="completed"), 0.0123) == f"run {RUN} completed in 12 ms"
    assert ending(summary(3, 2, 1, "failed"), 1.5) == f"run {RUN} failed in 1.50 s: 2 of 3 items completed, 1 failed"


class Recorder(View):
    interval_s = 0.01

    def __init__(self) -> None:
        self.seen: asyncio.Queue[tuple[RunSummary, list[str]]] = asyncio.Queue()
        self.closed = False

    def show(self, summary: RunSummary, steps: object) -> None:
        self.seen.put_nowait((summary, [one.status for one in steps]))  # type: ignore[attr-defined]

    def close(self) -> None:
        self.closed = True


async def test_a_pool_without_worker_is_told_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "UNSERVED_S", 0.0)
    flow = {"steps": [{"id": "a", "component": "/gpu/embed", "input": 1}], "output": {"$step": "a"}}
    recorder = Recorder()
    async with Deployment(DeploymentSettings()) as deployment:
        client = await deployment.client()
        handle = await client.submit(flow, [None])
        watcher = asyncio.create_task(watch(client, handle.id, recorder))
        for _ in range(4):
            seen = await asyncio.wait_for(recorder.seen.get(), 30)
        watcher.cancel()
        await asyncio.wait((watcher,))
    assert (seen[0].status, seen[1]) == ("running", ["running"])
    assert recorder.closed
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(warnings) == 1
    assert "pool gpu has 0 workers" in warnings[0]
