"""Retries and forks: a new run that begins with what is still good of another run's results.

Invariant: the first run stays as it is. What it began with is read from the journal, how its steps ended from the read model or, of a live
item, from memory; what of that is taken over is decided once (core/reuse.py) and journaled with the new run, which lives on the same
partition.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.continuation import Continued, ContinueRun
from stepmesh_broker.protocol.messages import Refused, Submit
from stepmesh_orchestrator.core.events import RunSeeded
from stepmesh_orchestrator.core.flow.compiled import CompiledFlow
from stepmesh_orchestrator.core.flow.diagnostics import FlowInvalid
from stepmesh_orchestrator.core.flow.findings import nearest
from stepmesh_orchestrator.core.function_events import FunctionsSeeded
from stepmesh_orchestrator.core.function_reuse import is_answered
from stepmesh_orchestrator.core.reuse import Given
from stepmesh_orchestrator.core.rows import RunRow
from stepmesh_orchestrator.runtime.flow_requests import unknown_flow
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.owners import moving
from stepmesh_orchestrator.runtime.run_view import RunView, unknown_run
from stepmesh_orchestrator.runtime.sources import From, Origin, Sources, Takeover, TooMuch

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
    start: From

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


class _Seeded(NamedTuple):
    """What a new run begins with; `reused`: how many results those are."""

    run: RunSeeded
    functions: FunctionsSeeded | None = None
    reused: int = 0


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
        answer = await service.begin(plan.submit(items), lambda start: replace(start, seeded=seeded.run, functions=seeded.functions))
        if isinstance(answer, Refused):
            return answer
        if answer.run != request.into:  # by its key; else it is this request, which was sent twice
            return Continued(answer.run, existing=True)
        return Continued(answer.run, items=items[:PAGE], reused=seeded.reused)

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
        origin = Origin(source, created, before)
        start = From() if request.from_step is None else await self._from(request.from_step, origin, flow)
        return start if isinstance(start, Refused) else _Plan(request, origin, flow, start)

    async def _from(self, name: str, origin: Origin, flow: CompiledFlow) -> From | Refused:
        """A step, or `STEP:COMMAND` within a durable function; the command alone where one step has it."""
        if (step := flow.step_index(name)) is not None:
            return From(step)
        step_id, _, command = name.rpartition(":")
        if "/" not in command:
            return _unknown_step(name, flow)
        functions = await self._sources.functions(origin.run, range(origin.run.total))
        asked = [(origin.flow.steps[one.step].id, one.function.records) for one in functions.values()]
        having = {id for id, records in asked if any(is_answered(record, command) for record in records)}
        named = [id for id in having if step_id in ("", id) and flow.step_index(id) is not None]
        return From(flow.step_index(named[0]), command) if len(named) == 1 else _unknown_command(name, sorted(having))

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

    async def _seeded(self, plan: _Plan, items: Sequence[int]) -> _Seeded | Refused:
        """What the new run begins with."""
        submit, request = plan.submit(items), plan.request
        try:
            now = [Given.of(plan.flow, value, submit.variables) for value in submit.inputs]
        except ValueError:  # the submission is refused for its variables
            return _Seeded(RunSeeded(request.into, request.run, list(items), [[] for _ in items]))
        takeover = Takeover(self._sources, MAX_BYTES)
        try:
            seeds = await takeover.seeds(plan.origin, request.into, items, now, plan.start)
        except TooMuch as problem:
            return _too_large(problem.items, plan)
        reused = sum(map(len, seeds)) + sum(len(some) for one in takeover.below for some in one.seeds) + takeover.reused
        functions = FunctionsSeeded(request.into, takeover.functions) if takeover.functions else None
        return _Seeded(RunSeeded(request.into, request.run, list(items), seeds, takeover.below), functions, reused)


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


def _unknown_command(name: str, having: list[str]) -> Refused:
    """SM-1080."""
    command = name.rpartition(":")[2]
    if having:
        hint = "name the step as well: " + ", ".join(f"{step}:{command}" for step in having[:5])
    else:
        hint = "give the id of a step, call, event or sleep as `stepmesh events RUN` shows it, such as r/charge, or STEP:r/charge"
    return Refused("SM-1080", f"no durable function of the run has the command `{name[:100]}`, or more than one has it", hint)


def _too_large(items: int, plan: _Plan) -> Refused:
    what = f"inputs and results of run {plan.origin.run.run} above {MAX_BYTES // 2**20} MiB"
    return Refused("SM-5228", f"{what} cannot be taken over at once", f"name fewer items: about {max(1, items)} fit")
