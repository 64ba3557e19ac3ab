"""Bodies that stay alive in a worker between two activations, so that the next one need not be replayed: its sticky cache.

Invariant: a matter of speed only. A body is given out once, and only when nobody else took its history further meanwhile: then that has
only grown since. One that is not here, for whatever reason, is replayed. It must not know how bodies are driven.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a worker without functions needs nothing of them
    from stepmesh.durable.execution import Execution

MOST_BODIES = 1_000
"""Kept by a worker for which nothing else is said."""
MOST_BYTES = 64 * 1024 * 1024
"""Of the histories of all bodies that a worker keeps."""


@dataclass(frozen=True, slots=True)
class LiveBody:
    """One that idles. `base`: records of its history that it has, and `size` their bytes. `driver`: who took the history there.
    `asks_first`: whether its steps may have results of another run."""

    execution: Execution
    base: int
    driver: int
    size: int
    asks_first: bool = False


class LiveBodies:
    """Of one worker: at most `most`, whose histories have at most `most_bytes`; those that idle longest go first. `resumed`: how many were
    given out."""

    def __init__(self, most: int = MOST_BODIES, most_bytes: int = MOST_BYTES) -> None:
        self.resumed = 0
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = 0
        self._bodies: OrderedDict[Hashable, LiveBody] = OrderedDict()

    def __len__(self) -> int:
        """How many are here."""
        return len(self._bodies)

    @property
    def wanted(self) -> bool:
        """Whether any is kept."""
        return self._most > 0

    def take(self, place: Hashable, driver: int, records: int) -> LiveBody | None:
        """The body of `place`, if it has the beginning of the history of so many records that `driver` took further last. Whoever takes it
        puts it away or keeps it again. One that does not fit is of no use any more."""
        body = self._remove(place)
        if body is None:
            return None
        if body.driver != driver or body.base > records:
            body.execution.drop()
            return None
        self.resumed += 1
        return body

    def keep(self, place: Hashable, body: LiveBody) -> None:
        """It idles; it may be put away at any time."""
        self.evict(place)
        self._bodies[place] = body
        self._bytes += body.size
        while len(self._bodies) > self._most or self._bytes > self._most_bytes:
            self.evict(next(iter(self._bodies)))

    def evict(self, place: Hashable) -> None:
        """Put the body of `place` away, if there is one."""
        body = self._remove(place)
        if body is not None:
            body.execution.drop()

    def close(self) -> None:
        """Put all away, and keep none from now on."""
        self._most = 0
        for place in list(self._bodies):
            self.evict(place)

    def _remove(self, place: Hashable) -> LiveBody | None:
        body = self._bodies.pop(place, None)
        if body is not None:
            self._bytes -= body.size
        return body
