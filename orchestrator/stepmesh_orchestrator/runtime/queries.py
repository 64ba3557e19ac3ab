"""Questions to durable functions: a worker of the function's pool replays its history, and its handler answers.

Invariant: nothing is journaled, no slot and no lease is taken; what the worker is handed is no more than what the journal holds. Must
not know what a name means: the body does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import structs

from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.protocol import api, subjects
from stepmesh_broker.protocol.codec import decode_api_answer, encode
from stepmesh_broker.protocol.histories import encode_records
from stepmesh_broker.protocol.ids import Pool
from stepmesh_broker.protocol.messages import Failure, Refused
from stepmesh_broker.protocol.queries import AskQuery, QueryTask
from stepmesh_orchestrator.core.decide.asking import blocked, function_of, over
from stepmesh_orchestrator.core.rebuild import task_again
from stepmesh_orchestrator.runtime.run_view import Live, RunView, unknown_run

WAIT_S = 5.0
"""How long a worker may take to answer, in seconds."""
WORKER_GONE = "SM-5133"
"""What a gateway says whose worker went away with the question."""
PAUSE_S = 0.1
"""Pause before another one is looked for, in seconds."""


class QueryRequests:
    """Their answers."""

    def __init__(self, view: RunView) -> None:
        self._view = view
        self.answers: dict[type, Callable[[Any], Awaitable[api.ApiAnswer]]] = {AskQuery: self._ask}

    async def _ask(self, request: AskQuery) -> api.ApiAnswer:
        live = await self._view.live(request.run)
        if live is None:
            return unknown_run(request.run) if await self._view.row(request.run) is None else over(request.run)
        made = self._question(live, request)
        if isinstance(made, Refused):
            return made
        pool, data = made
        limit = self._view.ports.broker.max_message_bytes
        if len(data) > limit:
            message = f"the history, {len(data)} bytes with the question, does not fit into a message of {limit} bytes"
            return Refused("SM-5286", message, "keep histories short: wf.continue_as_new")
        return await self._answer(Pool(pool), data)

    async def _answer(self, pool: Pool, data: bytes) -> api.ApiAnswer:
        """Of the first worker that is there: one may just begin."""
        broker, clock = self._view.ports.broker, self._view.ports.clock
        subject, until = subjects.queries(self._view.namespace, pool), clock.monotonic() + WAIT_S
        while (left := until - clock.monotonic()) > 0:
            try:
                answer = decode_api_answer(await broker.request(subject, data, left))
            except BrokerUnavailable:
                answer = None
            if answer is not None and not (isinstance(answer, Refused) and answer.code == WORKER_GONE):
                return answer
            await clock.sleep(PAUSE_S)
        return Refused("SM-5287", f"no worker of pool {pool} answered the query", "start one with the workflow: `stepmesh worker`")

    def _question(self, live: Live, request: AskQuery) -> tuple[str, bytes] | Refused:
        found = function_of(live.run, request.item, request.step)
        if isinstance(found, Refused):
            return found
        item, step, function = found
        made = blocked(function) or task_again(live.shard.session, item, step, 1)
        if isinstance(made, Refused):
            return made
        if isinstance(made, Failure):
            return Refused("SM-5288", f"the function has no pool any more: {made.message}", "see `routes` of the configuration")
        pool, task = made
        task = structs.replace(task, history=encode_records(function.records))
        return pool, encode(QueryTask(task, live.shard.ownership.journal_id, request.name, request.arguments))
