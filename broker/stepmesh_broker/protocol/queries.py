"""What a durable function is asked that changes nothing: the client's question, part of the api (see api.py), and what a worker of the
function's pool is handed to answer it.

Invariant: nothing is journaled of a question, and no lease is taken. Every message may be sent twice.
"""

from __future__ import annotations

import msgspec

from stepmesh_broker.protocol.histories import Record
from stepmesh_broker.protocol.ids import Partition, RunId
from stepmesh_broker.protocol.messages import FORMAT, Task

PAGED = 2
"""Format of a question whose history does not travel along."""


class AskQuery(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="ask_query"):
    """Ask a durable function how it stands, or how it stood when it ended. `arguments`: JSON. `item`, `step` (its id): which function,
    where the run has several. Answer: `QueryAnswer`, or `Refused`: SM-5003, SM-5281 to SM-5283, SM-5286, SM-5287, SM-1082, or what the
    worker refuses."""

    run: RunId
    name: str
    arguments: bytes = b"{}"
    item: int | None = None
    step: str | None = None


class QueryTask(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="query_task"):
    """The same for a worker: `task` carries the whole history, unless there is a `question`: then the worker asks the owner of `partition`
    for it, page by page, and the format is `PAGED`. `journal`: of the tokens that the body hands out. Answer: `QueryAnswer` or
    `Refused`."""

    task: Task
    journal: str
    name: str
    arguments: bytes
    format: int = FORMAT
    question: str = ""
    partition: Partition = Partition(0)


class QueryAnswer(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="query_answer"):
    """What the body's handler says, as JSON."""

    value: bytes


class ReadHistory(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="read_history"):
    """A worker asks a partition for the history of a question that it has, from record `after` on, in `answer_bytes` at most
    (0 = what the broker carries). Answer: `HistoryPage`, or `Refused` SM-1083 when the question is over."""

    question: str
    after: int
    answer_bytes: int = 0


class HistoryPage(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="history_page"):
    """Records of it. `more`: behind them."""

    records: list[Record]
    more: bool = False
