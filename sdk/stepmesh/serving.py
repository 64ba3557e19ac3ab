"""A worker as a process: event loop, connection, signals, exit.

Invariant: a signal never loses work: the first drains, the second hands everything back at once, the third ends the process
where it is (the broker then delivers again). Only this module touches process-wide state.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from stepmesh import endpoint
from stepmesh.telemetry import configured, flush

if TYPE_CHECKING:
    from stepmesh.worker import Worker

log = logging.getLogger("stepmesh.worker")

GC_THRESHOLDS = (50_000, 25, 25)
"""Allocations before a collection, per generation: frames bring many short-lived objects that are not garbage in cycles."""


def serve(worker: Worker, url: str | None = None) -> None:
    """Run a worker until SIGTERM or SIGINT. Raises `EndpointNotFound`, `BrokerUnavailable`."""
    if worker.instrument is None:
        worker.instrument = configured("stepmesh-worker")
    _run(_serve(worker, endpoint.find(url)))
    if worker.stuck:
        log.error("%d tasks did not stop and end with this process; they are delivered again", worker.stuck)
        flush()
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # their threads would keep the process for ever


def _run(work: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop
    except ImportError:
        asyncio.run(work)
    else:
        uvloop.run(work)


async def _serve(worker: Worker, url: str) -> None:
    broker = endpoint.connection(url, worker.namespace)
    loop = asyncio.get_running_loop()
    signals = 0

    def signalled() -> None:
        nonlocal signals
        signals += 1
        if signals > 2:
            os._exit(1)
        worker.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)
    await broker.connect()
    try:
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        await worker.run(broker)
    finally:
        await broker.close()
