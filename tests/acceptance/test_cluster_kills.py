"""Rows K1 to K5, Z1 and Z2 of the fault matrix, on three orchestrators, four workers and servers of their own, by a seeded coin.

STEPMESH_KILLS: strokes per pair (default: each broker's two pairs share the kinds, each of which comes once); STEPMESH_KILL_SEED: where
the coin starts.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.acceptance.backends import Backend, Backends
from tests.acceptance.cluster import ClusterLab
from tests.acceptance.cluster_killing import destroyed_at_random

KILLS = int(os.environ.get("STEPMESH_KILLS", "0"))
SEED = int(os.environ.get("STEPMESH_KILL_SEED", "1"))
PARTITIONS = 4
ONE_BY_ONE = ("orchestrator", "postgres", "frozen worker", "wiped broker")
THE_OTHERS = ("worker", "broker", "power", "frozen orchestrator")
PAIRS = {
    Backend("nats-cluster", "postgres"): ONE_BY_ONE,
    Backend("nats-cluster", "broker"): THE_OTHERS,
    Backend("kafka", "postgres"): ONE_BY_ONE,
    Backend("kafka-cluster", "broker"): THE_OTHERS,
}
"""What comes once on each, where no number of strokes is asked for."""


@pytest.mark.acceptance
@pytest.mark.slow
@pytest.mark.timeout(240 + 20 * (KILLS or len(THE_OTHERS)))
@pytest.mark.parametrize("backend", PAIRS, ids=str)
async def test_nothing_is_lost_or_done_twice_while_a_cluster_is_destroyed(backend: Backend, tmp_path: Path) -> None:
    with Backends(backend, tmp_path / "servers") as servers:
        async with ClusterLab(tmp_path, servers.deployment(PARTITIONS)) as lab:
            await lab.start(nodes=3, workers=4)
            kinds = None if KILLS else PAIRS[backend]
            await destroyed_at_random(lab, servers, KILLS or len(PAIRS[backend]), SEED, kinds)
