"""A workflow as a component of a worker: what a flow's step calls, and what a run of its own is a flow of.

Invariant: what a body is known by to others (idempotency keys, tokens) names its run, item and step, so that no two bodies share it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from msgspec.structs import replace

from stepmesh.component import Component
from stepmesh.context import Context
from stepmesh.durable.activation import NOTHING, TURN_BYTES, Activation, Begin
from stepmesh.durable.driver import HandedBack, LetGo, drive
from stepmesh.durable.execution import Execution
from stepmesh.durable.guards import guarded
from stepmesh.durable.identity import Identity
from stepmesh.durable.limits import USUAL, Limits
from stepmesh.durable.takeover import place_of, taken_over
from stepmesh.durable.telling import Turns
from stepmesh.durable.workflow import Workflow
from stepmesh_broker.errors import StepmeshError
from stepmesh_broker.protocol import tokens
from stepmesh_broker.protocol.functions import FunctionTurn, FunctionTurned
from stepmesh_broker.protocol.histories import Began, decode_records
from stepmesh_broker.protocol.ids import Partition, RunId
from stepmesh_broker.protocol.letters import Waiter
from stepmesh_broker.protocol.messages import Task
from stepmesh_broker.protocol.queries import QueryTask


class QueryFailed(StepmeshError):
    """A question to a body has no answer."""

    default_code = "SM-1078"


def hosted(workflow: Workflow[..., Any], path: str = "", limits: Limits = USUAL) -> Component:
    """The component that drives bodies of a workflow. `path`: within its pool, default the workflow's own."""
    if limits.guard != "off":
        guarded()

    async def activate(_: Any, context: Context) -> Any:
        turns, partition, news = context.turns()
        fitting = replace(limits, payload_bytes=min(limits.payload_bytes, turns.payload_bytes))
        task = context.task
        begin = _body(workflow, task, context.journal, fitting)
        way, who = _Way(turns, partition), Identity(task.run, workflow.name, workflow.version)
        bodies, place = context.bodies, (workflow, context.journal, task.run, task.item, task.step)
        live = bodies.take(place, task.driver, task.records)
        keep = partial(bodies.keep, place) if bodies.wanted else None
        known, most = (workflow.version, context.is_fresh, who, workflow.where), min(TURN_BYTES, turns.payload_bytes)
        try:
            return await drive(Activation(task, begin, way, news, *known, live, keep, context.leaving, most, workflow.ahead_s))
        except LetGo:
            context.idle()
        except HandedBack:
            context.hand_back()
        return None

    def query(asked: QueryTask) -> bytes:
        return _queried(_body(workflow, asked.task, asked.journal, limits), asked)

    info, where = workflow.info(), path or workflow.path
    schemas = info.input_schema, info.output_schema
    return Component(where, workflow.name, info.description, True, None, None, activate, *schemas, query, workflow.version)


def _body(workflow: Workflow[..., Any], task: Task, journal: str, limits: Limits) -> Begin:
    own = f"{task.run}.{task.item}.{task.step}"

    def begin(started_ms: int, *, recorded: str, place: str = "", before: Mapping[str, str] = NOTHING) -> Execution:
        def token_of(command: str) -> str:
            waiter = Waiter(task.run, task.item, task.step, 0, command, RunId(task.root))
            there = before.get(command)
            return tokens.token_of(waiter if there is None else _there(there, command), journal)

        known = place or own
        return workflow.begin(task.run, task.input, started_ms, recorded=recorded, limits=limits, place=known, token_of=token_of)

    return begin


def _there(place: str, command: str) -> Waiter:
    """Who waited for a command in the run that it was taken over from."""
    run, item, step = place.rsplit(".", 2)
    return Waiter(RunId(run), int(item), int(step), 0, command, RunId(""))


def _queried(begin: Begin, asked: QueryTask) -> bytes:
    """A body of its own, brought to where the history ends, and put away again. Raises `StepmeshError`."""
    records = decode_records(asked.task.history)
    first = next((record for record in records if isinstance(record, Began)), Began(asked.task.at_ms))
    execution = begin(first.at_ms, recorded=first.version, place=place_of(records), before=taken_over(records))
    try:
        found = execution.turn(records).divergence
        if found is not None:
            raise QueryFailed(f"the worker's code cannot go on with the history: {found}", hint="ask a worker with the code that fits")
        return execution.query(asked.name, asked.arguments)
    except StepmeshError:
        raise
    except (Exception, SystemExit) as problem:  # a body may end so, too
        hint = "see the query's handler in the workflow"
        raise QueryFailed(f"the query `{asked.name}` raised {type(problem).__name__}: {problem}", hint=hint) from problem
    finally:
        execution.drop()


class _Way:
    """`Sequencer` over the worker's turns."""

    def __init__(self, turns: Turns, partition: Partition) -> None:
        self._turns = turns
        self._partition = partition

    async def take(self, turn: FunctionTurn) -> FunctionTurned:
        """See `Sequencer`."""
        return await self._turns.take(self._partition, turn)
