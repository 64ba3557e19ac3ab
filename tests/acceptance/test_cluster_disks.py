"""Rows F1–F4 with real processes: three orchestrators and four workers whose journal lies on a disk that is full, fails, is slow, or whose
writer dies within a write.

STEPMESH_FAULT_PAIRS=all: each journal with each broker. STEPMESH_SLOW_S: what an fsync of the slow disk takes (default 0.3).
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.acceptance.cluster import PARTITIONS, ClusterLab, SteadyLoad
from tests.acceptance.disks import SYNCS, Disk, injected, on_files, on_postgres, reached
from tests.acceptance.pairs import Pair
from tests.acceptance.processes import until
from tests.acceptance.test_damaged_data import LARGE
from tests.acceptance.test_process_faults import flow

from stepmesh.client import Client
from stepmesh.errors import RequestRefused
from stepmesh_broker.protocol.ids import FlowId, RunId

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]
CROSSED = (Pair("nats", "postgres"), Pair("kafka", "sqlite"))
PAIRS = (Pair("nats", "sqlite"), Pair("kafka", "postgres"), *(CROSSED if os.environ.get("STEPMESH_FAULT_PAIRS") == "all" else ()))
SLOW_S = float(os.environ.get("STEPMESH_SLOW_S", "0.3"))
AWAY = ("SM-4005", "SM-4007", "SM-4103")
"""Journal or store cannot be reached now, or failed this very moment."""
AGAIN_S = 2.0
"""Until what was refused is submitted again."""
LONG_S = 8.0
"""Longer than a lease that nobody renews."""


@asynccontextmanager
async def cluster(request: pytest.FixtureRequest, folder: Path, *, small: bool) -> AsyncIterator[Disk]:
    broker: str = request.getfixturevalue(f"{request.param.broker}_url")
    async with (on_files if request.param.journal == "sqlite" else on_postgres)(folder, broker, small) as made:
        await made.lab.start(nodes=3, workers=4)
        yield made


@pytest.fixture(params=PAIRS, ids=str)
async def disk(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Disk]:
    async with cluster(request, tmp_path, small=False) as made:
        yield made


@pytest.fixture(params=PAIRS, ids=str)
async def small(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Disk]:
    async with cluster(request, tmp_path, small=True) as made:
        yield made


async def checked(disk: Disk, accepted: set[RunId]) -> None:
    await disk.lab.audited(accepted)


def ended(lab: ClusterLab) -> int:
    return sum(kind == "end" and step == "p" for kind, _, _, step, *_ in lab.executions())


async def refusals(client: Client, flow_id: str) -> list[str]:
    """What large submissions hear. A few wait for space, undecided: their turns were begun when the disk was found full."""
    asking = {asyncio.create_task(client.submit(flow_id, [LARGE])) for _ in range(8 * PARTITIONS)}
    try:
        await until("most are refused", lambda: sum(one.done() for one in asking) > len(asking) // 2)
        return [f"{one.exception()}" for one in asking if one.done() and isinstance(one.exception(), RequestRefused)]
    finally:
        for one in asking:
            one.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


async def test_a_full_disk_refuses_work_answers_reads_and_goes_on_when_there_is_space(small: Disk) -> None:
    """Row F1."""
    lab = small.lab
    client = await lab.connected()
    long, echo = [await client.store_flow(flow(name)) for name in ("slow", "echo")]
    before = [await client.submit(long, [{"seconds": 3, "n": n} for n in range(4)]) for _ in range(PARTITIONS)]
    await until("the steps run", lambda: lab.starts("p") >= PARTITIONS)
    small.fill()
    refused = await refusals(client, echo)
    assert refused
    assert all("SM-4003" in text and "free some space" in text for text in refused), refused
    seen = await asyncio.gather(*(client.get_run(handle.id) for handle in before))
    assert {info.summary.status for info in seen} <= {"running", "completed"}
    small.free()
    for handle in before:
        assert [result["n"] for result in await handle.result(60)] == [0, 1, 2, 3]
    after = await client.submit(echo, ["after"])
    assert await after.result(30) == "after"
    assert all(node.alive for node in lab.nodes), "no restart"
    await lab.shared(3)
    for run in await client.list_runs():
        await client.handle(run.run).wait(60)
    await checked(small, {handle.id for handle in (*before, after)})


class Submitter:
    """Runs, one after the other in each of many lanes; what is refused because something is away is submitted again, with the same key."""

    def __init__(self, lab: ClusterLab) -> None:
        self.lab = lab
        self.accepted: set[RunId] = set()
        self.stopping = False

    async def keep_busy(self) -> None:
        """Until `stopping`."""
        client = await self.lab.connected()
        stored = await client.store_flow(flow("echo"))
        await asyncio.gather(*(self._one_after_the_other(client, stored, lane) for lane in range(2 * PARTITIONS)))

    async def _one_after_the_other(self, client: Client, stored: FlowId, lane: int) -> None:
        count = 0
        while not self.stopping:
            try:
                self.accepted.add((await client.submit(stored, [count], run_key=f"{lane}-{count}")).id)
            except RequestRefused as problem:
                if problem.code not in AWAY:
                    raise
                await asyncio.sleep(AGAIN_S)
            else:
                count += 1
            await asyncio.sleep(0.02)

    async def go_on(self, runs: int) -> None:
        """Until so many more were accepted."""
        wanted = len(self.accepted) + runs
        await until(f"{runs} more runs", lambda: len(self.accepted) >= wanted, 60)


async def test_a_disk_that_fails_costs_no_run(disk: Disk, tmp_path: Path) -> None:
    """Row F2. One orchestrator's files fail: it ends, and the others take over. PostgreSQL's fail: it starts anew, and all go on."""
    lab, log = disk.lab, tmp_path / "strace.txt"
    load = Submitter(lab)
    busy = asyncio.create_task(load.keep_busy())
    await load.go_on(100)
    victim = lab.nodes[0]
    with injected(disk.writers, f"{SYNCS}:error=EIO", log):
        await reached(log)
        if disk.server is None:
            assert await victim.ended(60) not in (0, -signal.SIGKILL)
    if disk.server is None:
        assert "SM-4007" in victim.output()
        assert "check the disk" in victim.output()
        lab.nodes.remove(victim)
        await lab.ready(lab.start_node())
    await disk.recovered()
    await lab.shared(3)
    await load.go_on(100)
    load.stopping = True
    await busy
    assert all(node.alive for node in lab.nodes)
    client = await lab.connected()
    for run in load.accepted:
        assert (await client.handle(run).wait(60)).summary.status == "completed"
    await checked(disk, load.accepted)


async def test_a_slow_disk_costs_no_lease_and_no_second_execution(disk: Disk, tmp_path: Path) -> None:
    """Row F3: workers are answered while the journal takes its time, so nobody's silence is taken for a death."""
    lab, log = disk.lab, tmp_path / "strace.txt"
    load = SteadyLoad(lab)
    await load.start()
    client = await lab.connected()
    long = await client.store_flow(flow("slow"))
    slow = [await client.submit(long, [{"seconds": LONG_S}]) for _ in range(PARTITIONS)]
    await until("the steps run", lambda: lab.starts("p") == PARTITIONS)
    with injected(disk.writers, f"{SYNCS}:delay_enter={SLOW_S:g}s", log):
        await reached(log, 3)
        await until("the steps ended", lambda: ended(lab) == PARTITIONS)
    for handle in slow:
        assert await handle.result(90) == {"seconds": LONG_S}
    starts = Counter(run for kind, run, *_ in lab.executions() if kind == "start")
    assert [starts[handle.id] for handle in slow] == [1] * PARTITIONS
    await load.go_on(50)
    await load.ended()
    assert all(node.alive for node in lab.nodes)
    await checked(disk, load.accepted | {handle.id for handle in slow})


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair.journal == "sqlite"], ids=str)
async def test_a_process_that_dies_within_a_write_is_followed_by_another(
    pair: Pair, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Row F4: what it wrote of its last transaction is cut off by whoever writes next. (Servers' journals: tests/contract.)"""
    async with on_files(tmp_path, pair.addresses(request)[0], small=False) as disk:
        lab = disk.lab
        await lab.start(nodes=3, workers=4)
        load = SteadyLoad(lab)
        await load.start()
        for write in (2, 5):
            await load.go_on(50)
            victim = lab.nodes.pop(0)
            with injected([victim.pid], f"pwrite64:signal=SIGKILL:when={write}", tmp_path / f"strace{write}.txt"):
                assert await victim.ended(30) == -signal.SIGKILL
            await lab.ready(lab.start_node())
            await lab.shared(3)
        await load.go_on(50)
        await load.ended()
        await checked(disk, load.accepted)
