"""Rows K1, K2, K3 and K5 of the fault matrix with real processes: SIGKILL at seeded random moments, restarts on the same data.

STEPMESH_KILLS: kill points (default: each victim as often as it stands in the list); STEPMESH_KILL_SEED: where the coin starts.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.acceptance.killing import VICTIMS, killed_at_random
from tests.acceptance.processes import Lab

KILLS = int(os.environ.get("STEPMESH_KILLS", "0"))
SEED = int(os.environ.get("STEPMESH_KILL_SEED", "1"))
THROUGH_GATEWAYS = ("gateway",) * 5 + ("orchestrator",) * 4 + ("worker",) * 4 + ("nats",) + ("all",)


@pytest.mark.acceptance
@pytest.mark.slow
async def test_nothing_is_lost_or_done_twice_while_processes_are_killed(tmp_path: Path) -> None:
    async with Lab(tmp_path) as lab:
        lab.start_orchestrator()
        lab.start_worker()
        lab.start_worker()
        await killed_at_random(lab, KILLS or len(VICTIMS), SEED)


@pytest.mark.acceptance
@pytest.mark.slow
async def test_nor_through_gateways(tmp_path: Path) -> None:
    """Two gateways; one worker on the batched stream, one with stepflow.v1's unary calls."""
    async with Lab(tmp_path) as lab:
        lab.start_orchestrator()
        await lab.client()
        lab.start_gateway()
        lab.start_gateway()
        lab.start_worker(gateway=0)
        lab.start_worker(gateway=1, program="unary_worker.py")
        await killed_at_random(lab, KILLS or len(THROUGH_GATEWAYS), SEED, THROUGH_GATEWAYS)
