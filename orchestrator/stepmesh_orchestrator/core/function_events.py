"""What happens to durable functions. As all events: frozen, append-only, a new meaning is a new class with a new tag."""

from __future__ import annotations

import msgspec

from stepmesh_broker.protocol.histories import Record
from stepmesh_broker.protocol.ids import RunId
from stepmesh_orchestrator.core.seeds import FunctionSeed


class HistoryGrew(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=17):
    """A durable function's history goes on by `records`; nobody waits any more for what came of the commands `abandoned`. `driver`,
    `turn`: the number of who brought them, and of its turn; 0: the core itself did. `version`: of code that took the function over from
    another version; "" when it is the same."""

    run: RunId
    item: int
    step: int
    records: list[Record]
    abandoned: list[str] = []
    driver: int = 0
    turn: int = 0
    version: str = ""


class FunctionIdle(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=18):
    """The worker let go of a durable function, which waits for records. It holds no slot. `blocked`: why its code cannot go on; it is tried
    again at `due_ms`. `leaving`: there is more to do, and the worker goes. `version`: of that code, where it is known."""

    run: RunId
    item: int
    step: int
    blocked: str = ""
    due_ms: int = 0
    leaving: bool = False
    version: str = ""


class FunctionContinued(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=40):
    """A durable function begins anew, without a history, with another input (JSON). It holds no slot."""

    run: RunId
    item: int
    step: int
    input: bytes


class RunCancelling(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=19):
    """The run is to be cancelled as soon as the durable functions below it have ended, which were told."""

    run: RunId
    reason: str


class FunctionsSeeded(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=45):
    """Durable functions of the run, which was created just now, take over from those of the run that it was seeded from. Items are its
    own."""

    run: RunId
    seeds: list[FunctionSeed]


class FunctionTookOver(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=46):
    """The step, whose first attempt is about to begin, begins with what it was seeded with. `anew`: its input is another one than there, so
    its body begins at its beginning, and only results are kept. Its attempts count from 2."""

    run: RunId
    item: int
    step: int
    anew: bool = False


class FunctionUnwound(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=47):
    """The code that is there cannot go on with the history that was taken over: the body begins at its beginning, and only results are
    kept. It holds no slot."""

    run: RunId
    item: int
    step: int


class FunctionResumed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=48):
    """Somebody lets the function go on: one that is blocked is due now, and every version of the code may be tried. `version`: the one that
    it belongs to from now on; "" leaves it to whom it was. Workers have nothing of it any more, but for one that is taking it further."""

    run: RunId
    item: int
    step: int
    version: str = ""


FunctionEvent = (
    RunCancelling | HistoryGrew | FunctionIdle | FunctionContinued | FunctionsSeeded | FunctionTookOver | FunctionUnwound | FunctionResumed
)
