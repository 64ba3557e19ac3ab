"""The scenario of durable functions: local steps per second with each one journaled, what a replay costs, what one weighs that waits."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from pathlib import Path

from stepmesh.client import Client
from stepmesh.durable.execution import State
from stepmesh.durable.workflow import Workflow
from stepmesh_broker.protocol.histories import Record, Settled
from stepmesh_cli.bench.functions_worker import app, chain, hurry, nap
from stepmesh_cli.bench.scenarios import Figures, spent
from stepmesh_cli.bench.settings import BenchSettings
from stepmesh_cli.bench.sleeping import dormant, sizes, until
from stepmesh_cli.bench.stage import Stage, stage
from stepmesh_cli.bench.standing import folder_of

STEPS = 100
LANES = 256
"""Functions that are submitted and waited for at a time."""
MONTH_S = 30 * 86_400.0
REPLAYED = 1_000
"""Steps of the history that is replayed."""


async def functions(settings: BenchSettings) -> Figures:
    """Functions of a hundred local steps in a row, 256 at a time; one of a thousand alone, as it comes and ahead of its history; then
    functions that sleep for a month."""
    async with folder_of(settings) as data, stage(settings, data=data, worker="stepmesh_cli.bench.functions_worker", pool=app.name) as on:
        flow = await on.client.store_flow(chain)
        runs = settings.amount(1_000)
        await _run(on.client, flow, max(1, runs // 10))
        async with on.measured() as meter:
            await _run(on.client, flow, runs)
        steps = runs * STEPS
        found = {"steps": steps, "steps_per_s": round(steps / meter.seconds), **spent(meter, steps), **on.info()}
        found |= {"alone_steps_per_s": await _alone(on, chain), "ahead_steps_per_s": await _alone(on, hurry)}
        waiting = await _waiting(on, data, settings.runs or settings.amount(10_000))
    return {**found, "replay_us_per_step": replay_us(REPLAYED), **waiting}


async def _alone(on: Stage, workflow: Workflow[..., int]) -> int:
    """Steps per second of one function that has the deployment to itself."""
    flow = await on.client.store_flow(workflow)
    await on.client.run(flow, STEPS)
    async with on.measured() as meter:
        await on.client.run(flow, REPLAYED)
    return round(REPLAYED / meter.seconds)


async def _waiting(on: Stage, data: Path, functions: int) -> Figures:
    """What one weighs that sleeps. Memory is that of the second half: the first one leaves the room that runs take up while they are
    submitted, which the second finds empty. `objects`: of Python, in this process."""
    sleeping = await on.client.store_flow(nap)
    already, halves = sizes(data), [functions - functions // 2, functions // 2]
    occupied: list[tuple[dict[str, int], int]] = []
    for half in halves:
        await _asleep(on, sleeping, half)
        occupied.append((on.resident(), sys.getallocatedblocks()))
    (first, fewer), (second, more) = occupied
    on_disk, counted = sizes(data) - already, max(1, halves[1])
    memory = {name: round((second[name] - size) / counted) for name, size in first.items() if name in second}
    disk = {name: round(size / functions) for name, size in on_disk.items()}
    return {
        "waiting": functions, "bytes_on_disk_each": {"all": round(on_disk.total() / functions), **disk}, "bytes_in_memory_each": memory,
        "objects_each": round((more - fewer) / counted, 1),
    }  # fmt: skip


async def _asleep(on: Stage, flow: str, functions: int) -> None:
    wanted = dormant(on.deployment) + functions
    await asyncio.gather(*(_submit(on.client, flow, share) for share in _shares(functions)))
    await until(lambda: dormant(on.deployment) == wanted)
    gc.collect()


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
