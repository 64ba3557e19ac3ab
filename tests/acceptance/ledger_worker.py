"""A worker process whose components write every start and end of an execution into a ledger file: STEPMESH_LEDGER.

The ledger is opened O_APPEND and each line is one write(2), so lines of several processes, killed at any moment, never mix.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepmesh import Context, Worker

worker = Worker(pool="cpu", concurrency=8, drain_grace_s=15.0)
_ledger = os.open(os.environ["STEPMESH_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
_gate = Path(os.environ["STEPMESH_LEDGER"]).with_name("gate")

CHILD = {"steps": [{"id": "c", "component": "/cpu/echo", "input": {"$input": "$"}}], "output": {"$step": "c"}}


def note(kind: str, context: Context) -> None:
    """`kind run item step attempt pid milliseconds`."""
    line = f"{kind} {context.run_id} {context.item} {context.step_id} {context.attempt} {os.getpid()} {time.time_ns() // 1_000_000}\n"
    os.write(_ledger, line.encode())


@worker.component
async def echo(value: Any, context: Context) -> Any:
    """Ends at once."""
    note("start", context)
    note("end", context)
    return value


@worker.component
async def slow(value: Any, context: Context) -> Any:
    """Takes `seconds` (1.5), so it is claimed on the way."""
    note("start", context)
    await asyncio.sleep(value.get("seconds", 1.5) if isinstance(value, Mapping) else 1.5)
    note("end", context)
    return value


@worker.component
async def gate(value: Any, context: Context) -> Any:
    """Waits until the test opens it for all: the file beside the ledger."""
    note("start", context)
    while not _gate.exists():
        await asyncio.sleep(0.05)
    note("end", context)
    return value


@worker.component
async def flaky(value: Any, context: Context) -> Any:
    """Fails once by itself: every odd attempt."""
    note("start", context)
    if context.attempt % 2:
        raise RuntimeError(f"attempt {context.attempt}")
    note("end", context)
    return "steady"


@worker.component
def cpu(value: Any, context: Context) -> int:
    """Keeps a thread busy for some ms."""
    note("start", context)
    total = sum(number * number for number in range(50_000))
    note("end", context)
    return total % 7


@worker.component
async def delegate(value: Any, context: Context) -> Any:
    """Has a sub-run do its work, and waits for it."""
    note("start", context)
    result = await context.evaluate_flow(CHILD, value)
    note("end", context)
    return {"delegated": result}


@worker.component
async def poison(value: Any, context: Context) -> Any:
    """Takes its worker down."""
    note("start", context)
    os._exit(9)
