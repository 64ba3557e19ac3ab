"""Which workers of a pool have room, the one with the least in hand first; those with equally much take turns.

A heap whose entries go out of date when a worker's credit or load changes: each worker has at most one valid entry, and what is not valid
is dropped when it comes to the top, or when too much of it has gathered.
"""

from __future__ import annotations

import heapq
import itertools

from stepmesh_gateway.work.catalogue import Found
from stepmesh_gateway.work.seat import Seat

SPARE = 64
"""Entries, beside four for each worker, before those that are out of date are swept out."""


class Rooms:
    """Of one pool."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Seat]] = []
        self._numbers = itertools.count(1)
        self._limit = SPARE

    def enter(self, seat: Seat) -> None:
        """Its credit or load may have changed."""
        if not seat.has_room:
            seat.entry = 0
            return
        seat.entry = next(self._numbers)
        heapq.heappush(self._heap, (seat.load, seat.entry, seat))
        if len(self._heap) > self._limit:
            self._heap = [entry for entry in self._heap if entry[1] == entry[2].entry]
            heapq.heapify(self._heap)
            self._limit = 4 * len(self._heap) + SPARE

    def any(self) -> bool:
        """Whether a worker has room; it is at the top then."""
        heap = self._heap
        while heap and (heap[0][1] != heap[0][2].entry or not heap[0][2].has_room):
            heapq.heappop(heap)
        return bool(heap)

    def choose(self, component: str) -> tuple[Seat, Found] | None:
        """The first worker that offers the component, and what it calls it; it has to enter again."""
        aside: list[Seat] = []
        chosen = None
        while chosen is None and self.any():
            seat = heapq.heappop(self._heap)[2]
            seat.entry = 0
            found = seat.find(component)
            if found is None:
                aside.append(seat)
            else:
                chosen = (seat, found)
        for seat in aside:
            self.enter(seat)
        return chosen
