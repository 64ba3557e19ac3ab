"""A durable function that begins with another run's history, which the code that is there cannot follow: it begins at its beginning, and
nothing of its own run is lost."""

from __future__ import annotations

from typing import Any

from tests.unit.orchestrator.core.engine import NOW, ROOT, flow, js, kinds, ref, step
from tests.unit.orchestrator.core.test_functions import BEGAN, Body, issued

from stepmesh_broker.protocol.histories import Kind, Settled, TakenOver, UpdateAsked
from stepmesh_broker.protocol.ids import Namespace
from stepmesh_broker.protocol.messages import AskUpdate, Submit
from stepmesh_orchestrator.core.commands import ResumeRun, StartRun, UpdateFunction
from stepmesh_orchestrator.core.function_events import FunctionsSeeded
from stepmesh_orchestrator.core.seeds import FunctionSeed


class TakingOver(Body):
    """Its run takes over a step that has its result, and an update that was answered."""

    def __init__(self, **more: Any) -> None:
        super().__init__()
        self.cancel()
        compiled = self.shelf.put(flow([step("f", "/py/saga", **more)], ref("f")))
        past = [BEGAN, UpdateAsked("old", NOW, "change", b"1"), issued("c/old", Kind.REPLY, name="old"), issued("r/a")]
        seed = FunctionSeed(0, 0, b"null", [*past, Settled("r/a", NOW, b"7"), issued("r/b")])
        self.run = ROOT.replace("1", "2")  # type: ignore[assignment]
        submit = Submit(self.run, Namespace("default"), compiled.id, [js(None)])
        self.send(StartRun(submit, compiled, functions=FunctionsSeeded(self.run, [seed])))
        self.base = 7


def test_an_update_of_the_new_run_is_for_the_body_that_begins_at_its_beginning() -> None:
    body = TakingOver()
    body.send(UpdateFunction(AskUpdate(body.run, "new", "change", b"2")))
    function = body.item().function(0)
    assert function is not None
    body.turn(idle=True, blocked="SM-1001 …", base=len(function.records))
    assert kinds(body.new) == ["FunctionUnwound", "HistoryGrew", "StepDispatched"]
    function = body.item().function(0)
    assert function is not None
    assert [type(record) for record in function.records] == [TakenOver, UpdateAsked]
    assert [record.id for record in function.records if isinstance(record, UpdateAsked)] == ["new"]
    assert list(function.kept) == ["r/a"]


def test_one_that_begins_at_its_beginning_belongs_to_the_version_that_was_chosen() -> None:
    body = TakingOver()
    body.send(ResumeRun(body.run, "2", frozenset((("py", "/saga", "2+def"),))))
    function = body.item().function(0)
    assert function is not None
    body.turn(idle=True, blocked="SM-1001 …", base=len(function.records), version="2+def")
    assert kinds(body.new) == ["FunctionUnwound", "StepDispatched"]
    task = body.again()
    assert (task.records, task.history) == (1, b""), "so its worker asks, and is told whose it is"
    body.restart()
    function = body.item().function(0)
    assert function is not None
    assert (function.pinned(), list(function.kept)) == ("2+def", ["r/a"])


def test_the_permit_of_its_first_attempt_is_given_back() -> None:
    body = TakingOver(concurrencyKey="shop", concurrencyLimit=1)
    body.succeed("f", 1)
    assert body.state.finished[body.run][1] == "completed"
    assert not body.state.permits.keys
    assert not body.session.granted


def test_the_permit_of_its_first_attempt_is_given_back_after_a_crash() -> None:
    body = TakingOver(concurrencyKey="shop", concurrencyLimit=1)
    body.restart()
    body.succeed("f", 1)
    assert not body.state.permits.keys
