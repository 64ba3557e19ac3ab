"""Rows F1, F4, F5, F6 with real processes: a full disk, a damaged journal, snapshots that are missing or damaged."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.acceptance.audit import check, read_story
from tests.acceptance.killing import FLOW, expected, given, stop
from tests.acceptance.processes import HERE, Lab, as_json, until
from tests.acceptance.test_process_faults import flow, up

from stepmesh.errors import RequestRefused
from stepmesh.runs import RunHandle
from stepmesh_broker.errors import BrokerUnavailable

pytestmark = pytest.mark.acceptance
DISK_BYTES = 24 * 1024 * 1024
LARGE = random.Random(1).randbytes(100_000).hex()
"""An input that no compressing makes small."""


@contextmanager
def small_disk(mount: Path) -> Iterator[bool]:
    """A file system of `DISK_BYTES`; False where this user may not mount one."""
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(mount)]
    mounted = shutil.which("mount") is not None and subprocess.run(command, check=False, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(mount)], check=True)


def fill(disk: Path) -> Path:
    """Take all the space that is left."""
    ballast = disk / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while file.write(b"x" * size) == size:
                    pass
            except OSError:
                continue
    return ballast


async def test_a_full_disk_refuses_work_answers_reads_and_goes_on_when_there_is_space(tmp_path: Path) -> None:
    """Row F1, on a small file system. Who may not mount one sees the same of the journal alone (the test below)."""
    disk = tmp_path / "disk"
    with small_disk(disk) as mounted:
        async with Lab(tmp_path, data=disk / "data") as lab:
            if mounted:
                await survives_a_full_disk(lab, lambda: fill(disk), (disk / "ballast").unlink)
        assert lab.leftovers() == []


async def test_a_journal_without_space_refuses_work_answers_reads_and_goes_on(tmp_path: Path) -> None:
    full = tmp_path / "full"
    async with Lab(tmp_path, environment={"STEPMESH_CRASH": f"full:{full}"}) as lab:
        lab.launcher = (str(HERE / "crashing_up.py"),)
        await survives_a_full_disk(lab, full.touch, full.unlink)


async def survives_a_full_disk(lab: Lab, fill_up: Callable[[], object], free: Callable[[], object]) -> None:
    client = await up(lab)
    before = await client.submit(flow("slow"), [{"seconds": 3, "n": n} for n in range(4)])
    stored = await client.store_flow(flow("echo"))
    await until("the steps run", lambda: lab.starts("p") == 4)
    fill_up()
    hasty = await lab.client(patience_s=1.0)
    refused: list[str] = []
    while len(refused) < 3:
        try:
            await hasty.submit(stored, [LARGE], run_key="held")
        except BrokerUnavailable:
            continue  # one may wait for space, undecided: its turn was begun when the disk was found full
        except RequestRefused as problem:
            refused.append(f"{problem}")
    assert all("SM-4003" in text and "free some space" in text for text in refused)
    assert (await client.get_run(before.id)).summary.status == "running"
    assert before.id in [run.run for run in await client.list_runs()]
    free()
    freed = time.monotonic()
    assert [result["n"] for result in await before.result(60)] == [0, 1, 2, 3]
    after = await client.submit(stored, ["after"])
    assert await after.result(30) == "after"
    assert time.monotonic() - freed < 30
    assert lab.orchestrator is not None
    assert lab.orchestrator.alive
    for run in await client.list_runs():
        await client.handle(run.run).wait(30)
    await stop(lab)
    check(await read_story(lab.data), {before.id, after.id}, lab.executions())


async def finished_run(lab: Lab) -> RunHandle:
    client = await up(lab)
    handle = await client.submit(FLOW, [given(7)])
    await handle.wait(60)
    assert [as_json(item.result) async for item in handle.items()] == [{"outcome": "success", "result": expected(7)}]
    return handle


async def test_a_flipped_byte_in_the_journal_is_refused_with_the_fix(tmp_path: Path) -> None:
    """Rows F4 and F5: never skipped, never guessed."""
    async with Lab(tmp_path) as lab:
        await finished_run(lab)
        await stop(lab)
        with sqlite3.connect(lab.data / "journal.db") as database:
            database.execute("DELETE FROM snapshots")
            partition, sequence, payload = database.execute(
                "SELECT partition, sequence, payload FROM frames ORDER BY length(payload)"
            ).fetchone()
            damaged = bytes([payload[0] ^ 1]) + payload[1:]
            database.execute("UPDATE frames SET payload=? WHERE partition=? AND sequence=?", (damaged, partition, sequence))
        database.close()
        again = lab.start_orchestrator("again")
        assert await again.ended() not in (0, -signal.SIGKILL)
        assert "SM-4002" in again.output()
        assert f"frame {sequence}" in again.output()
        assert "stepmesh journal" in again.output(), "the fix is named"
        assert lab.leftovers() == []


async def test_a_flipped_page_of_the_journal_file_is_refused_with_the_fix(tmp_path: Path) -> None:
    async with Lab(tmp_path) as lab:
        await finished_run(lab)
        await stop(lab)
        file = lab.data / "journal.db"
        content = bytearray(file.read_bytes())
        for page in range(1, len(content) // 4096):
            content[page * 4096] ^= 0xFF
        file.write_bytes(content)
        again = lab.start_orchestrator("again")
        assert await again.ended() not in (0, -signal.SIGKILL)
        assert "SM-4002" in again.output()
        assert "stepmesh journal" in again.output(), "the fix is named"


@pytest.mark.parametrize(
    "damage", ["DELETE FROM snapshots", "UPDATE snapshots SET payload=CAST(x'00' || payload AS BLOB)", "UPDATE snapshots SET crc=crc+1"]
)
async def test_without_a_good_snapshot_the_frames_tell_all(tmp_path: Path, damage: str) -> None:
    """Row F6."""
    async with Lab(tmp_path) as lab:
        client = await up(lab)
        handle = await client.submit(FLOW, [given(7)])
        await until("the last step", lambda: lab.starts("s"))
        await stop(lab)
        with sqlite3.connect(lab.data / "journal.db") as database:
            assert database.execute("SELECT count(*) FROM snapshots").fetchone()[0]
            database.execute(damage)
        database.close()
        lab.start_orchestrator()
        lab.restart_worker(0)
        fresh = await lab.client()
        run = fresh.handle(handle.id)
        await run.wait(60)
        assert await fresh.run(flow("echo"), "the new worker is there", timeout=30) == "the new worker is there"
        assert [as_json(item.result) async for item in run.items()] == [{"outcome": "success", "result": expected(7)}]
        await stop(lab)
        check(await read_story(lab.data), {handle.id}, lab.executions())


async def test_a_data_folder_without_permission_is_refused(tmp_path: Path) -> None:
    async with Lab(tmp_path) as lab:
        lab.data.write_text("a file in the folder's place")
        refused = lab.start_orchestrator()
        assert await refused.ended() not in (0, -signal.SIGKILL)
        assert "SM-0103" in refused.output()
        assert os.fspath(lab.data) in refused.output()
