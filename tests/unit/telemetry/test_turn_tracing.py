"""Turns in which more than one thing happens to a run: a tree that comes back from dormancy and ends at once is traced whole."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.orchestrator.core.engine import NOW, ROOT, Engine, flow, ref, step

from stepmesh_broker.protocol import attributes as names
from stepmesh_broker.protocol.ids import Namespace, Partition
from stepmesh_broker.telemetry.sink import Period
from stepmesh_orchestrator.core.commands import CancelRun, RestTree, WakeTree
from stepmesh_orchestrator.core.dormant import frame_of
from stepmesh_orchestrator.core.events import Event, RunEnded, TreeDormant, TreeWoken
from stepmesh_orchestrator.telemetry.departures import Departures
from stepmesh_orchestrator.telemetry.digest import digest
from stepmesh_orchestrator.telemetry.observer import TurnRecord
from stepmesh_orchestrator.telemetry.tracing import TurnTracer

HOUR_MS = 3_600_000
NAP = flow([step("s", "/builtin/sleep", {"duration_ms": HOUR_MS, "passthrough": "slept"})], ref("s"))


class Spans:
    """A sink that keeps: kind of span → its times and what it says."""

    def __init__(self) -> None:
        self.found: dict[Any, tuple[Period, dict[str, Any]]] = {}

    def emit(self, name: str, trace: int, span: int, parent: int | None, period: Period, values: dict[str, Any], **more: Any) -> None:
        assert values[names.KIND] not in self.found
        self.found[values[names.KIND]] = period, values


class Traced(Engine):
    """Its tracer is shown what `tell` is given, as the events of one turn."""

    def __init__(self) -> None:
        super().__init__(dormant_ms=1_000)
        self.spans = Spans()
        self.tracer = TurnTracer(self.spans, 1.0, Namespace("default"), Partition(0), self.shelf)  # type: ignore[arg-type]  # all it calls

    def tell(self, *turn: list[Event]) -> None:
        record = TurnRecord(self.session.now, [event for events in turn for event in events], {}, [], 0, 0.0)
        self.tracer.turn(record, digest(record, Departures()))


@pytest.mark.parametrize("how", ["its time is over", "it is cancelled"])
def test_a_tree_that_comes_back_and_ends_in_one_turn_has_its_spans(how: str) -> None:
    engine = Traced()
    engine.tell(engine.submit(NAP))
    engine.tell(engine.send(RestTree(ROOT, engine.state.sequence)))
    left = engine.new[0]
    assert isinstance(left, TreeDormant)
    woken = engine.send(WakeTree(ROOT, frame_of(engine.state.dormant.places[ROOT]), left.image, engine.shelf))
    ended = engine.send(CancelRun(ROOT, "enough")) if how == "it is cancelled" else engine.fire()
    assert [type(event) for event in (woken[0], ended[-1])] == [TreeWoken, RunEnded]
    engine.tell(woken, ended)

    assert set(engine.spans.found) == {"run", "item", "attempt"}
    period, values = engine.spans.found["attempt"]
    assert period == Period(NOW * 1_000_000, engine.session.now * 1_000_000)
    assert values[names.WAIT] == "sleep"
    assert values[names.OUTCOME] == ("cancelled" if how == "it is cancelled" else "success")


def test_a_flow_that_is_loaded_no_more_costs_the_spans_of_its_runs_alone() -> None:
    engine = Traced()
    engine.tell(engine.submit(NAP))
    (left,) = engine.send(RestTree(ROOT, engine.state.sequence))
    engine.tell([left])
    engine.shelf.compiled.clear()
    assert isinstance(left, TreeDormant)
    engine.tell([TreeWoken(ROOT, left.image)])
    assert not engine.spans.found
