"""Row R1 with real processes, three orchestrators: all workers come back at once, all timers are due, all runs are recovered.

STEPMESH_HERD_RUNS: open runs and timers (default 2,000; the row asks for 100,000); STEPMESH_HERD_WORKERS: workers (default 40; the row
asks for 1,000).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.cluster import ClusterLab, Deployment, deployment_of
from tests.acceptance.pairs import Pair
from tests.acceptance.processes import HERE
from tests.acceptance.test_process_faults import flow
from tests.services.kafka import KafkaServers
from tests.services.nats import NatsServers

from stepmesh.client import Client
from stepmesh.errors import RequestRefused
from stepmesh_broker.errors import BrokerUnavailable
from stepmesh_broker.protocol.ids import FlowId, RunId

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]
RUNS = int(os.environ.get("STEPMESH_HERD_RUNS", "2000"))
WORKERS = int(os.environ.get("STEPMESH_HERD_WORKERS", "40"))
EACH = 20
"""Workers of one process."""
LANES = 128
SUBMITTED_PER_S, RECOVERED_PER_S, WOKEN_PER_S = 800, 2_000, 500
"""Far less than a quiet machine of two cores does."""
START_S = 15.0
SLEEP: dict[str, Any] = {
    "steps": [{"id": "s", "component": "/builtin/sleep", "input": {"until": {"$input": "$"}}}], "output": {"$step": "s"},
}  # fmt: skip


async def submitted(client: Client, stored: FlowId, due: datetime) -> set[RunId]:
    """All of them, due in the same second."""
    left, accepted = iter(range(RUNS)), set[RunId]()
    until = due.strftime("%Y-%m-%dT%H:%M:%SZ")

    async def lane() -> None:
        for _ in left:
            accepted.add((await client.submit(stored, [until])).id)

    await asyncio.gather(*(lane() for _ in range(LANES)))
    return accepted


async def answered(client: Client, stored: FlowId) -> None:
    """Once a short run of every partition's went through."""
    await asyncio.gather(*(client.run(stored, number, timeout=120) for number in range(64)))


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("pair", [Pair("nats", "postgres"), Pair("kafka", "postgres")], ids=str)
async def test_all_open_runs_are_recovered_and_all_timers_fire_at_once(pair: Pair, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    async with ClusterLab(tmp_path, deployment_of(pair, request, tmp_path)) as lab:
        await lab.start(nodes=3, workers=2)
        client = await lab.connected()
        sleep, echo = await client.store_flow(SLEEP), await client.store_flow(flow("echo"))
        patience_s = RUNS / SUBMITTED_PER_S + RUNS / RECOVERED_PER_S + START_S
        due = (datetime.now(UTC) + timedelta(seconds=patience_s)).replace(microsecond=0)
        began = time.monotonic()
        accepted = await submitted(client, sleep, due)
        submitting_s = time.monotonic() - began
        for node in lab.nodes:
            node.kill()
        lab.nodes.clear()
        began = time.monotonic()
        for node in [lab.start_node() for _ in range(3)]:
            await lab.ready(node)
        await lab.shared(3)
        await answered(client, echo)
        recovery_s = time.monotonic() - began
        assert datetime.now(UTC) < due, "the recovery is over before they are due"
        await asyncio.sleep((due - datetime.now(UTC)).total_seconds())
        began, slowest_s = time.monotonic(), 0.0
        while await client.list_runs(status="running", limit=1):
            asked = time.monotonic()
            await client.run(echo, "meanwhile", timeout=120)
            slowest_s = max(slowest_s, time.monotonic() - asked)
        waking_s = time.monotonic() - began
        print(f"\n{RUNS} runs submitted in {submitting_s:.1f} s; recovered in {recovery_s:.1f} s; awake and over in {waking_s:.1f} s,"
              f" others meanwhile at most {slowest_s:.2f} s")  # fmt: skip
        assert recovery_s <= START_S + RUNS / RECOVERED_PER_S
        assert waking_s <= START_S + RUNS / WOKEN_PER_S
        await lab.audited(accepted)


@pytest.fixture(params=[NatsServers, KafkaServers], ids=["nats", "kafka"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NatsServers | KafkaServers]:
    with request.param(tmp_path / "server") as made:
        yield made


@pytest.mark.timeout(1200)
async def test_all_workers_that_come_back_at_once_are_heard_and_have_work(server: NatsServers | KafkaServers, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    files = {name: f"sqlite:{tmp_path / 'data' / name}.db" for name in ("journal", "store")}
    async with ClusterLab(tmp_path, Deployment(broker=server.url, **files)) as lab:
        await lab.start(nodes=3, workers=0)
        for number in range(WORKERS // EACH):
            where = (str(EACH), server.url, lab.deployment.namespace)
            lab.workers.append(lab.spawn(f"herd{number}", str(HERE / "herd_process.py"), *where))
        client = await lab.connected()
        await heard(client, WORKERS)
        stored = await client.store_flow(flow("echo"))
        server.kill(0)
        handle = asyncio.create_task(client.submit(stored, list(range(WORKERS * 10)), max_concurrency=0))
        await asyncio.to_thread(server.restart, 0)
        began = time.monotonic()
        assert await (await handle).result(180) == list(range(WORKERS * 10))
        worked_s = time.monotonic() - began
        await heard(client, WORKERS)
        print(f"\n{WORKERS} workers came back: {WORKERS * 10} tasks done {worked_s:.1f} s after the broker was there, all heard after"
              f" {time.monotonic() - began:.1f} s")  # fmt: skip
        run = (await handle).id
        await lab.audited({run})


async def heard(client: Client, workers: int) -> None:
    """Until the orchestrators know so many."""
    async with asyncio.timeout(300):
        while await known(client) != workers:
            await asyncio.sleep(0.1)


async def known(client: Client) -> int:
    try:
        return sum(len(pool.workers) for pool in await client.pools() if pool.pool == "cpu")
    except (RequestRefused, BrokerUnavailable):  # the broker was away a moment ago
        return -1
