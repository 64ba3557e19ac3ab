"""Every backend of the Membership port, by name; each makes one deployment of its own for one test.

A further backend is one line in `BACKENDS`: how a member connects to the deployment (`Cluster.connect` calls it once per member,
unopened), and the shortest time to live that the backend keeps.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from stepmesh_broker.protocol.ids import Namespace
from stepmesh_orchestrator.clock import VirtualClock
from stepmesh_orchestrator.membership import MemoryMembership, SqliteMembership
from stepmesh_orchestrator.membership.jetstream import JetStreamMembership
from stepmesh_orchestrator.membership.kafka import KafkaMembership
from stepmesh_orchestrator.membership.postgres import PostgresMembership
from stepmesh_orchestrator.membership.redis import RedisMembership
from stepmesh_orchestrator.ports import Membership

PATIENCE_S = 20.0
LOOK_EVERY_S = 0.05


@dataclass
class Cluster:
    """One deployment. `short_s`: a time to live that a test may wait for. `clock`: None where time is real."""

    make: Callable[[], Membership]
    short_s: float = 0.3
    clock: VirtualClock | None = None
    opened: list[Membership] = field(default_factory=list[Membership])

    async def connect(self) -> Membership:
        """One more member's own connection, open."""
        membership = self.make()
        await membership.open()
        self.opened.append(membership)
        return membership

    def now(self) -> float:
        """Seconds."""
        return time.monotonic() if self.clock is None else self.clock.monotonic()

    async def pass_time(self, seconds: float) -> None:
        """At least that long."""
        if self.clock is None:
            await asyncio.sleep(seconds)
        else:
            await self.clock.advance(seconds)

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Wait for something that becomes true by itself."""
        end = self.now() + PATIENCE_S
        while not await holds():
            assert self.now() < end, "it did not become true"
            await self.pass_time(LOOK_EVERY_S)

    async def close(self) -> None:
        """Every connection."""
        for membership in self.opened:
            await membership.close()


def _memory() -> Cluster:
    clock = VirtualClock()
    shared = MemoryMembership(clock)
    return Cluster(lambda: shared, clock=clock)


def _sqlite(folder: Path) -> Cluster:
    return Cluster(lambda: SqliteMembership(folder / "data" / "members.db"))


def _server(request: pytest.FixtureRequest, fixture: str, kind: Callable[[str, Namespace], Membership]) -> Cluster:
    url, namespace = request.getfixturevalue(fixture), Namespace(f"t{uuid.uuid4().hex[:12]}")
    return Cluster(lambda: kind(url, namespace))


BACKENDS: dict[str, Callable[[pytest.FixtureRequest], Cluster]] = {
    "memory": lambda request: _memory(),
    "sqlite": lambda request: _sqlite(request.getfixturevalue("tmp_path")),
    "postgres": lambda request: _server(request, "postgres_url", PostgresMembership),
    "redis": lambda request: _server(request, "redis_url", RedisMembership),
    "jetstream": lambda request: _server(request, "nats_url", JetStreamMembership),
    "jetstream-cluster": lambda request: _server(request, "nats_cluster_url", JetStreamMembership),
    "kafka": lambda request: _server(request, "kafka_url", KafkaMembership),
    "kafka-cluster": lambda request: _server(request, "kafka_cluster_url", KafkaMembership),
}
