"""A state as a snapshot, encoded while workers and readers are answered."""

from __future__ import annotations

import asyncio

from stepmesh_orchestrator.core.snapshot import encoding
from stepmesh_orchestrator.core.state import State

RUNS_AT_ONCE = 500
"""Runs that a snapshot encodes without a pause; about 5 ms for runs of ten steps."""


async def encoded(state: State) -> bytes:
    """No turn may begin before it is done, so that the state stands still."""
    work = encoding(state, RUNS_AT_ONCE)
    while True:
        try:
            next(work)
        except StopIteration as done:
            return bytes(done.value)
        await asyncio.sleep(0)
