"""A deployment in this process over a real Kafka journal that takes a snapshot every few turns, and forgets what nobody needs at once."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from tests.integration.projector.following import PATIENCE_S, Where
from tests.unit.projector.recorded import ReadModel, read_model

from stepmesh.client import Client
from stepmesh_broker.protocol.ids import Partition
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_cli.projection import Projection
from stepmesh_orchestrator.config import parse_config
from stepmesh_orchestrator.journal.kafka import KafkaJournal
from stepmesh_orchestrator.runtime import shard

FLOW = {"name": "load", "steps": [{"id": "a", "component": "/builtin/noop", "input": {"$input": "$"}}], "output": {"$step": "a"}}
PARTITIONS = 2
ALL = [Partition(number) for number in range(PARTITIONS)]
SNAPSHOT_BYTES = 2_000
AT_ONCE = "limits: {retentionHours: 0.0000001}"


class Trimming:
    """`submitted`: run ids. `client` submits and does not wait for what others write."""

    def __init__(self, deployment: Deployment, client: Client, where: Where) -> None:
        self._deployment = deployment
        self._client = client
        self._where = where
        self.submitted: list[str] = []

    @property
    def journal(self) -> KafkaJournal:
        found = self._deployment.node.ports.journal
        assert isinstance(found, KafkaJournal)
        return found

    async def load(self, count: int) -> None:
        """So many more runs, and all of them ended."""
        for number in range(count):
            self.submitted.append((await self._client.submit(FLOW, [number])).id)
        await self.until(self._is_idle)

    async def trimmed(self) -> list[int]:
        return [await self.journal.trimmed(partition) for partition in ALL]

    async def snapshots(self) -> list[list[int]]:
        """Of each partition, newest first."""
        return [[one.sequence for one in await self.journal.snapshots(partition)] for partition in ALL]

    async def checkpoints(self) -> list[int]:
        found = [await self._where.keeper.load(partition) for partition in ALL]
        return [0 if checkpoint is None else checkpoint.sequence for checkpoint in found]

    def sequences(self) -> list[int]:
        """Of the last frames."""
        return [self._deployment.node.partitions[partition].shard.sequence for partition in ALL]

    async def is_projected(self) -> bool:
        stored = [await self._where.store.projected(partition) for partition in ALL]
        return all(there >= last for there, last in zip(stored, self.sequences(), strict=True))

    async def is_settled(self) -> bool:
        return all(kept >= last for kept, last in zip(await self.checkpoints(), self.sequences(), strict=True))

    async def read_model(self) -> ReadModel:
        return await read_model(self._where.store, self._where.namespace)

    async def is_complete(self) -> None:
        """Every run that was submitted is in the read model, ended, with its result."""
        found = {run.run: (run.status, len(items)) for run, items in await self.read_model()}
        assert found == dict.fromkeys(self.submitted, ("completed", 1))

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not await holds():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)

    async def _is_idle(self) -> bool:
        return not any(self._deployment.node.partitions[partition].shard.session.state.runs for partition in ALL)


@asynccontextmanager
async def trimming(where: Where, monkeypatch: pytest.MonkeyPatch, projection: Projection = "external") -> AsyncGenerator[Trimming]:
    """Started."""
    monkeypatch.setattr(shard, "SNAPSHOT_BYTES", SNAPSHOT_BYTES)
    settings = DeploymentSettings(
        broker="memory", journal=where.kafka, store=where.postgres, namespace=where.namespace, partitions=PARTITIONS,
        projection=projection, config=parse_config(AT_ONCE, {})[0],
    )  # fmt: skip
    async with Deployment(settings) as deployment:
        yield Trimming(deployment, await deployment.client(), where)


async def counted(where: Where) -> int:
    """Runs that ended, as `stepmesh stats` has them."""
    command = [sys.executable, "-m", "stepmesh_cli", "stats", "--store", where.postgres, "--namespace", where.namespace]
    shown = await asyncio.to_thread(subprocess.run, [*command, "--by", "flow", "--json"], capture_output=True, check=True)
    (flow,) = [json.loads(line) for line in shown.stdout.splitlines()]
    assert flow["name"] == FLOW["name"]
    return int(flow["counts"]["runs_completed"])
