"""What a durable function is asked that changes nothing: the client's question, part of the api (see api.py), and what a worker of the
function's pool is handed to answer it.

Invariant: nothing is journaled of a question, and no lease is taken. Every message may be sent twice.
"""

from __future__ import annotations

import msgspec

from stepmesh_broker.protocol.ids import RunId
from stepmesh_broker.protocol.messages import FORMAT, Task


class AskQuery(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="ask_query"):
    """Ask a durable function of a live run how it stands. `arguments`: JSON. `item`, `step` (its id): which function, where the run has
    several. Answer: `QueryAnswer`, or `Refused`: SM-5003, SM-5280 to SM-5283, SM-5286, SM-5287, or what the worker refuses."""

    run: RunId
    name: str
    arguments: bytes = b"{}"
    item: int | None = None
    step: str | None = None


class QueryTask(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="query_task"):
    """The same for a worker: `task` carries the whole history. `journal`: of the tokens that the body hands out. Answer: `QueryAnswer` or
    `Refused`."""

    task: Task
    journal: str
    name: str
    arguments: bytes
    format: int = FORMAT


class QueryAnswer(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="query_answer"):
    """What the body's handler says, as JSON."""

    value: bytes
