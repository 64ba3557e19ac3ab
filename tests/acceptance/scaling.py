"""A pool whose workers go from one to eight and back while tasks flow: what each second brought, and the longest time without a start."""

from __future__ import annotations

import itertools
import signal
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tests.acceptance.cluster import ClusterLab
from tests.acceptance.processes import Process, until

from stepmesh.runs import RunHandle

NAP_S = 0.02
"""What a task takes. It computes nothing, so that eight workers have eight times the room on any machine."""
ITEMS = 1_000
"""Of one run."""
MOST = 8
FLOW: dict[str, Any] = {
    "name": "naps",
    "steps": [{"id": "nap", "component": "/cpu/slow", "input": {"$input": "$"}}],
    "output": {"$step": "nap"},
}


@dataclass(frozen=True)
class Phase:
    """Between two moments (ms since 1970), with so many workers."""

    workers: int
    begin_ms: int
    end_ms: int


@dataclass(frozen=True)
class Scaled:
    """What the workers' ledger tells. `rates`: tasks/s by phase; `stall_ms`: the longest time in which no task was begun; `shares`: tasks
    by worker process; `again`: tasks that were begun more than once."""

    rates: list[tuple[int, float]]
    stall_ms: int
    shares: Counter[int]
    again: int

    def __str__(self) -> str:
        """A line for people."""
        rates = ", ".join(f"{workers} → {rate:,.0f} tasks/s" for workers, rate in self.rates)
        return f"workers {rates}; longest stall {self.stall_ms} ms; begun twice: {self.again}; shares {sorted(self.shares.values())}"


class Scaling:
    """`tasks`, in runs of `ITEMS` items, over a lab with one worker."""

    def __init__(self, lab: ClusterLab, tasks: int) -> None:
        self._lab = lab
        self._tasks = tasks
        self._phases: list[Phase] = []
        self._done = 0
        self._since_ms = 0
        self.handles: list[RunHandle] = []

    async def run(self) -> Scaled:
        """One worker until a fifth of the tasks is begun, eight until three fifths are, then one."""
        client = await self._lab.connected()
        flow = await client.store_flow(FLOW)
        for _ in range(self._tasks // ITEMS):
            self.handles.append(await client.submit(flow, [{"seconds": NAP_S}] * ITEMS, max_concurrency=0))
        await self._phase(1, self._tasks // 5)
        for _ in range(MOST - 1):
            self._lab.start_cluster_worker()
        await self._all_work()
        await self._phase(MOST, self._tasks * 3 // 5)
        await self._drain(self._lab.workers[1:])
        await self._phase(1, self._tasks)
        for handle in self.handles:
            await handle.wait(timeout=120)
        return self._told()

    async def _all_work(self) -> None:
        """Those that have just come."""
        pids = {worker.pid for worker in self._lab.workers}
        await until("all workers work", lambda: pids <= {pid for kind, *_, pid, _ in self._lab.executions() if kind == "start"}, 60.0)
        self._mark()

    async def _drain(self, workers: list[Process]) -> None:
        for worker in workers:
            worker.send(signal.SIGTERM)
        for worker in workers:
            assert await worker.ended() == 0, worker.output()[-3000:]
            self._lab.workers.remove(worker)
        self._mark()

    def _mark(self) -> None:
        """The next phase begins now."""
        executions = self._lab.executions()
        self._done, self._since_ms = len(executions), executions[-1][-1]

    async def _phase(self, workers: int, tasks: int) -> None:
        if not self._phases:
            await until("the first task", lambda: self._lab.executions(), 60.0)
            self._mark()
        await until(f"{tasks} tasks", lambda: len(self._lab.executions()) >= 2 * tasks, 300.0)
        self._phases.append(Phase(workers, self._since_ms, self._lab.executions()[-1][-1]))

    def _told(self) -> Scaled:
        executions = self._lab.executions()
        starts = [(run, item, step, attempt, pid, at_ms) for kind, run, item, step, attempt, pid, at_ms in executions if kind == "start"]
        begun = Counter((run, item, step) for run, item, step, *_ in starts)
        times = sorted(at_ms for *_, at_ms in starts)
        rates = [
            (phase.workers, 1000 * sum(phase.begin_ms < at <= phase.end_ms for at in times) / max(1, phase.end_ms - phase.begin_ms))
            for phase in self._phases
        ]
        stall_ms = max(later - earlier for earlier, later in itertools.pairwise(times))
        return Scaled(rates, stall_ms, Counter(pid for *_, pid, _ in starts), sum(count > 1 for count in begun.values()))
