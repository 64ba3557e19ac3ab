"""A turn that the shard did not take, because it is not this worker's to tell any more: nothing is wrong, and the log says so."""

from __future__ import annotations

import logging

from stepmesh.durable.identity import Identity
from stepmesh_broker.errors import StepmeshError
from stepmesh_broker.protocol.functions import FunctionTurn, FunctionTurned
from stepmesh_broker.protocol.histories import Issued

log = logging.getLogger("stepmesh.durable")


class StaleTurn(StepmeshError):
    """SM-1041: information, never raised: somebody else takes the function further, or it is over."""

    default_code = "SM-1041"

    @classmethod
    def of(cls, identity: Identity, where: str, turn: FunctionTurn, answer: FunctionTurned) -> StaleTurn:
        """`where`: `file:line` of the function."""
        last = next((record for record in reversed(turn.records) if isinstance(record, Issued)), None)
        brought = "" if last is None else f", which brought `{last.name}` ({last.where}),"
        stands = f"; the orchestrator has activation {answer.activation} and {answer.known} records" if answer.activation else ""
        return cls(
            f"a turn of run {identity} at {where or '?'}{brought} was not taken: it was of activation {turn.task.attempt} and knew "
            f"{turn.base} records{stands}. Cause: {answer.why or 'the activation is over'}",
            hint="nothing is to be done: whoever has it goes on from the journal, and what was not taken is not in it",
        )


def told(identity: Identity, where: str, turn: FunctionTurn, answer: FunctionTurned) -> None:
    """Put it into the log, as information."""
    log.info("%s", StaleTurn.of(identity, where, turn, answer))
