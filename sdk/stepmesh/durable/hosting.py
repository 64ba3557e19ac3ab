"""A workflow as a component of a worker: what a flow's step calls, and what a run by itself is a flow of."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from stepmesh import signature
from stepmesh.component import Component
from stepmesh.context import Context
from stepmesh.durable.driver import Activation, LetGo, drive
from stepmesh.durable.turns import Turns
from stepmesh_broker.protocol.functions import FunctionTurn, FunctionTurned
from stepmesh_broker.protocol.ids import Partition


def hosted(workflow: Callable[..., Coroutine[Any, Any, Any]], path: str, *, version: str = "", description: str | None = None) -> Component:
    """The component that drives the body `workflow`. Raises `BadComponent`."""
    form = signature.of(workflow)

    async def activate(value: Any, context: Context) -> Any:
        turns, partition, news = context.turns()
        body = partial(form.invoke, value, context)
        try:
            return await drive(Activation(context.task, body, _Way(turns, partition), news, version))
        except LetGo:
            context.idle()
            return None

    told = description if description is not None else inspect.getdoc(workflow) or ""
    return Component(path, path.rpartition("/")[2], told, True, None, form.read, activate, form.input_schema, form.output_schema)


class _Way:
    """`Sequencer` over the worker's turns."""

    def __init__(self, turns: Turns, partition: Partition) -> None:
        self._turns = turns
        self._partition = partition

    async def take(self, turn: FunctionTurn) -> FunctionTurned:
        """See `Sequencer`."""
        return await self._turns.take(self._partition, turn)
