"""Orchestrators that share partitions, as processes over real servers, under a steady load. For tests."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import sqlite3
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.audit import Story, check_recorded, executed_again, told
from tests.acceptance.pairs import Pair
from tests.acceptance.processes import HERE, Lab, Process, until

from stepmesh.client import Client
from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.protocol.ids import Partition, RunId
from stepmesh_cli.storage import Storage, StorageSettings, storage_of
from stepmesh_orchestrator.core.events import decode_turn
from stepmesh_orchestrator.ports import Journal, Member

PARTITIONS = 8
WANTED_STALL_S = 3.0
WATCHED_S = 0.5
"""A sign of life of whoever only looks at the leases."""
FLOW: dict[str, Any] = {
    "name": "steady",
    "steps": [
        {"id": "a", "component": "/cpu/echo", "input": {"$input": "n"}},
        {"id": "b", "component": "/cpu/echo", "input": {"$step": "a"}},
    ],
    "output": {"$step": "b"},
}


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Where a cluster's parts are, as flags name them. `journal`: a URL, `broker`, or `sqlite:PATH`."""

    broker: str
    journal: str
    store: str
    namespace: str = field(default_factory=lambda: f"t{uuid.uuid4().hex[:12]}")
    partitions: int = PARTITIONS

    @property
    def flags(self) -> tuple[str, ...]:
        """Of `stepmesh orchestrator`."""
        where = ("--broker", self.broker, "--journal", self.journal, "--store", self.store)
        return (*where, "--namespace", self.namespace, "--partitions", str(self.partitions))

    def storage(self) -> Storage:
        """Journal, store and membership of its own, not opened."""
        settings = StorageSettings(
            journal=self.journal,
            store=self.store,
            namespace=self.namespace,
            partitions=self.partitions,
            broker=self.broker,
            shared=True,
        )
        return storage_of(settings, Path)


def deployment_of(pair: Pair, request: pytest.FixtureRequest, folder: Path) -> Deployment:
    """On the run's servers, in a namespace of its own. The store is PostgreSQL, or a file where the journal is one."""
    broker, journal = pair.addresses(request)
    data = folder / "data"
    data.mkdir(exist_ok=True)
    store = f"sqlite:{data / 'store.db'}" if journal == "sqlite" else request.getfixturevalue("postgres_url")
    return Deployment(broker=broker, journal=pair.journal_in(data, journal), store=store)


