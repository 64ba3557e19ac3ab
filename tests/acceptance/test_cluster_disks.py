"""Rows F1–F4 with real processes: three orchestrators whose journal lies on a disk that is full, that fails, that is slow, on NATS and on
Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.acceptance.audit import check
from tests.acceptance.cluster import PARTITIONS, ClusterLab, Deployment
from tests.acceptance.processes import until
from tests.acceptance.test_damaged_data import fill, small_disk
from tests.acceptance.test_process_faults import flow

from stepmesh.client import Client
from stepmesh.errors import RequestRefused

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]
BROKERS = ("nats", "kafka")


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


def on_files(broker: str, disk: Path) -> Deployment:
    """Journal, members and store are files of that disk."""
    return Deployment(broker=broker, journal=f"sqlite:{disk / 'journal.db'}", store=f"sqlite:{disk / 'store.db'}")


async def patient(lab: ClusterLab, patience_s: float) -> Client:
    where = lab.deployment
    client = await Client.connect(where.broker, where.namespace, patience_s=patience_s)
    lab._clients.append(client)
    return client


async def survives_a_full_disk(lab: ClusterLab, fill_up: Callable[[], object], free: Callable[[], object]) -> None:
    client = await lab.connected()
    flows = [await client.store_flow(flow(name)) for name in ("slow", "echo")]
    before = [await client.submit(flows[0], [{"seconds": 3, "n": n} for n in range(4)]) for _ in range(8)]
    await until("the steps run", lambda: lab.starts("p") >= 8)
    fill_up()
    hasty = await patient(lab, 1.0)
    asking = {asyncio.create_task(hasty.submit(flows[1], ["x" * 200_000])) for _ in range(8 * PARTITIONS)}
    try:  # a few wait for space, undecided: their turns were begun when the disk was found full
        await until("most are refused", lambda: sum(one.done() for one in asking) > len(asking) // 2)
        refused = [f"{one.exception()}" for one in asking if one.done() and isinstance(one.exception(), RequestRefused)]
    finally:
        for one in asking:
            one.cancel()
    assert refused
    assert all("SM-4003" in text and "free some space" in text for text in refused), refused
    for handle in before:
        assert (await hasty.get_run(handle.id)).summary.status in ("running", "completed")
    free()
    for handle in before:
        assert [result["n"] for result in await handle.result(60)] == [0, 1, 2, 3]
    after = await client.submit(flows[1], ["after"])
    assert await after.result(30) == "after"
    assert all(node.alive for node in lab.nodes)
    await lab.shared(3)
    for run in await client.list_runs():
        await client.handle(run.run).wait(60)
    await lab.stop_all()
    check(await lab.story(), {handle.id for handle in (*before, after)}, lab.executions())


async def test_files_on_a_full_disk(tmp_path: Path, broker: str) -> None:
    """Row F1. Who may not mount a small file system sees it of PostgreSQL alone (below)."""
    disk = tmp_path / "disk"
    with small_disk(disk):
        async with ClusterLab(tmp_path, on_files(broker, disk)) as lab:
            await lab.start(nodes=3, workers=4)
            await survives_a_full_disk(lab, lambda: fill(disk), (disk / "ballast").unlink)
