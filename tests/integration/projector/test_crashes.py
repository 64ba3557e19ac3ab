"""kill -9 of projectors while a deployment works: no row is lost, and nothing counts twice in a window."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.integration.projector.following import Follower, Where
from tests.integration.projector.test_projector import prepared
from tests.integration.projector.trimming import ALL, Trimming, counted, trimming

KILLS = 3
SOME = 40


@pytest.fixture
async def where(kafka_url: str, postgres_url: str, tmp_path: Path) -> AsyncGenerator[Where]:
    """A namespace of its own; the deployment makes the topic."""
    async with prepared(kafka_url, postgres_url, tmp_path) as found:
        yield found


@asynccontextmanager
async def loading(deployment: Trimming) -> AsyncGenerator[None]:
    """Runs come and end meanwhile, without a pause."""
    over = asyncio.Event()

    async def work() -> None:
        while not over.is_set():
            await deployment.load(SOME)

    task = asyncio.create_task(work())
    try:
        yield
    finally:
        over.set()
        await task


async def everything_counts_once(deployment: Trimming, where: Where, follower: Follower) -> None:
    await follower.until(deployment.is_settled)
    await deployment.is_complete()
    assert await counted(where) == len(deployment.submitted)


async def stored(where: Where) -> int:
    return sum([await where.store.projected(partition) for partition in ALL])


@pytest.mark.parametrize("settle_s", [0.05, 3_600], ids=["between checkpoints", "before the first checkpoint"])
async def test_killed_in_the_middle_of_its_work(where: Where, monkeypatch: pytest.MonkeyPatch, settle_s: float) -> None:
    async with trimming(where, monkeypatch) as deployment:
        async with loading(deployment):
            for _ in range(KILLS):
                before = await stored(where)
                with Follower(where, settle_s=settle_s) as follower:

                    async def moved(before: int = before) -> bool:
                        return await stored(where) > before

                    await follower.until(moved)
                    follower.kill()
        assert settle_s < 1 or not any(await deployment.checkpoints())
        with Follower(where) as follower:
            await everything_counts_once(deployment, where, follower)
            assert follower.stop() == 0, follower.said


async def test_two_share_the_partitions_and_one_dies(where: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    async with trimming(where, monkeypatch) as deployment:
        with Follower(where) as one, Follower(where) as other:

            async def shared() -> bool:
                return "is followed" in one.said and "is followed" in other.said

            async with loading(deployment):
                await one.until(shared)
                before = await stored(where)

                async def moved() -> bool:
                    return await stored(where) > before

                await one.until(moved)
                one.kill()
            await everything_counts_once(deployment, where, other)
            assert other.stop() == 0, other.said
