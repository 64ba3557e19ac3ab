"""What a worker that runs the body of a durable function, and the shard that owns its run, say to each other.

Invariant: the shard alone orders a history. A worker proposes records, and delivers to the body only what came back as appended. So a turn
may be said twice: its number tells the shard that it has it already. Travels over the control subject, encoded as in messages.py.
"""

from __future__ import annotations

import msgspec

from stepmesh_broker.protocol.histories import Record
from stepmesh_broker.protocol.ids import WorkerId
from stepmesh_broker.protocol.messages import FORMAT, TaskRef


class FunctionTurn(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One activation of a function goes on. `task`: its attempt is the activation.

    `driver`: whoever takes the activation further, a random number; `number`: of its turn, from 1; 0 asks for records only. `base`: how
    many records the worker has. `records`: what the body issued and what came of its local steps, to be appended in this order.
    `abandoned`: ids of commands whose results the body waits for no more. `idle`: nothing of it runs here, so the worker lets go of it
    unless there is news. `blocked`: why the body cannot go on with this history and this code; then it is idle. `continued`: the body is
    over, and begins anew with this input (JSON); then `base` is how many records the body got, and updates behind them are for the next.
    `leaving`: the worker goes, so another one is to take the activation's place. `version`: of the worker's code. `exact`: the records
    count only if they come right behind the `base` and as they are, with their times: the body went on from them already.
    """

    task: TaskRef
    driver: int
    number: int
    base: int
    records: list[Record] = []
    abandoned: list[str] = []
    idle: bool = False
    blocked: str = ""
    continued: bytes | None = None
    leaving: bool = False
    version: str = ""
    exact: bool = False


class FunctionTurns(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="turns"):
    """Turns of functions of one partition. `answer_bytes`: the largest answer that reaches the worker, where that is less than what the
    broker carries; 0 where it is not. Answer: `FunctionsTurned`."""

    worker: WorkerId
    turns: list[FunctionTurn]
    format: int = FORMAT
    answer_bytes: int = 0


class FunctionTurned(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Answer to a turn once it is journaled. `gone`: the activation is over or another one took its place; nothing was appended.

    `at_ms`: the time of what was appended. `records`: those from the worker's base on. None: exactly its own ones, in their order and with
    `at_ms` for their time. `more`: there are more than fit; ask on. `left`: the worker has let go of the function; nothing is to be said of
    it any more. `why`, of what is `gone`: what took its place, for people; with the `activation` that the shard has now and the number of
    records that it has `known` by then, 0 when it has none.
    """

    gone: bool = False
    at_ms: int = 0
    records: list[Record] | None = None
    more: bool = False
    left: bool = False
    why: str = ""
    activation: int = 0
    known: int = 0


class FunctionsTurned(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="turned"):
    """One answer per turn, in order; None for one that could not be taken now: say it again."""

    answers: list[FunctionTurned | None]


class Nudge(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="nudge"):
    """Broadcast to the workers of a pool: there are records for these functions. A lost one is made up for by the worker's next turn."""

    tasks: list[TaskRef]
