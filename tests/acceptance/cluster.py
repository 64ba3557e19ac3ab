"""Orchestrators that share partitions, as processes over one nats-server and the same SQLite files, under a steady load. For tests."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.acceptance.processes import HERE, Lab, Process, until

from stepmesh.client import Client
from stepmesh_broker.protocol.ids import RunId
from stepmesh_orchestrator.core.events import decode_turn

PARTITIONS = 8
WANTED_STALL_S = 3.0
FLOW: dict[str, Any] = {
    "name": "steady",
    "steps": [
        {"id": "a", "component": "/cpu/echo", "input": {"$input": "n"}},
        {"id": "b", "component": "/cpu/echo", "input": {"$step": "a"}},
    ],
    "output": {"$step": "b"},
}


class ClusterLab(Lab):
    """`async with ClusterLab(folder, url, namespace) as lab:`."""

    def __init__(self, folder: Path, url: str, namespace: str) -> None:
        super().__init__(folder, environment={"STEPMESH_URL": url, "STEPMESH_NAMESPACE": namespace})
        self.url = url
        self.namespace = namespace
        self.nodes: list[Process] = []
        self._started = 0

    def start_node(self) -> Process:
        """One more orchestrator; `ready` waits."""
        self._started += 1
        node = self.spawn(
            f"node{self._started}", *self.launcher, "orchestrator", "--broker", self.url, "--journal", f"sqlite:{self.data}/journal.db",
            "--partitions", str(PARTITIONS), "--namespace", self.namespace, "--config", str(self._config), "--json",
        )  # fmt: skip
        self.nodes.append(node)
        return node

    def start_cluster_worker(self) -> Process:
        """A worker on the broker."""
        worker = self.spawn(f"worker{len(self.workers)}", *self.launcher, "worker", str(HERE / "ledger_worker.py"), "--url", self.url)
        self.workers.append(worker)
        return worker

    async def ready(self, node: Process) -> None:
        """Until it said so."""
        await until(f"{node.name} is ready: {node.output()}", lambda: '"ready"' in node.output() or not node.alive, 60.0)
        assert node.alive, node.output()

    async def stand_still(self, node: Process) -> None:
        """SIGSTOP, at a moment in which it holds none of the files' locks: whoever stands still with one holds up all who write there."""
        while True:
            node.send(signal.SIGSTOP)
            if all(self._can_be_written(name) for name in ("journal.db", "store.db", "members.db")):
                return
            node.send(signal.SIGCONT)
            await asyncio.sleep(0.01)

    def _can_be_written(self, name: str) -> bool:
        with closing(sqlite3.connect(self.data / name, timeout=1.0, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            connection.execute("ROLLBACK")
        return True

    async def shared(self, nodes: int) -> None:
        """Until so many hold fair shares of all partitions, for a while."""
        await until(f"{nodes} nodes share", lambda: self._is_shared(nodes), 60.0)

    def _is_shared(self, nodes: int) -> bool:
        with closing(sqlite3.connect(self.data / "members.db", timeout=10)) as connection:
            rows = connection.execute("SELECT node, count(*) FROM leases GROUP BY node").fetchall()
        shares = [count for _, count in rows]
        return len(shares) == nodes and sum(shares) == PARTITIONS and max(shares) - min(shares) <= 1

    async def connected(self) -> Client:
        """A client on a connection of its own."""
        client = await Client.connect(self.url, self.namespace, patience_s=60.0)
        self._clients.append(client)
        return client

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

    def longest_stall(self, begin: float, end: float) -> tuple[float, int]:
        """Seconds that some partition journaled nothing between two times (s since 1970), and which one. The load never pauses."""
        times: dict[int, list[float]] = {partition: [] for partition in range(PARTITIONS)}
        with closing(sqlite3.connect(self.data / "journal.db", timeout=10)) as connection:
            for partition, payload in connection.execute("SELECT partition, payload FROM frames ORDER BY partition, sequence"):
                turn = decode_turn(payload)
                if turn.events:
                    times[partition].append(turn.at_ms / 1000)
        gaps = [
            (later - earlier, partition)
            for partition, marks in times.items()
            for earlier, later in itertools.pairwise([begin, *(mark for mark in marks if begin < mark < end), end])
        ]
        return max(gaps)


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
