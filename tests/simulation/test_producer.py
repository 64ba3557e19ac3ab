"""A producer over a whole deployment in virtual time: results stream, and every key is one run while the orchestrator crashes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.simulation.deployment_world import Crash, World
from tests.simulation.virtual_loop import run_virtual

from stepmesh import ProducerLimits, RunFailed
from stepmesh.batches import Ended
from stepmesh_orchestrator.journal.memory import MemoryJournal

FLOW: dict[str, Any] = {
    "name": "produced",
    "steps": [{"id": "a", "component": "/cpu/echo", "input": {"$input": "$"}}],
    "output": {"$step": "a"},
}
SLOW_ONE = {
    "name": "one is slow",
    "steps": [
        {"id": "slow", "component": "/cpu/slow", "input": {"$if": {"$input": "slow"}, "then": 1}},
        {"id": "a", "component": "/cpu/echo", "input": {"$input": "n"}},
    ],
    "output": {"$coalesce": [{"$if": {"$input": "slow"}, "then": {"$step": "slow"}}, {"$step": "a"}]},
}
FAILS: dict[str, Any] = {
    "name": "fails",
    "steps": [{"id": "a", "component": "/cpu/flaky", "input": {}}],
    "output": {"$step": "a"},
}
LIMITS = ProducerLimits(items_per_run=4, inputs_under_way=12)


async def results_of(batch: Any) -> list[Ended]:
    return [ended async for ended in batch.results()]


def test_results_of_a_batch_of_several_runs_carry_the_indices_of_its_inputs() -> None:
    async def main() -> None:
        world = World()
        await world.start_node()
        await world.start_worker()
        client = await world.client()
        async with client.producer(FLOW, limits=LIMITS) as producer:
            batch = await producer.submit(range(100, 110), key="b")
            found = await results_of(batch)
            runs = [run.id for run in await batch]
            again = await results_of(await producer.submit(range(100, 110), key="b"))
        wanted = {(number, runs[number // 4], number % 4, 100 + number, None) for number in range(10)}
        assert {(one.index, one.run, one.item, one.value, one.error) for one in found} == wanted
        assert sorted(again, key=lambda one: one.index) == sorted(found, key=lambda one: one.index)
        assert len(found) == len(again) == 10
        await world.close()

    run_virtual(main())


def test_a_result_comes_while_others_of_its_run_are_still_to_come() -> None:
    async def main() -> None:
        world = World()
        await world.start_node()
        await world.start_worker()
        client = await world.client()
        clock = asyncio.get_running_loop().time
        async with client.producer(SLOW_ONE) as producer:
            batch = await producer.submit([{"slow": number == 0, "n": number} for number in range(3)])
            came = [(one.index, clock()) async for one in batch.results()]
        assert {index for index, _ in came[:2]} == {1, 2}
        assert came[2][0] == 0
        assert came[2][1] - came[1][1] > 2
        await world.close()

    run_virtual(main())


def test_a_result_that_is_a_failure_is_told_with_its_error() -> None:
    async def main() -> None:
        world = World()
        await world.start_node()
        await world.start_worker()
        async with (await world.client()).producer(FAILS) as producer:
            (one,) = await results_of(await producer.submit([1]))
        assert isinstance(one.error, RunFailed)
        assert (one.error.error_code, one.value) == ("COMPONENT_FAILED", None)
        await world.close()

    run_virtual(main())


def test_results_of_a_run_that_is_cancelled_end() -> None:
    async def main() -> None:
        world = World()
        await world.start_node()
        await world.start_worker()
        client = await world.client()
        async with client.producer(SLOW_ONE, max_concurrency=1) as producer:
            batch = await producer.submit([{"slow": number == 3, "n": number} for number in range(9)])
            (run,) = await batch
            found = []
            async for one in batch.results():
                found.append(one)
                if len(found) == 3:
                    await client.cancel(run.id)
        assert {one.index for one in found[:3]} == {0, 1, 2}
        assert all(one.error is not None and one.error.error_code == "CANCELLED" for one in found[3:])
        await world.close()

    run_virtual(main())


@pytest.mark.parametrize("reader", ["stops", "stays"])
def test_a_reader_that_stops_leaves_nothing_behind(reader: str) -> None:
    async def main() -> None:
        world = World()
        await world.start_node()
        await world.start_worker()
        async with (await world.client()).producer(FLOW, limits=LIMITS) as producer:
            batch = await producer.submit(range(10))
            await batch
            before = len(asyncio.all_tasks())
            results = batch.results()
            first = await anext(results)
            assert 0 <= first.index < 10
            if reader == "stops":
                await results.aclose()
            else:
                assert len([one async for one in results]) == 9
            assert len(asyncio.all_tasks()) <= before
        await world.close()

    run_virtual(main())


class CrashEvery:
    """A journal's hook that raises at every `n`-th append."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.calls = 0

    def __call__(self, *_: object) -> None:
        self.calls += 1
        if self.calls % self.n == 0:
            raise Crash


@pytest.mark.parametrize(("before", "after"), [(3, 7), (7, 3), (5, 5)])
def test_every_key_is_one_run_whatever_crashes(before: int, after: int) -> None:
    async def main() -> None:
        world = World(MemoryJournal(before_append=CrashEvery(before), after_append=CrashEvery(after)))
        keeper = asyncio.create_task(world.keep_node_alive())
        await world.start_worker()
        client = await world.client()
        for _ in range(2):  # the producer, too, begins again
            async with client.producer(FLOW, limits=LIMITS) as producer:
                for number in range(30):
                    await producer.submit([number, number + 1], key=f"key-{number}")
                last = await producer.submit(range(20), key="many")
        assert sorted(one.value for one in await results_of(last)) == list(range(20))
        runs = await client.list_runs(limit=1_000)
        assert sorted(str(run.run_key) for run in runs) == sorted([*(f"key-{n}" for n in range(30)), *(f"many/{n}" for n in range(5))])
        for run in runs:
            await client.handle(run.run).wait(timeout=600)
        assert world.restarts > 2
        keeper.cancel()
        await world.close()
        await world.audit()

    run_virtual(main())
