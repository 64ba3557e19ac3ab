"""What a history says of the runs that it was taken over from: what the body was known by there, and which commands are from there.

It reads records and must not know who drives the body.
"""

from __future__ import annotations

from collections.abc import Sequence

from stepmesh_broker.protocol.histories import Issued, Record, TakenOver


def place_of(records: Sequence[Record]) -> str:
    """What a body is known by that was taken over, from its first run on; "" for one that was not."""
    return next((record.place for record in records if isinstance(record, TakenOver) and record.place), "")


def taken_over(records: Sequence[Record]) -> dict[str, str]:
    """Commands that were taken over from other runs, each with the place of its body there."""
    found: dict[str, str] = {}
    waiting: list[str] = []
    for record in records:
        if isinstance(record, Issued):
            waiting.append(record.id)
        elif isinstance(record, TakenOver):
            found.update(dict.fromkeys(waiting, record.place))
            waiting.clear()
    return found
