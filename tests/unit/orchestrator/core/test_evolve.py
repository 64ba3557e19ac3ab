"""Appliers alone: what they need, and what a replay may bring."""

from __future__ import annotations

import dataclasses

import pytest
from tests.unit.orchestrator.core.engine import ROOT, Engine, Shelf, flow, js

from stepmesh_broker.protocol.ids import FlowId, Namespace, Partition, RunId
from stepmesh_broker.protocol.messages import Submit
from stepmesh_orchestrator.core.commands import StartRun
from stepmesh_orchestrator.core.decide import decide
from stepmesh_orchestrator.core.events import Parent, RunCreated
from stepmesh_orchestrator.core.evolve import evolve
from stepmesh_orchestrator.core.flow.nodes import Literal
from stepmesh_orchestrator.core.flow.plan import PlanSkipped, Scope
from stepmesh_orchestrator.core.state import State


def test_a_run_needs_its_flow() -> None:
    event = RunCreated(ROOT, ROOT, Namespace("default"), FlowId("none"), [b"1"], 10, 0)

    with pytest.raises(LookupError, match="flow none of run"):
        evolve(State(Partition(0)), event, 1, Shelf())


def test_a_sub_run_may_outlive_the_run_that_started_it() -> None:
    shelf = Shelf()
    compiled = shelf.put(flow([]))
    state = State(Partition(0))

    evolve(
        state, RunCreated(ROOT, ROOT, Namespace("default"), compiled.id, [], 1, 0, parent=Parent(RunId("gone"), 0, 0, "worker")), 1, shelf
    )

    assert state.runs[ROOT].parent is not None


def test_given_variables_lie_over_the_defaults() -> None:
    schemas = {"type": "object", "properties": {"variables": {"type": "object", "properties": {"a": {"default": 1}, "b": {"default": 2}}}}}
    engine = Engine()
    engine.submit(flow([], [{"$variable": "a"}, {"$variable": "b"}, {"$variable": "c"}], schemas=schemas), variables={"b": None, "c": 3})

    assert engine.result()["result"] == [1, None, 3]


class _Skips(Literal):
    def render(self, scope: Scope) -> bytes:
        raise PlanSkipped


def test_an_output_that_a_skip_takes_away_is_null() -> None:
    engine = Engine()
    compiled = dataclasses.replace(engine.shelf.put(flow([])), output=_Skips(b""))

    decide(engine.session, StartRun(Submit(ROOT, Namespace("default"), compiled.id, [js(1)]), compiled))

    assert engine.result() == {"outcome": "success", "result": None}
