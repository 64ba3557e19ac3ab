"""`stepmesh trace`: the same tree from the journal as from the span file, and what it says when there is nothing."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from tests.integration.telemetry.conftest import World, flow, of_kind

from stepmesh import Context
from stepmesh_broker.protocol import attributes as names
from stepmesh_broker.telemetry.span_file import SpanRecord
from stepmesh_cli import trace as command
from stepmesh_cli.connection import Target
from stepmesh_cli.errors import CommandError
from stepmesh_cli.main import main
from stepmesh_cli.trace import spans_of
from stepmesh_cli.waterfall import waterfall

INNER = flow({"id": "in", "component": "/cpu/echo", "input": {"$input": "$"}}, output={"$step": "in"})
OUTER = flow(
    {"id": "flaky", "component": "/cpu/flaky", "input": 1, "onError": {"action": "retry", "maxRetries": 2}},
    {"id": "nap", "component": "/builtin/sleep", "input": {"duration_ms": 5, "passthrough": {"$step": "flaky"}}},
    {"id": "each", "component": "/builtin/map", "input": {"items": [1, {"$step": "nap"}], "workflow": {"$literal": INNER}}},
    {"id": "own", "component": "/cpu/nest", "input": {"after": {"$step": "each"}}},
    {"id": "broken", "component": "/cpu/broken", "input": 1, "onError": {"action": "useDefault", "defaultValue": 0}},
    output=[{"$step": "own"}, {"$step": "broken"}],
)


async def ran(world: World) -> str:
    """A run with a retry, a sleep, sub-runs of both kinds and a default. Its id."""
    calls = 0

    @world.worker.component
    async def flaky(n: int) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("not yet")
        return n

    @world.worker.component
    async def echo(n: int) -> int:
        return n

    @world.worker.component
    async def broken(n: int) -> int:
        raise RuntimeError("never")

    @world.worker.component
    async def nest(value: dict[str, object], context: Context) -> object:
        return await context.evaluate_flow(INNER, 3)

    await world.start()
    handle = await world.client.submit(OUTER, [None])
    info = await handle.wait(30)
    assert info.summary.status == "completed"
    return handle.id


def shape(spans: list[SpanRecord]) -> dict[str, tuple[object, ...]]:
    """Span id → parent, outcome and attempt, of the kinds that the journal knows. A parent that is an execution counts as its attempt."""
    executions = {span.span_id: span.parent_id for span in of_kind(spans, "execute")}
    found: dict[str, tuple[object, ...]] = {}
    for kind in ("run", "item", "attempt"):
        told = (names.OUTCOME, names.ATTEMPT) if kind == "attempt" else ()
        for span in of_kind(spans, kind):
            parent = executions.get(span.parent_id, span.parent_id)
            found[span.span_id] = (parent, *(span.attributes.get(name) for name in told))
    return found


async def test_the_journal_tells_the_same_tree_as_the_span_file(world: World) -> None:
    world.settings["client"] = None  # its submit span is nothing that the journal knows
    run = await ran(world)
    from_file = world.spans()
    assert shape(await spans_of(world.client, run)) == shape(from_file)
    assert len(shape(from_file)) == 3 + 4 + 9  # runs, items, attempts


async def test_both_draw_the_item(world: World) -> None:
    run = await ran(world)
    labels: list[list[str]] = []
    for spans in (world.spans(), await spans_of(world.client, run)):
        lines = waterfall(spans, run, 0).splitlines()
        labels.append([line[:34].strip() for line in lines[1:-1]])
    assert labels[0][0] == "submit"
    assert sorted(set(labels[0]) - {"submit", "run traced"}) == sorted(set(labels[1]) - {"run"})


async def test_the_command_prints_from_the_file(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    run = await ran(world)
    world.spans()
    assert command.trace(run, file=world.path, width=40) == 0
    printed = capsys.readouterr().out
    assert f"run {run} · item 0 · trace " in printed
    assert "step flaky #2" in printed


async def test_json_is_the_item_and_what_is_below_it(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    run = await ran(world)
    world.spans()
    assert command.trace(run, file=world.path, json=True) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kinds = Counter(span["attributes"][names.KIND] for span in shown)
    assert (kinds["item"], kinds["attempt"]) == (3 + 1, 9)  # of the inner runs too
    assert kinds["run"] == 2  # the inner ones; the run of the item itself is above it
    assert len({span["span_id"] for span in shown}) == len(shown)


def test_the_program_has_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "--help"]) == 0
    assert "waterfall" in capsys.readouterr().out


def test_without_file_and_deployment_it_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STEPMESH_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match="no broker") as caught:
        command.trace("r", file=tmp_path / "absent", target=Target())
    assert getattr(caught.value, "code", "").startswith("SM-")


def test_an_item_that_is_nowhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(target: Target, run: str) -> list[SpanRecord]:
        return []

    monkeypatch.setattr(command, "_asked", nothing)
    with pytest.raises(CommandError) as caught:
        command.trace("r", item=3)
    assert "item 3" in str(caught.value)
