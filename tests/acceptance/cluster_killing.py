"""Everything of a cluster is killed, stopped or wiped while a batch of runs goes on, and started again as a supervisor would. For tests.

Seeded: every kind comes once before any comes twice, in an order by the seed, at moments that depend on the machine.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from random import Random

from tests.acceptance.backends import Backends
from tests.acceptance.cluster import ClusterLab
from tests.acceptance.killing import DRAIN_S, Batch, explained
from tests.acceptance.processes import Process, until

from stepmesh_orchestrator.runtime.leases import LEASE_MS
from stepmesh_orchestrator.runtime.sharing import TTL_S

BEYOND_S = 1.5
"""Somebody who stands still wakes so long after the lease was over."""
LOOK_S = 0.05
PROGRESS = 5
"""So many runs end between some strokes, or it is a failure."""
PROGRESS_S = 120.0


class Disaster:
    """`servers`: those that `lab` is on. `finished`: how many runs are over. `kinds`: of strokes, all by default."""

    def __init__(
        self, lab: ClusterLab, servers: Backends, random: Random, finished: Callable[[], int], kinds: Sequence[str] | None = None
    ) -> None:
        self.lab = lab
        self.finished = finished
        self.servers = servers
        self.random = random
        self.done: Counter[str] = Counter()
        self.kinds: dict[str, Callable[[], Coroutine[None, None, None]]] = {
            "orchestrator": self._orchestrator,
            "worker": self._worker,
            "broker": self._broker,
            "postgres": self._postgres,
            "power": self._power,
            "frozen orchestrator": self._frozen_orchestrator,
            "frozen worker": self._frozen_worker,
        }
        if servers.may_be_wiped:
            self.kinds["wiped broker"] = self._wiped_broker
        if kinds is not None:
            self.kinds = {kind: self.kinds[kind] for kind in kinds}
        self._servers_change = asyncio.Lock()
        self._killed: set[int] = set()
        self._thawing: list[asyncio.Task[None]] = []

    async def rounds(self, count: int) -> None:
        """Most come while the last victim still recovers; every third waits for progress."""
        async with asyncio.TaskGroup() as group:
            supervising = group.create_task(self._supervise())
            order = self._order()
            for number in range(count):
                await asyncio.sleep(self.random.uniform(0.0, 1.5))
                if number % 3 == 0:
                    await self._progress()
                kind = next(order)
                self.done[kind] += 1
                await self.kinds[kind]()
            await asyncio.gather(*self._thawing)
            await self._all_run()
            supervising.cancel()

    async def _progress(self) -> None:
        wanted = self.finished() + PROGRESS
        await until(f"{PROGRESS} runs are over after {dict(self.done)}", lambda: self.finished() >= wanted, PROGRESS_S)

    def _order(self) -> Iterator[str]:
        while True:
            kinds = list(self.kinds)
            self.random.shuffle(kinds)
            yield from kinds

    # --- kinds --------------------------------------------------------------------------------------------------

    async def _orchestrator(self) -> None:
        self._kill(self.random.choice(self.lab.nodes))

    async def _worker(self) -> None:
        self._kill(self.random.choice(self.lab.workers))

    async def _broker(self) -> None:
        """One of its servers."""
        number = self.random.randrange(self.servers.count)
        await self._change(lambda: self.servers.broker.kill(number), lambda: self.servers.broker.restart(number))

    async def _postgres(self) -> None:
        await self._change(self.servers.postgres.kill, self.servers.postgres.start)

    async def _wiped_broker(self) -> None:
        def lose() -> None:
            self.servers.kill_broker()
            self.servers.wipe_broker()

        await self._change(lose, self.servers.broker.start)

    async def _power(self) -> None:
        """All at once; disks keep what was written."""

        def cut() -> None:
            for process in (*self.lab.nodes, *self.lab.workers):
                self._kill(process)
            self.servers.kill_broker()
            self.servers.postgres.kill()

        def come_back() -> None:
            self.servers.postgres.start()
            self.servers.broker.start()

        await self._change(cut, come_back)

    async def _frozen_orchestrator(self) -> None:
        self._freeze(self.random.choice(self.lab.nodes), TTL_S + BEYOND_S)

    async def _frozen_worker(self) -> None:
        self._freeze(self.random.choice(self.lab.workers), LEASE_MS / 1000 + BEYOND_S)

    def _kill(self, process: Process) -> None:
        self._killed.add(process.pid)
        process.kill()

    def _freeze(self, process: Process, seconds: float) -> None:
        async def thaw() -> None:
            await asyncio.sleep(seconds)
            process.send(signal.SIGCONT)

        self.lab.is_late = True
        process.send(signal.SIGSTOP)
        self._thawing.append(asyncio.create_task(thaw()))

    async def _change(self, lose: Callable[[], None], come_back: Callable[[], None]) -> None:
        """One change of the servers at a time."""
        async with self._servers_change:
            lose()
            await asyncio.to_thread(come_back)

    # --- the supervisor -----------------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        """Whoever ended is started again. By itself only somebody may end who could not begin, because servers were away."""
        while True:
            for index, worker in enumerate(self.lab.workers):
                if not worker.alive:
                    self._excuse(worker, began=any(pid == worker.pid for *_, pid, _ in self.lab.executions()))
                    self.lab.restart_cluster_worker(index)
            for node in [node for node in self.lab.nodes if not node.alive]:
                self._excuse(node, began='"ready"' in node.output())
                self.lab.nodes.remove(node)
                self.lab.start_node()
            await asyncio.sleep(LOOK_S)

    def _excuse(self, process: Process, *, began: bool) -> None:
        assert process.pid in self._killed or not began, f"{process.name} ended by itself:\n{process.output()[-4000:]}"

    async def _all_run(self) -> None:
        async with asyncio.timeout(DRAIN_S):
            while not self._is_whole():
                await asyncio.sleep(LOOK_S)

    def _is_whole(self) -> bool:
        nodes, workers = self.lab.nodes, self.lab.workers
        return all(node.alive and '"ready"' in node.output() for node in nodes) and all(worker.alive for worker in workers)


async def destroyed_at_random(lab: ClusterLab, servers: Backends, rounds: int, seed: int, kinds: Sequence[str] | None = None) -> None:
    """Run the batch on a cluster that was started, strike as often as asked, and hold the oracle against what is left."""
    random, began, since = Random(seed), time.monotonic(), time.time()
    batch, disaster = Batch(lab, random), Disaster(lab, servers, random, lambda: batch.finished, kinds)
    busy = asyncio.create_task(batch.keep_busy())
    striking = asyncio.create_task(disaster.rounds(rounds))
    await asyncio.wait((busy, striking), return_when=asyncio.FIRST_COMPLETED)
    if busy.done():
        busy.result()
    striking.result()
    struck_s, ended = time.monotonic() - began, time.time()
    batch.stopping.set()
    try:
        await asyncio.wait_for(busy, DRAIN_S)
    except TimeoutError:
        raise AssertionError(await explained(lab, lab.nodes)) from None
    over_s = time.monotonic() - began
    stall, partition = await lab.longest_stall(since, ended)
    story = await lab.audited(batch.accepted)
    print(
        f"\n{servers.backend}: {dict(disaster.done)} in {struck_s:.0f} s, all over after {over_s:.0f} s; runs {batch.finished}"
        f" ({batch.cancelled} cancelled), {len(story.created)} with sub-runs, {story.frames} frames, {len(lab.executions())} ledger lines;"
        f" slowest run {batch.slowest_s:.1f} s, longest stall {stall:.1f} s of partition {partition}"
    )
    assert batch.finished >= rounds
