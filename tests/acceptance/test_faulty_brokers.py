"""Rows D1–D4 with real processes on NATS and on Kafka: three orchestrators, four workers and a client whose messages are doubled, held up,
lost and forgotten, kind by kind, under a load of every kind of step with cancels; then it heals, everything ends, and the oracle holds.

STEPMESH_FAULT_S: seconds of each fault (default 1); STEPMESH_FAULT_SEED: where the coin starts.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.cluster import deployment_of
from tests.acceptance.faulty import FaultyLab
from tests.acceptance.killing import Batch
from tests.acceptance.pairs import Pair
from tests.acceptance.processes import until
from tests.simulation.faults import Rates

from stepmesh.client import Client
from stepmesh_broker.protocol.ids import FlowId

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]
PAIRS = (Pair("nats", "postgres"), Pair("kafka", "postgres"))
EACH_S = float(os.environ.get("STEPMESH_FAULT_S", "1"))
SEED = int(os.environ.get("STEPMESH_FAULT_SEED", "1"))
DRAIN_S = 90.0
SOON_S = (0.05, 1.0)
LANES, LONG_S = 6, 5.0
LONG: dict[str, Any] = {"steps": [{"id": "l", "component": "/cpu/slow", "input": {"$input": "$"}}], "output": {"$step": "l"}}
KINDS = {"tasks", "results", "submit", "heartbeat", "cancel"}
"""What row D1 names."""
ROWS: dict[str, tuple[Rates, ...]] = {
    "D1 duplicates": (Rates(duplicate=0.2),),
    "D2 reordering": (Rates(delay=0.3, duplicate=0.05, window_s=SOON_S),),
    "D3 loss": (
        Rates(deaf=0.05, refuse=0.05, mute=0.05),
        Rates(refuse=1.0, only=("tasks",)),
        Rates(refuse=1.0, only=("results",)),
        Rates(deaf=1.0, only=("submit", "cancel")),
        Rates(deaf=1.0, only=("claim", "heartbeat")),
        Rates(deaf=1.0, only=("hello", "stop")),
        Rates(deaf=0.3, refuse=0.3, mute=0.2),
    ),
    "D4 accepted, then forgotten": (Rates(forget=0.5), Rates(forget=1.0)),
}
REACHED: dict[str, set[tuple[str, str]]] = {
    "D1 duplicates": {("duplicate", kind) for kind in KINDS},
    "D2 reordering": {("delay", kind) for kind in KINDS},
    "D3 loss": {
        ("refuse", "tasks"),
        ("refuse", "results"),
        *(("deaf", kind) for kind in ("submit", "claim", "heartbeat", "hello", "stop")),
    },
    "D4 accepted, then forgotten": {("forget", "tasks")},
}


@pytest.fixture(params=PAIRS, ids=str)
async def lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[FaultyLab]:
    async with FaultyLab(tmp_path, deployment_of(request.param, request, tmp_path), SEED) as made:
        await made.start(nodes=3, workers=4)
        yield made


class LongRuns:
    """Steps long enough for claims and heartbeats, most of which are cancelled on their way; beside a `Batch`."""

    def __init__(self, lab: FaultyLab, batch: Batch) -> None:
        self.lab = lab
        self.batch = batch

    async def keep_busy(self) -> None:
        """Until the batch is to stop."""
        client = await self.lab.client()
        flow = await client.store_flow(LONG)
        await asyncio.gather(*(self._one_after_the_other(client, flow) for _ in range(LANES)))

    async def _one_after_the_other(self, client: Client, flow: FlowId) -> None:
        while not self.batch.stopping.is_set():
            handle = await client.submit(flow, [{"seconds": LONG_S}])
            self.batch.accepted.add(handle.id)
            await asyncio.sleep(self.lab.random.uniform(0.0, 1.2 * LONG_S))
            await handle.cancel("by the test")
            info = await handle.wait()
            assert info.summary.status in ("cancelled", "completed")
            self.batch.cancelled += info.summary.status == "cancelled"


async def happens(lab: FaultyLab, row: str, busy: asyncio.Future[Any]) -> None:
    """One fault of the row after the other, each for its time; then the kinds of messages that the row names and nobody sent meanwhile."""
    for rates in ROWS[row]:
        with lab.faults.going_on(rates):
            await asyncio.wait([busy], timeout=EACH_S)
    for fault, kind in sorted(REACHED[row] - set(lab.faults.done())):
        await befalls(lab, fault, kind, busy)


async def befalls(lab: FaultyLab, fault: str, kind: str, busy: asyncio.Future[Any]) -> None:
    """Until one such message was hit."""
    with lab.faults.going_on(Rates(**{fault: 1.0}, only=(kind,), window_s=SOON_S)):
        await until(f"{fault} {kind}", lambda: busy.done() or (fault, kind) in lab.faults.done())
    if busy.done():
        busy.result()


async def test_whatever_becomes_of_messages_everything_ends_and_is_recorded_once(lab: FaultyLab) -> None:
    batch = Batch(lab, lab.random)
    busy = asyncio.gather(batch.keep_busy(), LongRuns(lab, batch).keep_busy())
    for row in ROWS:
        before, began = batch.finished, time.monotonic()
        await happens(lab, row, busy)
        print(f"\n{row}: {batch.finished - before} runs ended in {time.monotonic() - began:.1f} s")
    batch.stopping.set()
    healed = time.monotonic()
    await asyncio.wait_for(busy, DRAIN_S)
    print(f"all over {time.monotonic() - healed:.1f} s after the last fault")
    await lab.audited(batch.accepted)
    print(f"{batch.finished} runs, {batch.cancelled} cancelled; {dict(lab.faults.done())}")
    assert batch.cancelled
