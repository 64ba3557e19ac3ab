"""Three orchestrators as processes: one is killed, one stands still beyond its lease, all are replaced; nothing fails, nothing is lost.

STEPMESH_CLUSTER_RUNS: runs that are accepted before, while and after it (default 100).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.acceptance.cluster import WANTED_STALL_S, ClusterLab, SteadyLoad, deployment_of
from tests.acceptance.pairs import Pair
from tests.acceptance.processes import until

from stepmesh_orchestrator.runtime.sharing import TTL_S

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]
RUNS = int(os.environ.get("STEPMESH_CLUSTER_RUNS", "100"))
PAIRS = (Pair("nats", "sqlite"), Pair("nats", "postgres"), Pair("kafka", "postgres"), Pair("kafka", "broker"))


@pytest.fixture(params=PAIRS, ids=str)
async def lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ClusterLab]:
    async with ClusterLab(tmp_path, deployment_of(request.param, request, tmp_path)) as made:
        await made.start()
        yield made


async def checked(lab: ClusterLab, load: SteadyLoad) -> None:
    await load.ended()
    story = await lab.audited(load.accepted)
    assert set(story.ended.values()) == {"completed"}


async def test_kill_nine_under_load(lab: ClusterLab) -> None:
    load = SteadyLoad(lab)
    await load.start()
    await load.go_on(RUNS)
    begin = time.time()
    victim = lab.nodes.pop(0)
    victim.kill()
    await lab.shared(2)
    await load.go_on(RUNS)
    stall, partition = await lab.longest_stall(begin, time.time())
    print(f"\nkill -9 of one of three: partition {partition} stood still for {stall:.2f} s; slowest run {load.slowest}")
    await checked(lab, load)
    assert stall >= TTL_S / 2, "the dead one's partitions wait for its time to be over"


async def test_a_node_that_is_stopped_beyond_its_lease_and_continued_changes_nothing(lab: ClusterLab) -> None:
    """Z2: it wakes with turns half done, clients that ask it and workers that claim from it."""
    load = SteadyLoad(lab)
    await load.start()
    await load.go_on(RUNS)
    zombie = lab.nodes[0]
    await lab.stand_still(zombie)
    await lab.shared(2)
    await load.go_on(RUNS)
    zombie.send(signal.SIGCONT)
    await lab.shared(3)
    await load.go_on(RUNS)
    assert zombie.alive, zombie.output()[-3000:]
    await checked(lab, load)


async def test_a_rolling_restart_of_all_three_under_load(lab: ClusterLab) -> None:
    load = SteadyLoad(lab)
    await load.start()
    await load.go_on(RUNS)
    begin = time.time()
    for node in list(lab.nodes):
        await lab.stop_node(node)
        await lab.ready(lab.start_node())
        await lab.shared(3)
        await load.go_on(RUNS)
    await until("some load after it", lambda: time.time() - begin > 1.0)
    stall, partition = await lab.longest_stall(begin, time.time())
    print(f"\nrolling restart of three: partition {partition} stood still for {stall:.2f} s; slowest run {load.slowest}")
    await checked(lab, load)
    assert stall <= WANTED_STALL_S
