"""The journal in Kafka forgets nothing that a projector still needs, and what is left of it is enough to begin again."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from tests.integration.projector.following import Follower, Where
from tests.integration.projector.test_projector import prepared
from tests.integration.projector.trimming import ALL, PARTITIONS, Trimming, counted, trimming

SOME = 30


@pytest.fixture
async def where(kafka_url: str, postgres_url: str, tmp_path: Path) -> AsyncGenerator[Where]:
    """A namespace of its own; the deployment makes the topic."""
    async with prepared(kafka_url, postgres_url, tmp_path) as found:
        yield found


async def trimmed_beyond(deployment: Trimming, frames: list[int]) -> None:
    """Load until the first frames of every partition that come after these are gone."""

    async def gone() -> bool:
        await deployment.load(SOME)
        return all(there > wanted for there, wanted in zip(await deployment.trimmed(), frames, strict=True))

    await deployment.until(gone)


async def test_a_projector_that_was_away_while_the_journal_was_trimmed_misses_no_row(where: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    async with trimming(where, monkeypatch) as deployment:
        with Follower(where) as follower:
            await trimmed_beyond(deployment, [0] * PARTITIONS)
            follower.kill()
        kept = await deployment.checkpoints()
        older = await deployment.snapshots()
        for _ in range(20):
            await deployment.load(SOME)
            assert all(gone <= needed for gone, needed in zip(await deployment.trimmed(), kept, strict=True))
            if all(new[-1] > old[0] for new, old in zip(await deployment.snapshots(), older, strict=True)):
                break
        assert all(new[-1] > needed for new, needed in zip(await deployment.snapshots(), kept, strict=True)), "none is as old as it needs"
        with Follower(where) as follower:
            await deployment.load(SOME)
            await follower.until(deployment.is_projected)
            await deployment.is_complete()
            await follower.until(deployment.is_settled)
            await trimmed_beyond(deployment, kept)
            await follower.until(deployment.is_projected)
            assert follower.stop() == 0, follower.said
    await deployment.is_complete()


async def test_without_any_projector_no_frame_goes_and_no_snapshot_comes(where: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    async with trimming(where, monkeypatch) as deployment:
        for _ in range(5):
            await deployment.load(SOME)
        assert await deployment.trimmed() == [0] * PARTITIONS
        assert await deployment.snapshots() == [[] for _ in ALL]
        assert (await examined(where))["state"] == "warning"
        with Follower(where) as follower:
            await follower.until(deployment.is_settled)
            assert follower.stop() == 0, follower.said
        found = await examined(where)
        assert (found["state"], found["found"][:5]) == ("ok", "0 of "), found
    await deployment.is_complete()


async def test_projectors_take_over_from_orchestrators_that_trimmed_and_a_rebuild_loses_nothing(
    where: Where, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with trimming(where, monkeypatch, "inline") as first:
        await trimmed_beyond(first, [0] * PARTITIONS)
    async with trimming(where, monkeypatch) as second:
        second.submitted += first.submitted
        with Follower(where) as follower:
            await second.load(SOME)
            await follower.until(second.is_projected)
            assert follower.stop() == 0, follower.said
        await second.is_complete()
        before = await second.read_model()
        with Follower(where, "--rebuild") as follower:

            async def rebuilt() -> bool:
                return await where.keeper.generation() == 1 and await second.is_settled()

            await follower.until(rebuilt)
            assert follower.stop() == 0, follower.said
            assert "is counted from frame" in follower.said
        assert await second.read_model() == before
        assert SOME <= await counted(where) < len(second.submitted), "windows begin with the frames that are left"


async def examined(where: Where) -> dict[str, str]:
    """What `stepmesh doctor` says of projectors."""
    command = [sys.executable, "-m", "stepmesh_cli", "doctor", "--json", "--journal", where.kafka, "--store", where.postgres]
    shown = await asyncio.to_thread(subprocess.run, [*command, "--namespace", where.namespace], capture_output=True, cwd=where.folder)
    checks = {check["name"]: check for check in map(json.loads, shown.stdout.splitlines())}
    found: dict[str, str] = checks["projectors"]
    return found
