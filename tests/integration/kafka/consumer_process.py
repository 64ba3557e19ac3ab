"""A consumer that takes frames and does nothing with them, until it is killed:
`python consumer_process.py URL NAMESPACE POOL FRAMES [INSTANCE]`."""

from __future__ import annotations

import asyncio
import sys

from stepmesh_broker.kafka import KafkaBroker, KafkaSettings
from stepmesh_broker.protocol.ids import Namespace, Pool

SESSION_S = 60.0
"""Of an instance with a name: longer than any test waits."""


async def main(url: str, namespace: str, pool: str, frames: int, instance: str = "") -> None:
    """Prints each frame that it took."""
    session_s = SESSION_S if instance else 3.0
    broker = KafkaBroker(KafkaSettings.parse(url, Namespace(namespace), pool_partitions=4, instance=instance, session_s=session_s))
    await broker.connect()
    source = await broker.tasks(Pool(pool))
    print("joined", flush=True)
    taken = 0
    while taken < frames:
        page = await source.fetch(frames, 1.0)
        taken += len(page)
        for delivery in page:
            print(delivery.data.decode(), flush=True)
    while (await broker.depth(Pool(pool))).in_flight < taken:  # until its group knows
        await asyncio.sleep(0.05)
    print("holds", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), *sys.argv[5:]))
