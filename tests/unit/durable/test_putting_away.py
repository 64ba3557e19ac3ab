"""Bodies that are put away in a worker, whose own loop runs meanwhile."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator
from random import Random
from typing import Any

import pytest
from tests.unit.durable.bodies import BEGAN_MS, RUN, step

from stepmesh.durable import wf
from stepmesh.durable.execution import Execution


@pytest.mark.parametrize("seed", range(8))
async def test_a_body_that_is_put_away_in_a_worker_leaves_its_loop_nothing_to_do(seed: int) -> None:
    """Its async generators, such as sagas and shields, are its own and not the loop's that happens to run."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    async def numbers() -> AsyncGenerator[int]:
        try:
            yield 1
            await step("within")
        finally:
            await step("closing")

    async def waits(kind: int) -> None:
        if kind == 0:
            async with wf.shield():
                await step("shielded")
        elif kind == 1:
            async with wf.saga() as saga:
                saga.undo(lambda: step("undo"))
                await step("done")
        else:
            async for _ in numbers():
                pass

    async def body() -> None:
        await asyncio.gather(*(waits(Random(seed + n).randrange(3)) for n in range(4)))

    execution = Execution(body, BEGAN_MS, RUN)
    execution.turn()
    execution.drop()
    del execution
    gc.collect()
    for _ in range(5):
        await asyncio.sleep(0)
    gc.collect()
    assert not told
