"""The scenario of durable functions: local steps per second with each one journaled, what a replay costs, what one weighs that waits."""

from __future__ import annotations

import asyncio
import gc
import time

from stepmesh.client import Client
from stepmesh.durable.execution import State
from stepmesh_broker.protocol.histories import Record, Settled
from stepmesh_cli.bench.functions_worker import app, chain, nap
from stepmesh_cli.bench.processes import own_usage
from stepmesh_cli.bench.scenarios import Figures, spent
from stepmesh_cli.bench.settings import BenchSettings
from stepmesh_cli.bench.sleeping import dormant, sizes, until
from stepmesh_cli.bench.stage import stage
from stepmesh_cli.bench.standing import folder_of

STEPS = 100
LANES = 256
"""Functions that are submitted and waited for at a time."""
MONTH_S = 30 * 86_400.0
REPLAYED = 1_000
"""Steps of the history that is replayed."""


async def functions(settings: BenchSettings) -> Figures:
    """Functions of a hundred local steps in a row, 256 at a time; then functions that sleep for a month."""
    async with folder_of(settings) as data, stage(settings, data=data, worker="stepmesh_cli.bench.functions_worker", pool=app.name) as on:
        flow = await on.client.store_flow(chain)
        runs = settings.amount(1_000)
        await _run(on.client, flow, max(1, runs // 10))
        async with on.measured() as meter:
            await _run(on.client, flow, runs)
        steps = runs * STEPS
        found = {"steps": steps, "steps_per_s": round(steps / meter.seconds), **spent(meter, steps), **on.info()}
        waiting, sleeping = settings.runs or settings.amount(10_000), await on.client.store_flow(nap)
        gc.collect()
        before, on_disk = own_usage().rss, sizes(data)
        await asyncio.gather(*(_submit(on.client, sleeping, share) for share in _shares(waiting)))
        await until(lambda: dormant(on.deployment) == waiting)
        gc.collect()
        grown = {"memory": own_usage().rss - before, **(sizes(data) - on_disk)}
    return {
        **found, "replay_us_per_step": replay_us(REPLAYED), "waiting": waiting,
        "bytes_per_waiting": {name: round(size / waiting) for name, size in grown.items()},
    }  # fmt: skip


def replay_us(steps: int) -> float:
    """CPU µs per step of replaying a history of so many from its beginning."""
    execution = chain.begin("r", b"%d" % steps, 0)
    records: list[Record] = []
    turn = execution.turn()
    while turn.state is State.IDLE:
        (command,) = turn.commands
        told: list[Record] = [command, Settled(command.id, 0, b"%d" % len(records))]
        records += told
        turn = execution.turn(told)
    started = time.process_time()
    assert chain.begin("r", b"%d" % steps, 0).turn(records).state is State.DONE
    return round((time.process_time() - started) / steps * 1e6, 2)


async def _run(client: Client, flow: str, runs: int) -> None:
    left = iter(range(runs))

    async def lane() -> None:
        for _ in left:
            await client.run(flow, STEPS)

    await asyncio.gather(*(lane() for _ in range(LANES)))


async def _submit(client: Client, flow: str, runs: int) -> None:
    for _ in range(runs):
        await client.submit(flow, [MONTH_S])


def _shares(total: int) -> list[int]:
    return [total // LANES + (lane < total % LANES) for lane in range(LANES)]
