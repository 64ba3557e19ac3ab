"""A batch of runs that goes on while processes are killed and started again, and the oracle over what they leave. For tests.

Seeded: the same seed kills the same kinds in the same order, at moments that depend on the machine.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from tests.acceptance.audit import check, read_story
from tests.acceptance.processes import Lab, Process, as_json

from stepmesh.runs import RunHandle
from stepmesh_broker.ending import cancelled
from stepmesh_broker.protocol.ids import RunId

LIVE_RUNS = 14
DRAIN_S = 120.0
VICTIMS = ("orchestrator",) * 5 + ("worker",) * 3 + ("nats",) * 2 + ("all",) * 2
"""What is killed, as often as it stands here before any of them is killed more often."""

FLOW: dict[str, Any] = {
    "name": "kill me",
    "steps": [
        {"id": "a", "component": "/cpu/echo", "input": {"$input": "n"}},
        {"id": "b", "component": "/cpu/flaky", "input": {"$step": "a"}, "onError": {"action": "retry", "maxRetries": 500}},
        {"id": "nap", "component": "/builtin/sleep", "input": {"duration": "300ms", "passthrough": {"$step": "a"}}},
        {
            "id": "m",
            "component": "/builtin/map",
            "input": {
                "items": [1, 2, {"$step": "nap"}],
                "workflow": {
                    "$literal": {"steps": [{"id": "x", "component": "/cpu/echo", "input": {"$input": "$"}}], "output": {"$step": "x"}}
                },
            },
        },
        {"id": "own", "component": "/builtin/eval", "input": {"flow": {"$input": "own"}, "input": {"$input": "n"}}},
        {"id": "d", "component": "/cpu/delegate", "input": {"$step": "nap"}},
        {"id": "s", "component": "/cpu/slow", "input": {"$step": "m", "path": "successful"}},
        {"id": "always", "component": "/cpu/cpu", "input": {"$step": "a"}, "mustExecute": True},
    ],
    "output": {
        "b": {"$step": "b"},
        "m": {"$step": "m", "path": "results"},
        "s": {"$step": "s"},
        "d": {"$step": "d"},
        "own": {"$step": "own", "path": "result"},
    },
}


def given(n: int) -> dict[str, Any]:
    """Every run brings a sub-flow of its own, so that it has to be stored and compiled while processes die."""
    step = {"id": f"own{n}", "component": "/cpu/echo", "input": {"$input": "$"}}
    return {"n": n, "own": {"steps": [step], "output": {"$step": f"own{n}"}}}


def expected(n: int) -> dict[str, Any]:
    items = [{"outcome": "success", "result": value} for value in (1, 2, n)]
    return {"b": "steady", "m": items, "s": 3, "d": {"delegated": n}, "own": {"outcome": "success", "result": n}}


class Batch:
    """Runs that are submitted while processes die: `LIVE_RUNS` at a time, one in eight cancelled on its way."""

    def __init__(self, lab: Lab, random: Random) -> None:
        self.lab = lab
        self.random = random
        self.accepted: set[RunId] = set()
        self.cancelled = 0
        self.finished = 0
        self.slowest_s = 0.0
        self.stopping = asyncio.Event()

    async def keep_busy(self) -> None:
        """Until `stopping`, then until every run that was begun ended."""
        client = await self.lab.client()
        await asyncio.gather(*(self._one_after_the_other(client, lane) for lane in range(LIVE_RUNS)))

    async def _one_after_the_other(self, client: Any, lane: int) -> None:
        count = 0
        while not self.stopping.is_set():
            n = lane * 100_000 + count
            count += 1
            began = time.monotonic()
            handle = await client.submit(FLOW, [given(n)], run_key=f"k{n}")
            self.accepted.add(handle.id)
            if self.random.random() < 0.125:
                await self._cancel(handle)
            else:
                await self._finish(handle, n)
            self.finished += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)

    async def _cancel(self, handle: RunHandle) -> None:
        await asyncio.sleep(self.random.uniform(0.0, 3.0))
        await handle.cancel("by the test")
        info = await handle.wait()
        assert info.summary.status in ("cancelled", "completed")
        self.cancelled += info.summary.status == "cancelled"

    async def _finish(self, handle: RunHandle, n: int) -> None:
        await handle.wait()
        results = [as_json(item.result) async for item in handle.items()]
        assert results == [{"outcome": "success", "result": expected(n)}]


class Killer:
    """Kills and restarts, by a seeded coin."""

    def __init__(self, lab: Lab, random: Random, victims: Sequence[str] = VICTIMS) -> None:
        self.lab = lab
        self.random = random
        self.victims = victims
        self.done: Counter[str] = Counter()

    def _order(self) -> Iterator[str]:
        while True:
            yield from self.random.sample(self.victims, len(self.victims))

    async def rounds(self, count: int) -> None:
        """Every eighth round leaves time for some progress; some come while the last victim still recovers."""
        order = self._order()
        for number in range(count):
            pause = (
                self.random.uniform(1.5, 3.0) if number % 8 == 7 else self.random.choice((0.05, 0.4, 0.9, 1.4)) * self.random.random() * 2
            )
            await asyncio.sleep(pause)
            victim = next(order)
            self.done[victim] += 1
            self.kill(victim)

    def kill(self, victim: str) -> None:
        lab = self.lab
        orchestrator = lab.orchestrator
        assert orchestrator is not None
        if victim == "nats":
            lab.kill_nats()
            return
        if victim == "all":
            lab.kill_nats()
        if victim in ("all", "orchestrator"):
            self.check_alive(orchestrator)
            orchestrator.kill()
        workers = self._doomed("worker", victim, lab.workers)
        gateways = self._doomed("gateway", victim, lab.gateways)
        for process in (*(lab.workers[index] for index in workers), *(lab.gateways[index] for index in gateways)):
            self.check_alive(process)
            process.kill()
        for index in gateways:
            lab.restart_gateway(index)
        for index in workers:
            lab.restart_worker(index)
        if not orchestrator.alive:
            lab.start_orchestrator()

    def _doomed(self, kind: str, victim: str, processes: Sequence[Process]) -> Sequence[int]:
        if victim == "all":
            return range(len(processes))
        return [self.random.randrange(len(processes))] if victim == kind else []

    def check_alive(self, process: Any) -> None:
        assert process.alive, f"{process.name} ended by itself:\n{process.output()[-4000:]}"


async def stop(lab: Lab) -> None:
    """Workers drain, then the orchestrator; nothing is left."""
    for processes in (lab.workers, lab.gateways):
        for process in processes:
            process.send(signal.SIGTERM)
        for process in processes:
            assert await process.ended() == 0, process.output()[-4000:]
    assert lab.orchestrator is not None
    lab.orchestrator.send(signal.SIGTERM)
    assert await lab.orchestrator.ended() == 0, lab.orchestrator.output()[-4000:]
    assert lab.leftovers() == []


async def explained(lab: Lab, orchestrators: Sequence[Process]) -> str:
    """What `stepmesh explain` says of each live run, and what was written at last."""
    client = await lab.client(5.0)
    lines: list[str] = []
    for run in await client.list_runs(status="running", limit=20):
        lines.append(run.run)
        lines += [f"  {line}" for line in await client.explain(run.run)]
    return "\n".join(("runs that hang:", *lines, *(process.output()[-3000:] for process in orchestrators)))


async def killed_at_random(lab: Lab, kills: int, seed: int, victims: Sequence[str] = VICTIMS) -> None:
    """Run the batch on a lab whose processes were started, kill as often as asked, and hold the oracle against what is left."""
    random = Random(seed)
    began = time.monotonic()
    batch, killer = Batch(lab, random), Killer(lab, random, victims)
    busy = asyncio.create_task(batch.keep_busy())
    killing = asyncio.create_task(killer.rounds(kills))
    try:
        await asyncio.wait((busy, killing), return_when=asyncio.FIRST_COMPLETED)
        if busy.done():
            busy.result()
        killing.result()
        killed_s = time.monotonic() - began
        batch.stopping.set()
        for process in (lab.orchestrator, *lab.gateways, *lab.workers):
            killer.check_alive(process)
        try:
            await asyncio.wait_for(asyncio.shield(busy), DRAIN_S)
        except TimeoutError:
            assert lab.orchestrator is not None
            raise AssertionError(await explained(lab, [lab.orchestrator])) from None
    finally:
        await cancelled([busy, killing])  # what failed is told, not what the others leave open
    await stop(lab)
    story = await read_story(lab.data)
    check(story, batch.accepted, lab.executions())
    print(
        f"\nkills {dict(killer.done)} in {killed_s:.0f} s, all over after {time.monotonic() - began:.0f} s; runs {batch.finished}"
        f" ({batch.cancelled} cancelled), {len(story.created)} with sub-runs, {story.frames} frames"
        f", {len(lab.executions())} ledger lines"
    )
    assert batch.finished >= kills // 8
