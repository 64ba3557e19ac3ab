"""The Python SDK's test worker: the components of README.md in this folder, as a user would write them."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any, Literal

import msgspec

from stepmesh import ComponentError, Context, ErrorCode, InvalidInput, ResourceUnavailable, Worker

MAX_DOUBLE = 2**53

worker = Worker(concurrency=int(os.environ.get("STEPMESH_CONCURRENCY", "8")), drain_grace_s=20.0)


class Adding(msgspec.Struct, forbid_unknown_fields=True):
    a: int
    b: int


class Failing(msgspec.Struct):
    code: Literal[tuple(code.name for code in ErrorCode)]  # type: ignore[valid-type]  # the names are known at run time only
    message: str
    data: Any = None
    retry_after_ms: int | None = None


def note(file: str, text: str) -> None:
    """One append per line, so that processes can share the file."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, f"{text} {os.getpid()}\n".encode())
    finally:
        os.close(descriptor)


@worker.component
async def echo(input: Any) -> Any:
    return input


@worker.component
async def add(input: Adding) -> int:
    if max(abs(input.a), abs(input.b)) >= MAX_DOUBLE:
        raise InvalidInput("a and b are below 2^53")
    return input.a + input.b


@worker.component
async def sleep(*, ms: int) -> dict[str, int]:
    await asyncio.sleep(ms / 1000)
    return {"slept": ms}


@worker.component
def block(*, ms: int) -> dict[str, int]:
    until = time.monotonic() + ms / 1000
    while time.monotonic() < until:
        sum(range(1000))
    return {"blocked": ms}


@worker.component
async def fail(input: Failing) -> None:
    after_s = None if input.retry_after_ms is None else input.retry_after_ms / 1000
    raise ComponentError(input.message, code=input.code, data=input.data, retry_after_s=after_s)


@worker.component(path="/raise")
async def raise_(*, message: str) -> None:
    raise ZeroDivisionError(message)


@worker.component
async def attempt(*, fail: int, context: Context) -> dict[str, int]:
    if context.attempt <= fail:
        raise ResourceUnavailable(f"attempt {context.attempt} of {fail} that fail")
    return {"attempt": context.attempt}


@worker.component
async def big(*, bytes: int) -> str:
    return "x" * (bytes - 2)


@worker.component
async def size(input: msgspec.Raw) -> dict[str, int]:
    return {"bytes": len(memoryview(input))}


@worker.component
async def ints() -> dict[str, Any]:
    return {"z": 2**63, "a": -(2**53) - 1, "m": [1, 2**64 - 1]}


@worker.component(path="/params/{name}")
async def params(context: Context) -> dict[str, str]:
    return {"name": context.path_params["name"]}


@worker.component
async def progress(steps: int, ms: int, context: Context) -> dict[str, int]:
    for k in range(1, steps + 1):
        await asyncio.sleep(ms / 1000)
        context.heartbeat(k / steps, k=k)
    return {"steps": steps}


@worker.component
async def ledger(file: str, ms: int, context: Context) -> dict[str, int]:
    note(file, f"start {context.attempt}")
    await asyncio.sleep(ms / 1000)
    note(file, f"end {context.attempt}")
    return {"attempt": context.attempt, "pid": os.getpid()}


@worker.component
async def wait_cancelled(*, file: str, context: Context) -> None:
    note(file, f"start {context.attempt}")
    try:
        await asyncio.Event().wait()
    finally:
        note(file, f"stopped {context.attempt}")


@worker.component
async def crash(attempts: int, file: str, context: Context) -> dict[str, int]:
    note(file, f"start {context.attempt}")
    if context.attempt <= attempts:
        os._exit(70)
    return {"attempt": context.attempt}


@worker.component
async def subrun(flow_id: str, input: Any, context: Context) -> Any:
    return await context.evaluate_flow_by_id(flow_id, input, key="sub")


@worker.component
async def idempotency(context: Context) -> dict[str, Any]:
    return {"key": context.idempotency_key, "attempt": context.attempt, "run_id": context.run_id, "step_id": context.step_id}


if __name__ == "__main__":
    worker.serve()
