"""Row K1 with real processes: the orchestrator dies by SIGKILL exactly at the n-th journal write, at a snapshot, and while it recovers."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.audit import check, read_story
from tests.acceptance.killing import FLOW, expected, given, stop
from tests.acceptance.processes import HERE, Lab, as_json, until

from stepmesh.client import Client
from stepmesh.runs import RunHandle

pytestmark = pytest.mark.acceptance
LAUNCHER = (str(HERE / "crashing_up.py"),)


async def finished(handle: RunHandle, n: int) -> None:
    await handle.wait(60)
    assert [as_json(item.result) async for item in handle.items()] == [{"outcome": "success", "result": expected(n)}]


async def audited(lab: Lab, handle: RunHandle) -> None:
    await stop(lab)
    check(await read_story(lab.data), {handle.id}, lab.executions())


@pytest.mark.parametrize("side", ["before", "after"])
async def test_dying_at_one_write_after_the_other_loses_nothing(tmp_path: Path, side: str) -> None:
    """Each life of the orchestrator dies at its second append, so each write of the run is a crash point once; until the run is over."""
    async with Lab(tmp_path) as lab:
        lab.launcher = LAUNCHER
        up = lab.start_orchestrator(STEPMESH_CRASH=f"append:2:{side}")
        lab.start_worker()
        client = await lab.client()
        deaths = 0
        run = asyncio.create_task(submitted_and_finished(client))
        while not run.done():
            if not up.alive:
                assert await up.ended() == -signal.SIGKILL, up.output()[-3000:]
                deaths += 1
                up = lab.start_orchestrator(STEPMESH_CRASH=f"append:2:{side}")
            await asyncio.sleep(0.05)
        assert deaths >= 4
        up.kill()
        lab.start_orchestrator()
        await client.list_runs()
        await audited(lab, run.result())


async def submitted_and_finished(client: Client) -> RunHandle:
    handle = await client.submit(FLOW, [given(7)], run_key="once")
    await finished(handle, 7)
    return handle


@pytest.mark.parametrize("moment", ["snapshot:1:before", "snapshot:1:after"])
async def test_dying_while_a_snapshot_is_kept_loses_nothing(tmp_path: Path, moment: str) -> None:
    async with Lab(tmp_path) as lab:
        lab.launcher = LAUNCHER
        up = lab.start_orchestrator(STEPMESH_CRASH=moment)
        lab.start_worker()
        client = await lab.client()
        handle = await client.submit(FLOW, [given(7)])
        await until("the first step", lambda: lab.starts("a"))
        up.send(signal.SIGTERM)  # a stop keeps a snapshot of each partition
        assert await up.ended() == -signal.SIGKILL
        lab.start_orchestrator()
        await finished(handle, 7)
        await audited(lab, handle)


async def test_dying_during_the_recovery_again_and_again_loses_nothing(tmp_path: Path) -> None:
    async with Lab(tmp_path) as lab:
        lab.launcher = LAUNCHER
        up = lab.start_orchestrator()
        lab.start_worker()
        client = await lab.client()
        handle = await client.submit(FLOW, [given(7)])
        await until("the last step", lambda: lab.starts("s"))
        up.kill()
        for frame in (1, 2, 4):
            up = lab.start_orchestrator(STEPMESH_CRASH=f"read:{frame}:before")
            assert await up.ended() == -signal.SIGKILL
        lab.start_orchestrator()
        await finished(handle, 7)
        await audited(lab, handle)


async def test_a_disk_that_fails_ends_the_process_with_its_error(tmp_path: Path) -> None:
    """Row F2: an fsync that failed is never tried again as if it had not."""
    async with Lab(tmp_path) as lab:
        lab.launcher = LAUNCHER
        up = lab.start_orchestrator(STEPMESH_CRASH="eio:4")
        lab.start_worker()
        client = await lab.client()
        submitting = asyncio.create_task(client.submit(FLOW, [given(7)], run_key="once"))
        assert await up.ended() not in (0, -signal.SIGKILL)
        assert "SM-4007" in up.output()
        assert "check the disk" in up.output()
        lab.start_orchestrator()
        handle: Any = await submitting
        await finished(handle, 7)
        await audited(lab, handle)
