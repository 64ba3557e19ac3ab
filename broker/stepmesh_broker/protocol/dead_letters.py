"""What clients ask of the dead letters of a namespace: messages that nobody could take, with the reason. Answered by any orchestrator."""

from __future__ import annotations

from base64 import b64encode

import msgspec

from stepmesh_broker.protocol.ids import Pool, Position

SHOWN_BYTES = 4_096
"""Of a letter, as a list shows it."""
MOST = 500
"""Letters of one answer, so that it fits a message."""


class ListDeadLetters(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="list_dead_letters"):
    """Oldest first, `limit` of them at most; `pool` "" is all of them. Answer: `DeadLetters`."""

    limit: int = 100
    pool: str = ""


class DeadLetter(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`data`: its first bytes; `size`: how many it has. `position` names it."""

    position: Position
    pool: Pool
    size: int
    data: bytes
    reason: str

    @property
    def shown(self) -> tuple[str, str]:
        """What its first bytes are in JSON, and as what: `data` is text, `data_base64` anything else."""
        try:
            return "data", self.data.decode()
        except UnicodeDecodeError:
            return "data_base64", b64encode(self.data).decode()


class DeadLetters(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="dead_letters"):
    """What lies there."""

    letters: list[DeadLetter]


class DropDeadLetter(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="drop_dead_letter"):
    """Remove one. Answer: `Deleted`, or `Refused` SM-5024 when it is not there."""

    position: Position
