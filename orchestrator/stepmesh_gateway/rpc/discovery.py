"""What stepflow.v1 workers offer: each is asked when its stream opens, and answers with CompleteTask at any gateway.

Invariant: nothing waits for an answer. An answer for a stream that is not here is taken and forgotten.
"""

from __future__ import annotations

import secrets
from collections.abc import Generator, Iterable
from contextlib import contextmanager

from stepmesh_broker.pb.stepflow.v1 import tasks_pb2
from stepmesh_gateway.work.line import Offer
from stepmesh_gateway.work.seat import Seat

_MARK = "discovery-"


class Discovery:
    """Questions that are open, by the task id under which they were asked."""

    def __init__(self) -> None:
        self._asked: dict[str, Seat] = {}

    @contextmanager
    def asking(self, seat: Seat) -> Generator[str]:
        """The id to ask under; the answer is expected while the stream is open."""
        id = f"{_MARK}{secrets.token_hex(8)}"
        self._asked[id] = seat
        try:
            yield id
        finally:
            del self._asked[id]

    def answered(self, id: str, components: Iterable[tasks_pb2.ComponentInfo]) -> bool:
        """A worker's list. False when `id` is not that of such a question."""
        if not id.startswith(_MARK):
            return False
        seat = self._asked.get(id)
        if seat is not None:
            seat.offer(tuple(map(_offer, components)))
        return True


def _offer(told: tasks_pb2.ComponentInfo) -> Offer:
    path = told.path or told.component_id
    return Offer(
        path if path.startswith("/") else f"/{path}",
        told.component_id,
        told.description,
        told.input_schema.encode() if told.input_schema else None,
        told.output_schema.encode() if told.output_schema else None,
    )
