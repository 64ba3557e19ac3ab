"""What a driver is given: the task, what makes its body, the way to the shard, and what of the worker it has to heed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from stepmesh.durable.execution import Execution
from stepmesh.durable.identity import Identity
from stepmesh.durable.live_bodies import LiveBody
from stepmesh_broker.protocol.functions import FunctionTurn, FunctionTurned
from stepmesh_broker.protocol.histories import Record, decode_records
from stepmesh_broker.protocol.messages import Task

TURN_BYTES = 256 * 1024
"""Records in one turn of more than one record, with the ids of what was given up, bytes."""
NOTHING: Mapping[str, str] = {}


class Sequencer(Protocol):
    """The way to the shard."""

    async def take(self, turn: FunctionTurn) -> FunctionTurned:
        """Tell a turn, however often it takes until there is an answer."""
        ...


class Begin(Protocol):
    """Makes a body."""

    def __call__(self, started_ms: int, *, recorded: str, place: str = "", before: Mapping[str, str] = NOTHING) -> Execution:
        """See `Activation`. `place`: what the body is known by, if not its own; `before`: commands that were taken over, with the place
        that they were issued at."""
        ...


@dataclass(frozen=True, slots=True)
class Activation:
    """What is to be driven. `begin`: makes the body, given when it began (ms) and the version of the code that it began with. `news` is set
    when there may be records that the shard was not asked for. `version`: of the code that is here. `is_fresh`: nobody else had the
    task, so what it carries is what there is. `identity`, `where`: of the function, for the log; `file:line`. `live`: the body
    itself, where it still is. `keep` takes one that idles; None = it is put away. `leaving`: no local step is begun any more.
    `turn_bytes`: see `TURN_BYTES`. `ahead_s`: for so long (seconds) the body goes on with what idempotent steps gave before it is
    told; 0 = each result is in the history before the body has it."""

    task: Task
    begin: Begin
    sequencer: Sequencer
    news: asyncio.Event
    version: str = ""
    is_fresh: bool = False
    identity: Identity = Identity()
    where: str = ""
    live: LiveBody | None = None
    keep: Callable[[LiveBody], None] | None = None
    leaving: asyncio.Event = field(default_factory=asyncio.Event)
    turn_bytes: int = TURN_BYTES
    ahead_s: float = 0.0

    def carried(self, base: int) -> list[Record]:
        """The records from there on that came along, if any did."""
        task = self.task
        if task.history:
            return decode_records(task.history)[base:]
        return decode_records(task.news) if task.news and task.seen == base else []
