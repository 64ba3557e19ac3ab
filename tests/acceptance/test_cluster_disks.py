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
from tests.acceptance.audit import check
from tests.acceptance.cluster import PARTITIONS, ClusterLab, SteadyLoad
from tests.acceptance.disks import SYNCS, Disk, injected, on_files, on_postgres, reached
from tests.acceptance.pairs import Pair
from tests.acceptance.processes import until
from tests.acceptance.test_process_faults import flow

from stepmesh.client import Client
from stepmesh.errors import RequestRefused
from stepmesh_broker.protocol.ids import RunId

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]
CROSSED = (Pair("nats", "postgres"), Pair("kafka", "sqlite"))
PAIRS = (Pair("nats", "sqlite"), Pair("kafka", "postgres"), *(CROSSED if os.environ.get("STEPMESH_FAULT_PAIRS") == "all" else ()))
SLOW_S = float(os.environ.get("STEPMESH_SLOW_S", "0.3"))
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
    await disk.lab.stop_all()
    check(await disk.lab.story(), accepted, disk.lab.executions())


def ended(lab: ClusterLab) -> int:
    return sum(kind == "end" and step == "p" for kind, _, _, step, *_ in lab.executions())


async def refusals(client: Client, flow_id: str) -> list[str]:
    """What large submissions hear. A few wait for space, undecided: their turns were begun when the disk was found full."""
    asking = {asyncio.create_task(client.submit(flow_id, ["x" * 200_000])) for _ in range(8 * PARTITIONS)}
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


async def test_a_disk_that_fails_costs_no_run(disk: Disk, tmp_path: Path) -> None:
    """Row F2. One orchestrator's files fail: it ends, and the others take over. PostgreSQL's fail: it starts anew, and all go on."""
    lab, log = disk.lab, tmp_path / "strace.txt"
    load = SteadyLoad(lab)
    await load.start()
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
    await lab.shared(3)
    await load.go_on(100)
    await load.ended()
    assert all(node.alive for node in lab.nodes)
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
