"""The read model of a partition when other processes write it, from the journal: nothing is written here, and readers wait for them.

Invariant: as with a projector of its own, a reader sees what was journaled before it asked, or is told in the log that it does not; and
the journal keeps every frame that the projectors have not passed, so that none of its rows can be lost. What it keeps is bounded: new runs
are refused while the projectors are too far behind.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from stepmesh_broker.protocol.ids import Partition
from stepmesh_broker.protocol.messages import Refused
from stepmesh_orchestrator.core.rows import Row
from stepmesh_orchestrator.ports import Store, StoreError
from stepmesh_orchestrator.runtime.projector import STALE_AFTER_S, Projector

log = logging.getLogger("stepmesh.projector")
PATIENCE_S = 10.0
"""How long the first reader waits for projectors that do not come; those after it wait for `STALE_AFTER_S`."""
MAX_BEHIND = 1_000_000
"""Frames that the journal keeps of a partition for projectors that do not come; then it takes no new runs."""
_POLL_S = 0.02
_LOOK_EVERY_S = 5.0
Kept = Callable[[Partition], Awaitable[int | None]]
"""The frame after which projectors go on when they come again; None when none has kept a checkpoint yet. Raises `StoreError`."""


class ExternalProjector(Projector):
    """Stands where a partition has its `Projector`. `kept`: how far the others are."""

    def __init__(self, store: Store, partition: Partition, kept: Kept, max_behind: int = MAX_BEHIND) -> None:
        super().__init__(store, partition)
        self._kept = kept
        self._max_behind = max_behind
        self._passed: int | None = None  # as it was seen last; None before the first look
        self._late = False

    def pass_on(self, sequence: int, rows: list[Row]) -> None:
        """Others read them in the journal."""

    async def reached(self, sequence: int) -> None:
        """Until the read model holds frame `sequence`, or those who write it are late."""
        try:
            async with asyncio.timeout(STALE_AFTER_S if self._late else PATIENCE_S):
                while self.sequence < sequence and not self._closed:
                    if await self.position() < sequence:
                        await asyncio.sleep(_POLL_S)
            self._late = False
        except TimeoutError:
            self._late = True
            log.warning("a reader gets the read model as of frame %d instead of %d: does a projector run?", self.sequence, sequence)

    async def caught_up(self, sequence: int) -> bool:
        """They read the journal themselves: no recovery projects anything. Before their first checkpoint they may need the snapshots that
        there are, so none may take their place."""
        if await self._look() is None:
            log.info("no snapshot after frame %d of partition %d: no checkpoint of a projector is known", sequence, self._partition)
            return False
        return True

    async def released(self, sequence: int) -> int:
        """Up to their checkpoint."""
        return min(sequence, await self._look() or 0)  # what is not known now is kept

    def refusal(self, sequence: int) -> Refused | None:
        """By what was seen last, a few seconds ago at most."""
        behind = 0 if self._passed is None else sequence - self._passed
        if behind <= self._max_behind:
            return None
        message = f"no new run is accepted: the projectors are {behind} frames behind partition {self._partition} of the journal"
        return Refused("SM-7320", message, "start `stepmesh projector`, or more of them; `stepmesh doctor --store` shows how far they are")

    async def run(self) -> None:
        """Look after them, for ever."""
        while True:
            await self._look()
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _look(self) -> int | None:
        try:
            kept = await self._kept(self._partition)
        except StoreError as problem:
            log.warning("how far the projectors are is not known: %s", problem)
            return None
        self._passed = kept or 0
        return kept