class ClusterLab(Lab):
    """`async with ClusterLab(folder, deployment) as lab:`."""

    def __init__(self, folder: Path, deployment: Deployment) -> None:
        super().__init__(folder, environment={"STEPMESH_URL": deployment.broker, "STEPMESH_NAMESPACE": deployment.namespace})
        self.deployment = deployment
        self.nodes: list[Process] = []
        self._started = 0
        self.is_late = deployment.broker.startswith("kafka")
        """Whether tasks may come late, so that code may run once more after its result was recorded: on Kafka the next consumer knows what
        the last one did only after its commit; who stood still then sends what it was about to send, and messages may be held up."""

    async def start(self, nodes: int = 3, workers: int = 2) -> None:
        """All of it; returns once the partitions are shared."""
        for _ in range(nodes):
            self.start_node()
        for node in self.nodes:
            await self.ready(node)
        for _ in range(workers):
            self.start_cluster_worker()
        await self.shared(nodes)

    def start_node(self) -> Process:
        """One more orchestrator; `ready` waits."""
        self._started += 1
        arguments = ("orchestrator", *self.deployment.flags, "--config", str(self._config), "--json")
        node = self.spawn(f"node{self._started}", *self.launcher, *arguments)
        self.nodes.append(node)
        return node

    def start_cluster_worker(self) -> Process:
        """A worker on the broker."""
        self.workers.append(self._spawn_cluster_worker(len(self.workers)))
        return self.workers[-1]

    def restart_cluster_worker(self, index: int) -> None:
        """A new process in the place of a dead one."""
        self.workers[index] = self._spawn_cluster_worker(index)

    def _spawn_cluster_worker(self, index: int) -> Process:
        arguments = ("worker", str(HERE / "ledger_worker.py"), "--url", self.deployment.broker)
        return self.spawn(f"worker{index}", *self.launcher, *arguments)

    async def ready(self, node: Process) -> None:
        """Until it said so."""
        await until(f"{node.name} is ready: {node.output()}", lambda: '"ready"' in node.output() or not node.alive, 60.0)
        assert node.alive, node.output()

    async def stand_still(self, node: Process) -> None:
        """SIGSTOP, at a moment in which it holds no lock on files: whoever stands still with one holds up all who write there."""
        self.is_late = True
        while True:
            node.send(signal.SIGSTOP)
            if all(_can_be_written(file) for file in self.data.glob("*.db")):
                return
            node.send(signal.SIGCONT)
            await asyncio.sleep(0.01)

    async def shared(self, nodes: int) -> None:
        """Until so many hold fair shares of all partitions."""
        membership = self.deployment.storage().membership
        assert membership is not None
        await membership.open()
        watcher = Member(f"watcher-{uuid.uuid4().hex}", "", leaving=True)
        try:
            async with asyncio.timeout(60):
                while not self._is_shared(nodes, (await membership.beat(watcher, WATCHED_S)).leases):
                    await asyncio.sleep(0.05)
            await membership.leave(watcher.node)
        finally:
            await membership.close()

    def _is_shared(self, nodes: int, leases: Mapping[Partition, str]) -> bool:
        shares = Counter(leases.values()).values()
        return len(shares) == nodes and sum(shares) == self.deployment.partitions and max(shares) - min(shares) <= 1

    async def connected(self) -> Client:
        """A client on a connection of its own."""
        return await self.client(60.0)

    async def _connected(self, patience_s: float) -> Client | None:
        try:
            return await Client.connect(self.deployment.broker, self.deployment.namespace, patience_s=patience_s)
        except BrokerUnavailable:
            return None

    async def stop_all(self) -> None:
        """Workers, then orchestrators."""
        for process in self.workers:
            process.send(signal.SIGTERM)
        for process in self.workers:
            assert await process.ended() == 0, process.output()[-3000:]
        for node in [node for node in self.nodes if node.alive]:
            await self.stop_node(node)

    async def stop_node(self, node: Process) -> None:
        """SIGTERM: it hands everything over."""
        node.send(signal.SIGTERM)
        assert await node.ended(60.0) == 0, node.output()[-3000:]
        self.nodes.remove(node)

    async def story(self) -> Story:
        """What the journal tells, for the oracle."""
        storage = self.deployment.storage()
        return await told(storage.journal, storage.store)

    async def audited(self, accepted: set[RunId]) -> Story:
        """Stop all of it, and hold the oracle against what is left."""
        await self.stop_all()
        story = await self.story()
        check_recorded(story, accepted)
        again = executed_again(story, self.executions())
        print(f"\n{len(again)} executions began after the outcome was recorded")
        assert not again or self.is_late, again
        return story

    async def longest_stall(self, begin: float, end: float) -> tuple[float, int]:
        """Seconds that some partition journaled nothing between two times (s since 1970), and which one. The load never pauses."""
        journal = self.deployment.storage().journal
        await journal.open()
        try:
            gaps = [
                (later - earlier, partition)
                for partition in range(self.deployment.partitions)
                for earlier, later in itertools.pairwise([begin, *(await _busy_at(journal, Partition(partition), begin, end)), end])
            ]
        finally:
            await journal.close()
        return max(gaps)


async def _busy_at(journal: Journal, partition: Partition, begin: float, end: float) -> list[float]:
    """When it journaled turns with events."""
    turns = [decode_turn(frame.payload) async for frame in journal.read(partition)]
    return [turn.at_ms / 1000 for turn in turns if turn.events and begin < turn.at_ms / 1000 < end]


def _can_be_written(file: Path) -> bool:
    with closing(sqlite3.connect(file, timeout=1.0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        connection.execute("ROLLBACK")
    return True


class SteadyLoad:
    """`lanes` clients' worth of runs, one after the other in each, so that every partition always has something to do."""

    def __init__(self, lab: ClusterLab, lanes: int = 24) -> None:
        self.lab = lab
        self.lanes = lanes
        self.accepted: set[RunId] = set()
        self.slowest_s = 0.0
        self.slowest = ""
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._client = await self.lab.connected()
        self._flow = await self._client.store_flow(FLOW)
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        await asyncio.gather(*(self._lane(lane) for lane in range(self.lanes)))

    async def _lane(self, lane: int) -> None:
        count = 0
        while not self._stopping:
            number = lane * 1_000_000 + count
            count += 1
            began = time.monotonic()
            handle = await self._client.submit(self._flow, [{"n": number}])
            self.accepted.add(handle.id)
            accepted = time.monotonic()
            info = await handle.wait(timeout=120)
            assert info.summary.status == "completed", info
            results = [json.loads(item.result) async for item in handle.items()]
            assert results == [{"outcome": "success", "result": number}]
            took = time.monotonic() - began
            if took > self.slowest_s:
                self.slowest_s, self.slowest = (
                    took,
                    f"{handle.id}: accepted after {accepted - began:.2f} s, seen to be over after {took:.2f} s",
                )

    @property
    def runs(self) -> int:
        return len(self.accepted)

    async def go_on(self, runs: int) -> None:
        """Until so many more were accepted."""
        wanted = self.runs + runs
        assert self._task is not None
        await until(f"{runs} more runs", lambda: self.runs >= wanted or self._failed(), 120.0)
        if self._task.done():
            self._task.result()

    def _failed(self) -> bool:
        return self._task is not None and self._task.done()

    async def ended(self) -> None:
        """Until all that was accepted is over."""
        self._stopping = True
        assert self._task is not None
        await asyncio.wait_for(self._task, 180)
