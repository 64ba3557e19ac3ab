"""A durable function as a step carries it: its history, and what of it is still open.

Invariant: `open` and `retries` follow from `records` and from what turns abandoned; they are kept beside them so that no decision reads a
whole history. Knows nothing of runs.
"""

from __future__ import annotations

import msgspec

from stepmesh_broker.protocol.histories import Issued, Kind, Record, Settled, encode_records

MAX_CARRIED_BYTES = 256 * 1024
"""A history that is larger does not travel with the task: the worker asks for it, page by page."""
AWAITED = frozenset((Kind.STEP, Kind.CALL, Kind.CHILD, Kind.TIMER, Kind.EVENT, Kind.PROMISE))
"""Kinds of commands that get a result."""
_due = msgspec.json.Decoder(dict[str, int])


class Function(msgspec.Struct, array_like=True, gc=False):
    """`open`: commands without a result, by id, oldest first. `seen`: records that the worker had when it let go. `attempt` and `turn`:
    of the newest turn. `blocked`: why the newest code cannot go on with this history, tried again at `due_ms`; `blocks`: how often in a
    row."""

    records: list[Record] = []
    open: dict[str, Issued] = {}
    seen: int = 0
    attempt: int = 0
    turn: int = 0
    blocked: str = ""
    due_ms: int = 0
    blocks: int = 0

    def append(self, record: Record) -> None:
        """The history goes on."""
        self.records.append(record)
        if isinstance(record, Issued):
            if record.kind in AWAITED:
                self.open[record.id] = record
        elif isinstance(record, Settled):
            self.open.pop(record.id, None)

    def timers(self) -> list[tuple[int, Issued]]:
        """Those that are waited for, with when they are due (ms), earliest first."""
        return sorted(((due_ms(command), command) for command in self.open.values() if command.kind is Kind.TIMER), key=lambda due: due[0])

    def carried(self) -> bytes:
        """The history, as a task carries it; empty when it is too large for that."""
        encoded = encode_records(self.records)
        return encoded if len(encoded) <= MAX_CARRIED_BYTES else b""


def due_ms(timer: Issued) -> int:
    """When a timer is due, ms since 1970; 0 when what the worker said cannot be read: at once."""
    try:
        return _due.decode(timer.arguments)["due_ms"]
    except (msgspec.MsgspecError, KeyError):
        return 0
