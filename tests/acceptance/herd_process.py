"""Many workers in one process, each on a connection of its own: `herd_process.py COUNT URL NAMESPACE`, until SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

from stepmesh import Worker, endpoint


def made(namespace: str) -> Worker:
    """One of them."""
    worker = Worker(pool="cpu", namespace=namespace, concurrency=4)

    @worker.component
    async def echo(value: Any) -> Any:
        return value

    return worker


async def main(count: int, url: str, namespace: str) -> None:
    """All of them."""
    workers = [made(namespace) for _ in range(count)]
    loop = asyncio.get_running_loop()
    for worker in workers:
        loop.add_signal_handler(signal.SIGTERM, lambda: [worker.stop() for worker in workers])
    brokers = [endpoint.broker(url, namespace) for _ in workers]
    await asyncio.gather(*(broker.connect() for broker in brokers))
    await asyncio.gather(*(worker.run(broker) for worker, broker in zip(workers, brokers, strict=True)))
    await asyncio.gather(*(broker.close() for broker in brokers))


asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
