"""Tasks that have to end do, also those that lose a cancellation."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.orchestrator.runtime.lab import virtual

from stepmesh_broker.ending import cancelled, ended


async def deaf(times: int) -> None:
    """Goes on after so many cancellations."""
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            if not times:
                raise
            times -= 1


@virtual
async def test_a_cancellation_that_is_lost_is_followed_by_another_one() -> None:
    clock = asyncio.get_running_loop().time
    for times in range(3):
        task = asyncio.create_task(deaf(times))
        await asyncio.sleep(0)
        began = clock()
        await cancelled([task], again_s=2.0)
        assert task.cancelled()
        assert clock() - began == 2.0 * times


@virtual
async def test_what_has_ended_or_fails_is_no_trouble() -> None:
    async def fails() -> None:
        raise OSError("of its own")

    failing, waiting = asyncio.create_task(fails()), asyncio.create_task(deaf(0))
    await asyncio.sleep(0)
    await cancelled([failing, waiting])
    assert isinstance(failing.exception(), OSError)
    assert waiting.cancelled()
    await cancelled([])


async def test_work_that_ends_in_time_says_so_and_raises_what_it_raised() -> None:
    async def broken() -> None:
        raise OSError("the disk")

    assert await ended(asyncio.sleep(0), 5)
    with pytest.raises(OSError, match="the disk"):
        await ended(broken(), 5)


async def test_work_that_does_not_end_is_cancelled() -> None:
    stopped: list[bool] = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(True)

    assert not await ended(endless(), 0.01)
    assert stopped == [True]


async def test_work_ends_with_the_caller_that_is_cancelled() -> None:
    stopped: list[bool] = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(True)

    waiting = asyncio.create_task(ended(endless(), 3600))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert stopped == [True]


async def test_work_that_is_cancelled_from_within_cancels_nobody_else() -> None:
    """A client that ends by cancelling parts of its own, and hears of it itself."""

    async def trips() -> None:
        part = asyncio.create_task(asyncio.Event().wait())
        await asyncio.sleep(0)
        part.cancel()
        await part

    assert not await ended(trips(), 5)
