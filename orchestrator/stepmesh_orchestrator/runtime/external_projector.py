"""The read model of a partition when other processes write it, from the journal: nothing is written here, and readers wait for them.

Invariant: as with a projector of its own, a reader sees what was journaled before it asked, or is told in the log that it does not.
"""

from __future__ import annotations

import asyncio
import logging

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.core.rows import Row
from stepmesh_orchestrator.ports import Store
from stepmesh_orchestrator.runtime.projector import STALE_AFTER_S, Projector

log = logging.getLogger("stepmesh.projector")
PATIENCE_S = 10.0
"""How long the first reader waits for projectors that do not come; those after it wait for `STALE_AFTER_S`."""
_POLL_S = 0.02


class ExternalProjector(Projector):
    """Stands where a partition has its `Projector`."""

    def __init__(self, store: Store, partition: Partition) -> None:
        super().__init__(store, partition)
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
        """They read the journal themselves: no recovery projects anything."""
        return True

    async def run(self) -> None:
        """For ever."""
        await asyncio.Event().wait()
