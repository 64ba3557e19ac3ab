"""A worker inside a deployment: begun, begun again while the broker is away, drained.

Invariant: a broker that goes away ends no worker, whenever that happens; `drain` does. It must not know what else the deployment has.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.ports import Broker

if TYPE_CHECKING:
    from stepmesh import Worker

log = logging.getLogger("stepmesh.worker")
AGAIN_S = 1.0
"""A worker that could not begin tries again after so long."""


class OwnWorker:
    """Works from now on. `task` fails with what broke the worker, if something does."""

    def __init__(self, worker: Worker, broker: Broker) -> None:
        self._worker = worker
        self._broker = broker
        self._leaving = asyncio.Event()
        self.task = asyncio.create_task(self._run(), name=f"stepmesh worker {worker.pool}")

    async def drain(self, patience_s: float) -> None:
        """Take nothing more; what still runs after that time is handed back."""
        self._leaving.set()
        self._worker.stop()
        try:
            await asyncio.wait((self.task,), timeout=patience_s)
        finally:
            self._worker.stop()
            await asyncio.wait((self.task,))

    async def _run(self) -> None:
        while not self._leaving.is_set():
            try:
                await self._worker.run(self._broker)
                return
            except BrokerUnavailable as problem:
                log.warning("the worker of pool %s begins later: %s", self._worker.pool, problem)
            try:
                await asyncio.wait_for(self._leaving.wait(), AGAIN_S)
            except TimeoutError:
                pass
