"""Call a component as a worker would: a real worker over the in-process broker, one task, its result. And run workflows in a test: `env`.

For unit tests. No orchestrator is there, so sub-runs, blobs and claims of components find nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from stepmesh import payloads
from stepmesh.component import build
from stepmesh.durable import fixtures
from stepmesh.durable.rehearsal import replay
from stepmesh.durable.testing import env
from stepmesh.errors import ComponentError
from stepmesh.uuid7 import new_run_id
from stepmesh.worker import Worker
from stepmesh_broker.memory import MemoryBroker, MemoryBus
from stepmesh_broker.protocol import codec
from stepmesh_broker.protocol.ids import Namespace, Partition, Pool, Position, RunId
from stepmesh_broker.protocol.messages import FORMAT, Result, Results, Task, TaskFrame

__all__ = ["call", "env", "fixtures", "replay"]
_POOL, _NAMESPACE, _PARTITION = Pool("call"), Namespace("call"), Partition(0)


async def call(
    function: Callable[..., Any],
    input: Any = None,
    *,
    attempt: int = 1,
    step_id: str = "step",
    run_id: str | None = None,
    timeout_s: float = 0,
) -> Any:
    """The component's output, after a round trip through JSON. Raises `ComponentError` with the code, message and data of its failure.

    `timeout_s`: limit of the attempt in seconds, 0 = none.
    """
    worker = Worker(_POOL, namespace=_NAMESPACE)
    component = build(function)
    worker.add(component)
    run = RunId(run_id or new_run_id())
    task = Task(run, 0, 0, attempt, 1, step_id, component.path, payloads.write(input), timeout_ms=round(timeout_s * 1000))
    result = await _result(worker, TaskFrame(FORMAT, _NAMESPACE, _POOL, _PARTITION, 1, "call", [task]))
    if result.failure is not None:
        data = None if result.failure.data is None else msgspec.json.decode(result.failure.data)
        after = result.failure.retry_after_ms
        raise ComponentError(
            result.failure.message, code=result.failure.code, data=data, retry_after_s=None if after is None else after / 1000
        )
    return msgspec.json.decode(result.output or b"null")


async def _result(worker: Worker, frame: TaskFrame) -> Result:
    broker = MemoryBroker(MemoryBus(), _NAMESPACE)
    await broker.connect()
    await broker.publish_tasks(_POOL, codec.encode(frame), "task")
    inbox = await broker.inbox(_PARTITION, Position(0))
    running = asyncio.create_task(worker.run(broker))
    try:
        while not (entries := await inbox.fetch(1, 60.0)):
            if running.done():
                break
    finally:
        worker.stop()
        await running
        await broker.close()
    message = codec.decode_inbox(entries[0].data)
    assert isinstance(message, Results)
    return message.results[0]
