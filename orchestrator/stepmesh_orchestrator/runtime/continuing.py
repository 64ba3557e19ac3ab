"""Retries and forks: a new run that begins with what is still good of another run's results.

Invariant: the first run stays as it is. What it began with is read from the journal, how its steps ended from the read model or, of a live
item, from memory; what of that is taken over is decided once (core/reuse.py) and journaled with the new run, which lives on the same
partition.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.continuation import Continued, ContinueRun
from stepmesh_broker.protocol.messages import Refused, Submit
from stepmesh_orchestrator.core.events import RunSeeded
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.flow.diagnostics import FlowInvalid
from stepmesh_orchestrator.core.flow.findings import nearest
from stepmesh_orchestrator.core.reuse import Given
from stepmesh_orchestrator.core.rows import RunRow
from stepmesh_orchestrator.runtime.flow_requests import unknown_flow
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.owners import moving
from stepmesh_orchestrator.runtime.run_view import RunView, unknown_run
from stepmesh_orchestrator.runtime.sources import Origin, Sources, Takeover, TooMuch

MAX_BYTES = 16 * 1024 * 1024
"""Inputs and results that one new run takes over at most."""
PAGE = 1_000
"""Items that the answer names at most."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is wanted, with all that it takes: the first run's beginning, and both flows."""

    request: ContinueRun
    origin: Origin
    flow: CompiledFlow
    from_step: int | None

    @property
    def variables(self) -> bytes | None:
        """Of the new run."""
        return self.origin.created.variables if self.request.variables is None else self.request.variables

    def submit(self, items: Sequence[int]) -> Submit:
        """The new run, without what it takes over."""
        request, created = self.request, self.origin.created
        inputs = [created.inputs[index] for index in items] if request.inputs is None else request.inputs
        overrides = created.overrides if request.overrides is None else request.overrides
        link = {"retry_of" if request.retry else "forked_from": request.run}
        tags = {**(created.tags or {}), **(request.tags or {}), **link}
        key = None if request.run_key is None else f"{request.run}/{request.run_key}"
        flow = request.flow or created.flow
        return Submit(
            request.into, created.namespace, flow, inputs, self.variables, overrides, created.limit, key, tags=tags,
            priority=created.priority,
        )  # fmt: skip


class Continuations:
    """Their answers."""

    def __init__(self, view: RunView, flows: FlowRegistry) -> None:
        self._view = view
        self._flows = flows
        self._sources = Sources(view, flows)
        self.answers: dict[type, Callable[[Any], Awaitable[api.ApiAnswer]]] = {ContinueRun: self._continue}

    async def _continue(self, request: ContinueRun) -> api.ApiAnswer:
        source = await self._view.row(request.run)
        if source is None:
            return unknown_run(request.run)
        service = self._view.partitions.get(source.partition)
        if service is None:  # it was handed over meanwhile
            return moving(source.partition)
        plan = _refusal(request, source) or await self._plan(request, source)
        if isinstance(plan, Refused):
            return plan
        items = await self._items(plan)
        if isinstance(items, Refused):
            return items
        seeded = await self._seeded(plan, items)
        if isinstance(seeded, Refused):
            return seeded
        answer = await service.begin(plan.submit(items), seeded)
        if isinstance(answer, Refused):
            return answer
        if answer.run != request.into:  # by its key; else it is this request, which was sent twice
            return Continued(answer.run, existing=True)
        reused = sum(map(len, seeded.seeds)) + sum(len(seeds) for one in seeded.below for seeds in one.seeds)
        return Continued(answer.run, items=items[:PAGE], reused=reused)

    # --- what is wanted -----------------------------------------------------------------------------------------

    async def _plan(self, request: ContinueRun, source: RunRow) -> _Plan | Refused:
        created = await self._sources.created(source)
        if created is None:
            return _forgotten(source)
        wanted = request.flow or created.flow
        before = await self._flows.load(created.flow, created.overrides)
        try:
            flow = await self._flows.load(wanted, created.overrides if request.overrides is None else request.overrides)
        except FlowInvalid as problem:
            return Refused(problem.code, problem.message, problem.hint)
        if before is None or flow is None:
            return unknown_flow(created.flow if before is None else wanted)
        from_step = None if request.from_step is None else flow.step_index(request.from_step)
        if request.from_step is not None and from_step is None:
            return _unknown_step(request.from_step, flow)
        return _Plan(request, Origin(source, created, before), flow, from_step)

    async def _items(self, plan: _Plan) -> list[int] | Refused:
        request, total = plan.request, plan.origin.run.total
        chosen = range(total) if request.items is None else request.items
        if any(not 0 <= index < total for index in chosen) or len(set(chosen)) < len(chosen):
            return Refused("SM-5227", f"run {request.run} has {total} items, from 0 on", "name each item once, by its index")
        items = list(chosen)
        if request.retry:
            succeeded = {index async for index in self._sources.succeeded(plan.origin.run)}
            items = [index for index in chosen if index not in succeeded]
            if not items:
                return _nothing_failed(request)
        if request.inputs is not None and len(request.inputs) != len(items):
            return Refused("SM-5227", f"{len(request.inputs)} inputs for {len(items)} items", "give one input per item, or none")
        return items

    # --- what is taken over -------------------------------------------------------------------------------------

    async def _seeded(self, plan: _Plan, items: Sequence[int]) -> RunSeeded | Refused:
        """What the new run begins with."""
        submit, request = plan.submit(items), plan.request
        try:
            now = [Given.of(plan.flow, value, submit.variables) for value in submit.inputs]
        except ValueError:  # the submission is refused for its variables
            return RunSeeded(request.into, request.run, list(items), [[] for _ in items])
        takeover = Takeover(self._sources, MAX_BYTES)
        try:
            seeds = await takeover.seeds(plan.origin, request.into, items, now, plan.from_step)
        except TooMuch as problem:
            return _too_large(problem.items, plan)
        return RunSeeded(request.into, request.run, list(items), seeds, takeover.below)


def _refusal(request: ContinueRun, source: RunRow) -> Refused | None:
    if source.root != source.run:
        return Refused("SM-5222", f"run {source.run} is a sub-run and goes on with its root run", f"name its root run {source.root}")
    if not request.retry:
        return None
    if source.finished_ms is None:
        return Refused(
            "SM-5223", f"run {source.run} has not ended", "wait for its end, cancel it, or fork it: `stepmesh fork RUN --from STEP`"
        )
    return _nothing_failed(request) if source.status == "completed" else None


def _nothing_failed(request: ContinueRun) -> Refused:
    which = "" if request.items is None else " of those items"
    return Refused("SM-5224", f"nothing{which} failed in run {request.run}", "to run steps again: `stepmesh fork RUN --from STEP`")


def _forgotten(source: RunRow) -> Refused:
    message = f"the journal does not hold any more how run {source.run} began"
    return Refused("SM-5225", message, "start a new run: `stepmesh submit`; limits.retentionHours says how long the journal reaches back")


def _unknown_step(name: str, flow: CompiledFlow) -> Refused:
    near = nearest(name, {step.id: step.index for step in flow.steps})
    hint = f"did you mean `{near[0]}`?" if near else "give the id of a step of the flow"
    return Refused("SM-5226", f"the flow has no step `{name[:60]}`", hint)


def _too_large(items: int, plan: _Plan) -> Refused:
    what = f"inputs and results of run {plan.origin.run.run} above {MAX_BYTES // 2**20} MiB"
    return Refused("SM-5228", f"{what} cannot be taken over at once", f"name fewer items: about {max(1, items)} fit")
