"""Bodies made at random of everything that waits, in random orders of completion, cancelled at random: a replay from the beginning never
differs, and a worker that ends after any record changes nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Any

from tests.unit.durable.bodies import BEGAN_MS, RUN, Body, Journal

from stepmesh.durable import wf
from stepmesh.durable.errors import StepFailed
from stepmesh.durable.execution import Execution, State
from stepmesh.durable.limits import STRICT
from stepmesh.durable.rehearsal import crash_at_every_record
from stepmesh_broker.protocol.histories import CancelAsked

SEEDS = 1_000
Node = tuple[Any, ...]
LEAVES = ("step", "fails", "sleep", "clock", "effect", "note")
BRANCHES = ("sequence", "gather", "group", "first", "map", "timeout", "attempt", "shield", "saga", "left")


def made(random: Random, depth: int) -> Node:
    """A part of a body."""
    if depth == 0 or random.random() < 0.25:
        return random.choice(LEAVES), random.randrange(3), ()
    kind = random.choice(BRANCHES)
    return kind, random.randrange(1, 200), tuple(made(random, depth - 1) for _ in range(random.randrange(1, 4)))


def refuse() -> None:
    raise ValueError("refused")


async def done(node: Node) -> Any:
    """What the part gives."""
    kind, number, parts = node
    return await globals()[f"_{kind}"](number, parts)


async def _step(number: int, _: Any) -> Any:
    return await wf.run(f"step {number}", lambda n: n + 1, number)


async def _fails(number: int, _: Any) -> Any:
    return await wf.run(f"fails {number}", refuse)


async def _sleep(number: int, _: Any) -> Any:
    await asyncio.sleep(number)
    return "slept"


async def _clock(_: int, __: Any) -> Any:
    drawn = [wf.now().timestamp() - BEGAN_MS / 1000, wf.random().random(), str(wf.uuid())]
    return await wf.run("drawn", lambda *values: list(values), *drawn)


async def _effect(number: int, _: Any) -> Any:
    return wf.side_effect("effect", lambda: number)


async def _note(number: int, _: Any) -> Any:
    wf.set("status", number)
    await wf.stream("progress").write(number)


async def _sequence(_: int, parts: Any) -> Any:
    return [await done(part) for part in parts]


async def _gather(_: int, parts: Any) -> Any:
    return await asyncio.gather(*(done(part) for part in parts))


async def _group(_: int, parts: Any) -> Any:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(done(part)) for part in parts]
    return [task.result() for task in tasks]


async def _first(_: int, parts: Any) -> Any:
    return await wf.first(*(done(part) for part in parts))


async def _map(number: int, parts: Any) -> Any:
    found = await wf.map(done, parts, limit=number % 3, on_error="collect")
    return [repr(one) if isinstance(one, Exception) else one for one in found]


async def _timeout(number: int, parts: Any) -> Any:
    try:
        async with asyncio.timeout(number):
            return await done(parts[0])
    except TimeoutError:
        return "late"


async def _attempt(_: int, parts: Any) -> Any:
    try:
        return await done(parts[0])
    except (StepFailed, ExceptionGroup):
        return "failed"


async def _shield(_: int, parts: Any) -> Any:
    async with wf.shield():
        return await done(parts[0])


async def _saga(number: int, parts: Any) -> Any:
    async with wf.saga() as saga:
        saga.undo(lambda: wf.run("undo", lambda: number))
        return await done(parts[0])


async def _left(_: int, parts: Any) -> Any:
    task = wf.detach(done(parts[0]))
    rest = [await done(part) for part in parts[1:]]
    return [rest, task.done()]


def body_of(seed: int) -> Body:
    node = "sequence", 0, (made(Random(seed), 4), made(Random(seed + SEEDS), 4))

    async def body() -> Any:
        return await done(node)

    return body


def test_no_replay_differs_and_no_crash_matters() -> None:
    ended: Counter[State] = Counter()
    for seed in range(SEEDS):
        body, journal = body_of(seed), Journal(seed)
        cancel_at = journal.random.randrange(6) if seed % 2 == 0 else None
        for number in range(400):
            turn = journal.replay(body)
            assert turn.divergence is None, (seed, turn.divergence)
            if turn.state is not State.IDLE:
                break
            journal.append(turn)
            if number == cancel_at:
                journal.records.append(CancelAsked(journal.now_ms, "by chance"))
            else:
                journal.complete()
        ended[turn.state] += 1
        assert turn.state is not State.IDLE, seed
        journal.append(turn)
        crash_at_every_record(lambda body=body: Execution(body, BEGAN_MS, RUN, limits=STRICT), journal.records)  # type: ignore[misc]
    assert set(ended) == {State.DONE, State.FAILED, State.CANCELLED}
    assert min(ended.values()) > SEEDS // 20, ended
