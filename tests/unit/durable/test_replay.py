"""Ordinary asyncio bodies, replayed from the beginning after every record, in a thousand random orders of completion."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.durable.bodies import Body, Journal, step

from stepmesh.durable.execution import State

SEEDS = 1_000


async def sequences() -> Any:
    async def one(name: str) -> Any:
        return [await step(f"{name}1", 1), await step(f"{name}2", 2)]

    return await asyncio.gather(one("a"), one("b"))


async def groups() -> Any:
    async def three(name: str) -> int:
        return sum([await step(f"{name}", number) for number in range(3)])

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(three(f"t{number}")) for number in range(4)]
    return [task.result() for task in tasks]


async def sleeps() -> Any:
    await asyncio.sleep(30 * 86_400)
    return await step("after", 30)


async def races() -> Any:
    try:
        async with asyncio.timeout(60):
            return await step("raced", "in time")
    except TimeoutError:
        return await step("late", "too late")


async def first_of_two() -> Any:
    tasks = [asyncio.ensure_future(step("x", 1)), asyncio.ensure_future(step("y", 2))]
    while not any(task.done() for task in tasks):
        await asyncio.sleep(1)
    winner = next(task for task in tasks if task.done())
    return await step(f"won{await winner}", await winner)


async def queues() -> Any:
    """Two workers take from a queue, and share a lock, as they would in any program."""
    queue: asyncio.Queue[int] = asyncio.Queue()
    lock, taken = asyncio.Lock(), []

    async def worker(name: str) -> None:
        while not queue.empty():
            number = queue.get_nowait()
            found = await step(f"{name}{number}", number)
            async with lock:
                taken.append(found + await step("locked", 10))

    for number in range(4):
        queue.put_nowait(number)
    await asyncio.gather(worker("a"), worker("b"))
    return sorted(taken)


@pytest.mark.parametrize(
    ("body", "results"),
    [
        (sequences, [[[1, 2], [1, 2]]]),
        (groups, [[3, 3, 3, 3]]),
        (sleeps, [30]),
        (races, ["in time", "too late"]),
        (first_of_two, [1, 2]),
        (queues, [[10, 11, 12, 13]]),
    ],
)
def test_every_order_of_completion_replays(body: Body, results: list[Any]) -> None:
    seen: list[Any] = []
    for seed in range(SEEDS):
        journal = Journal(seed)
        turn = journal.run(body)
        assert turn.state is State.DONE, turn.divergence
        assert turn.value in results
        seen += [turn.value] if turn.value not in seen else []
        again = journal.replay(body)
        assert (again.state, again.value, again.commands) == (State.DONE, turn.value, [])
    assert sorted(map(str, seen)) == sorted(map(str, results)), "every outcome was reached"
