"""Journals in logs over servers of a test's own, which it may kill."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from tests.services.kafka import KafkaServers
from tests.services.nats import NatsServers

from stepmesh_broker.protocol.ids import Namespace, Partition
from stepmesh_orchestrator.journal.jetstream import JetStreamJournal
from stepmesh_orchestrator.journal.kafka import KafkaJournal
from stepmesh_orchestrator.ports import Journal, JournalError

P = Partition(3)
QUICK = ("broker.session.timeout.ms=2000", "broker.heartbeat.interval.ms=300")
"""A dead broker is noticed by the others after two seconds, not nine."""


class Servers(Protocol):
    """One or three."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def kill(self, number: int) -> None: ...

    def restart(self, number: int) -> None: ...


class Deployment:
    """Servers and a namespace in them."""

    def __init__(self, servers: Servers, make: Callable[[], Journal]) -> None:
        self.servers = servers
        self._make = make

    @asynccontextmanager
    async def journal(self) -> AsyncIterator[Journal]:
        """One more process's journal."""
        journal = self._make()
        await journal.open()
        try:
            yield journal
        finally:
            await journal.close()


def deployment(kind: str, folder: Path, servers: int) -> Deployment:
    """Of `kafka` or `jetstream`; started."""
    namespace = Namespace(f"t{uuid.uuid4().hex[:12]}")
    made: Deployment
    if kind == "kafka":
        kafka = KafkaServers(folder, servers, QUICK)
        made = Deployment(kafka, lambda: KafkaJournal(kafka.url, namespace, 8))
    else:
        nats = NatsServers(folder, servers)
        made = Deployment(nats, lambda: JetStreamJournal(nats.url, namespace, servers))
    made.servers.start()
    return made


async def append_until(journal: Journal, stop: asyncio.Event, kept: list[bytes]) -> None:
    """As a shard does: append, and become the owner again after each failure. `kept` is what was acknowledged, in order."""
    while not stop.is_set():
        try:
            ownership = await journal.acquire(P, "owner")
            sequence = ownership.next_sequence
            while not stop.is_set():
                payload = b"frame %d of epoch %d" % (sequence, ownership.epoch)
                await journal.append(P, ownership.epoch, sequence, payload)
                kept.append(payload)
                sequence += 1
        except JournalError:
            await asyncio.sleep(0.05)


async def grown(kept: list[bytes], by: int) -> None:
    """Wait for so many more acknowledged frames."""
    wanted = len(kept) + by
    async with asyncio.timeout(60):
        while len(kept) < wanted:
            await asyncio.sleep(0.01)


async def payloads(journal: Journal) -> list[bytes]:
    """All of them; verified on the way."""
    return [frame.payload async for frame in journal.read(P)]
