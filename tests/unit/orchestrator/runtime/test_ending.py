"""Tasks that have to end do, also those that lose a cancellation."""

from __future__ import annotations

import asyncio

from tests.unit.orchestrator.runtime.lab import virtual

from stepmesh_orchestrator.runtime.ending import cancelled


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
