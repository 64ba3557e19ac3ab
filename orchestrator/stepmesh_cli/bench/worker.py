"""The benchmark's component: an ordinary `async def` that does nothing, so that what is measured is everything else."""

from __future__ import annotations

from typing import Any

from stepmesh import Worker


def make_worker(namespace: str | None = None) -> Worker:
    """A worker of pool `bench`."""
    worker = Worker(pool="bench", namespace=namespace)

    @worker.component
    async def noop(value: Any) -> Any:
        return value

    return worker


worker = make_worker()
