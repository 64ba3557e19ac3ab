"""Questions to durable functions: a worker of the function's pool replays its history, and its handler answers.

A function that goes on is asked as it stands, from memory; one that has ended as it stood then, from the journal. A history that does not
fit into a message waits here until the worker has read it, page by page.

Invariant: nothing is journaled, no slot and no lease is taken; what the worker is handed is no more than what the journal holds. Must
not know what a name means: the body does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from msgspec import structs

from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.protocol import api, subjects
from stepmesh_broker.protocol.codec import decode_api_answer, encode
from stepmesh_broker.protocol.histories import Record, encode_records
from stepmesh_broker.protocol.ids import Pool
from stepmesh_broker.protocol.messages import Failure, Refused, Task
from stepmesh_broker.protocol.queries import PAGED, AskQuery, QueryTask
from stepmesh_orchestrator.core.decide.asking import NOT_THERE, blocked, function_of, not_one
from stepmesh_orchestrator.core.function_reuse import PastFunction
from stepmesh_orchestrator.core.rebuild import task_again
from stepmesh_orchestrator.core.reuse import Given, input_of
from stepmesh_orchestrator.core.rows import RunRow
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.runtime.function_pasts import past_functions
from stepmesh_orchestrator.runtime.owners import moving
from stepmesh_orchestrator.runtime.partition import PartitionService
from stepmesh_orchestrator.runtime.run_view import Live, RunView, unknown_run
from stepmesh_orchestrator.runtime.sources import Origin, Sources

WAIT_S = 5.0
"""How long a worker may take to answer, in seconds."""
PAGED_S = 30.0
"""The same of one that has to read the history first."""
WORKER_GONE, NO_ROOM = "SM-5133", "SM-5134"
"""What a gateway says whose worker went away with the question, and one to whose workers that is too large."""
PAUSE_S = 0.1
"""Pause before another one is looked for, in seconds."""


class _Question(NamedTuple):
    """For a worker of `pool`. `service`: of the partition that has the run."""

    pool: str
    task: Task
    records: Sequence[Record]
    service: PartitionService


class QueryRequests:
    """Their answers."""

    def __init__(self, view: RunView, flows: FlowRegistry) -> None:
        self._view = view
        self._sources = Sources(view, flows)
        self.answers: dict[type, Callable[[Any], Awaitable[api.ApiAnswer]]] = {AskQuery: self._ask}

    async def _ask(self, request: AskQuery) -> api.ApiAnswer:
        live = await self._view.live(request.run)
        made = None if live is None else self._of_live(live, request)
        if made is None or (isinstance(made, Refused) and made.code == NOT_THERE):
            made = await self._of_ended(request)
        return made if isinstance(made, Refused) else await self._put(made, request)

    # --- which function -----------------------------------------------------------------------------------------

    def _of_live(self, live: Live, request: AskQuery) -> _Question | Refused:
        found = function_of(live.run, request.item, request.step)
        if isinstance(found, Refused):
            return found
        item, step, function = found
        made = blocked(function) or task_again(live.shard.session, item, step, 1)
        if isinstance(made, Refused):
            return made
        if isinstance(made, Failure):
            return _no_pool(made)
        return _Question(*made, [*function.records], self._view.partitions[live.state.partition])

    async def _of_ended(self, request: AskQuery) -> _Question | Refused:
        row = await self._view.row(request.run)
        if row is None:
            return unknown_run(request.run)
        service = self._view.partitions.get(row.partition)
        if service is None:
            return moving(row.partition)
        items = range(row.total) if request.item is None else {request.item}
        known = await past_functions(self._view.ports.journal, row, items)
        origin = None if known is None else await self._sources.origin(request.run)
        if known is None or origin is None:
            return _forgotten(row)
        ids = {place: origin.flow.steps[place[1]].id for place, past in known.items() if past.function.records}
        found = [(item, ids[item, step]) for item, step in sorted(ids) if request.step in (None, ids[item, step])]
        refusal = not_one(request.run, found, request.item, request.step, "")
        if refusal is not None:
            return refusal
        past = next(known[place] for place in ids if (place[0], ids[place]) == found[0])
        return await self._asked_again(origin, past, service)

    async def _asked_again(self, origin: Origin, past: PastFunction, service: PartitionService) -> _Question | Refused:
        step, created = origin.flow.steps[past.step], origin.created
        outcomes = (await self._sources.past(origin, [past.item]))[past.item].outcomes
        value = past.function.input or input_of(step, Given.of(origin.flow, created.inputs[past.item], created.variables, outcomes))
        if value is None:
            return _forgotten(origin.run)
        session, run = service.shard.session, origin.run
        route = session.router.route(step.component, value, step.pool)
        if isinstance(route, Failure):
            return _no_pool(route)
        root = "" if run.root == run.run else run.root
        task = Task(
            run.run, past.item, past.step, 1, 1, step.id, route.component, value, root, path_params=route.path_params, flow=created.flow,
            at_ms=past.function.records[0].at_ms, records=len(past.function.records),
        )  # fmt: skip
        return _Question(route.pool, task, past.function.records, service)

    # --- putting it ---------------------------------------------------------------------------------------------

    async def _put(self, made: _Question, request: AskQuery) -> api.ApiAnswer:
        journal, limit = made.service.shard.ownership.journal_id, self._view.ports.broker.max_message_bytes
        whole = structs.replace(made.task, history=encode_records([*made.records]))
        data = encode(QueryTask(whole, journal, request.name, request.arguments))
        if len(data) <= limit:
            answer = await self._answer(Pool(made.pool), data, WAIT_S)
            if not (isinstance(answer, Refused) and answer.code == NO_ROOM):
                return answer
        with made.service.questions.open(made.records) as question:
            task = structs.replace(made.task, history=b"")
            data = encode(QueryTask(task, journal, request.name, request.arguments, PAGED, question, made.service.partition))
            if len(data) > limit:
                message = f"the question, {len(data)} bytes with the function's input, does not fit into a message of {limit} bytes"
                return Refused("SM-5286", message, "give fewer arguments")
            return await self._answer(Pool(made.pool), data, PAGED_S)

    async def _answer(self, pool: Pool, data: bytes, wait_s: float) -> api.ApiAnswer:
        """Of the first worker that is there: one may just begin."""
        broker, clock = self._view.ports.broker, self._view.ports.clock
        subject, until = subjects.queries(self._view.namespace, pool), clock.monotonic() + wait_s
        while (left := until - clock.monotonic()) > 0:
            try:
                answer = decode_api_answer(await broker.request(subject, data, left))
            except BrokerUnavailable:
                answer = None
            if answer is not None and not (isinstance(answer, Refused) and answer.code == WORKER_GONE):
                return answer
            await clock.sleep(PAUSE_S)
        return Refused("SM-5287", f"no worker of pool {pool} answered the query", "start one with the workflow: `stepmesh worker`")


def _no_pool(failure: Failure) -> Refused:
    return Refused("SM-5288", f"the function has no pool any more: {failure.message}", "see `routes` of the configuration")


def _forgotten(run: RunRow) -> Refused:
    message = f"the journal does not hold any more what the functions of run {run.run} did"
    return Refused("SM-1082", message, "limits.retentionHours says how long the journal reaches back")
