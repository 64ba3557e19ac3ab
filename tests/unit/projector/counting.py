"""The obvious model of windows: every event of a journal looked at once, with lists instead of sketches."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import msgspec

from stepmesh_orchestrator.core import events
from stepmesh_orchestrator.core.events import decode_turn
from stepmesh_orchestrator.ports import Frame, Store
from stepmesh_projector.usage import Usage
from stepmesh_projector.windows import Counts, Label, Place, Window

_TASKS = {
    "StepSucceeded": "succeeded",
    "StepFailed": "failed",
    "StepDefaulted": "failed",
    "StepFallingBack": "failed",
    "StepRetrying": "retried",
}
Numbers = dict[Place, tuple[dict[str, int], int, int, Usage]]
"""Counts that are not zero, how many latencies and waits were seen, and what was used."""


class Model:
    """`numbers`: what windows should say. `latencies`: of tasks by pool, all windows together."""

    def __init__(self, size_ms: int) -> None:
        self._size_ms = size_ms
        self._counts: defaultdict[Place, Counter[str]] = defaultdict(Counter)
        self._runs: dict[str, tuple[str, str, int]] = {}  # namespace, flow, created
        self._steps: dict[str, list[dict[str, Any]]] = {}
        self._sent: dict[tuple[str, int, int], int] = {}
        self.latencies: defaultdict[str, list[int]] = defaultdict(list)

    @classmethod
    async def of(cls, frames: Iterable[Frame], flows: Store, size_ms: int) -> Model:
        model = cls(size_ms)
        for frame in frames:
            turn = decode_turn(frame.payload)
            for event in turn.events:
                if isinstance(event, events.RunCreated):
                    await model._created(event, flows, turn.at_ms)
                else:
                    model._happened(event, turn.at_ms)
        return model

    def numbers(self) -> Numbers:
        found = {}
        for place, counter in self._counts.items():
            counts = {name: counter[name] for name in Counts.__struct_fields__ if counter[name]}
            used = [counter["prompt_tokens"], counter["completion_tokens"], counter["total_tokens"]]
            costs = {name[5:]: cost for name, cost in counter.items() if name.startswith("cost ")}
            found[place] = (counts, counter["latencies"], counter["waits"], Usage(*used, costs))
        return found

    async def _created(self, event: events.RunCreated, flows: Store, at_ms: int) -> None:
        record = await flows.get_flow(event.flow)
        assert record is not None
        flow = msgspec.json.decode(record.document)
        self._runs[event.run] = (event.namespace, flow.get("name") or event.flow, at_ms)
        self._steps[event.run] = flow["steps"]
        self._count(event.run, at_ms, "runs_started")

    def _happened(self, event: Any, at_ms: int) -> None:
        name = type(event).__name__
        if isinstance(event, events.RunEnded):
            self._count(event.run, at_ms, f"runs_{event.status}", "latencies")
        elif isinstance(event, events.StepDispatched):
            self._sent[event.run, event.item, event.step] = at_ms
            self._count_task(event, at_ms, "dispatched", "waits")
        elif name in _TASKS and (event.run, event.item, event.step) in self._sent:
            sent_ms = self._sent.pop((event.run, event.item, event.step))
            self._count_task(event, at_ms, _TASKS[name])
            pool = self._pool(event)
            self._counts[self._place(event.run, "pool", pool, at_ms)]["latencies"] += 1
            self.latencies[pool].append(at_ms - sent_ms)
            if isinstance(event, events.StepSucceeded):
                self._used(event, msgspec.json.decode(event.output), at_ms)

    def _used(self, event: Any, output: Any, at_ms: int) -> None:
        if isinstance(output, dict) and "usage" in output:
            used = {**output["usage"], f"cost {output['currency']}": round(output["cost"] * 1e9)}
            for label, name in (("pool", self._pool(event)), ("flow", self._runs[event.run][1]), ("namespace", "")):
                self._counts[self._place(event.run, label, name, at_ms)].update(used)

    def _pool(self, event: Any) -> str:
        component: str = self._steps[event.run][event.step]["component"]
        return component.split("/")[1]

    def _count_task(self, event: Any, at_ms: int, *names: str) -> None:
        self._counts[self._place(event.run, "pool", self._pool(event), at_ms)].update(names)
        self._count(event.run, at_ms, *names)

    def _count(self, run: str, at_ms: int, *names: str) -> None:
        _, flow, _ = self._runs[run]
        self._counts[self._place(run, "flow", flow, at_ms)].update(names)
        self._counts[self._place(run, "namespace", "", at_ms)].update(names)

    def _place(self, run: str, kind: str, name: str, at_ms: int) -> Place:
        namespace = self._runs[run][0]
        return Place(Label(namespace, kind, name), at_ms // self._size_ms * self._size_ms)  # type: ignore[arg-type]  # a namespace


def numbers_of(windows: dict[Place, Window]) -> Numbers:
    """The same of real windows."""
    found = {}
    for place, window in windows.items():
        counts = {name: value for name, value in msgspec.structs.asdict(window.counts).items() if value}
        found[place] = (counts, round(window.latency.count), round(window.wait.count), window.usage)
    return found
