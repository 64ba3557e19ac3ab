"""The clocks: time never goes backwards, and the virtual one wakes its sleepers in order of due time."""

from __future__ import annotations

import asyncio
import time

import pytest

from stepmesh_orchestrator.clock import SystemClock, VirtualClock
from stepmesh_orchestrator.ports import Clock

START_MS = 1_000_000


def test_system_time_is_the_machines() -> None:
    before = time.time_ns() // 1_000_000
    assert before <= SystemClock().now_ms() <= time.time_ns() // 1_000_000


def test_system_time_stands_still_while_the_machines_clock_is_set_back() -> None:
    readings = iter([5_000_000_000, 1_400_000_000, 5_000_999_999, 5_001_000_000])
    clock = SystemClock(lambda: next(readings))
    assert [clock.now_ms() for _ in range(4)] == [5000, 5000, 5000, 5001]


async def test_system_sleep_waits_by_the_monotonic_clock() -> None:
    clock: Clock = SystemClock()
    before = clock.monotonic()
    await clock.sleep(0.005)
    assert clock.monotonic() - before >= 0.004


async def sleeper(clock: VirtualClock, name: str, seconds: float, woken: list[tuple[str, float]]) -> None:
    await clock.sleep(seconds)
    woken.append((name, clock.monotonic()))


async def test_virtual_time_moves_only_when_advanced() -> None:
    clock = VirtualClock(START_MS)
    assert (clock.now_ms(), clock.monotonic()) == (START_MS, 0)
    await clock.advance(1.5)
    assert (clock.now_ms(), clock.monotonic()) == (START_MS + 1500, 1.5)
    with pytest.raises(ValueError, match="backwards"):
        await clock.advance(-0.001)


async def test_sleepers_wake_in_order_of_due_time_then_of_their_calls() -> None:
    clock, woken = VirtualClock(), list[tuple[str, float]]()
    tasks = [asyncio.create_task(sleeper(clock, name, due, woken)) for name, due in [("c", 3), ("a", 1), ("b", 2), ("b2", 2)]]
    await clock.advance(2)
    assert woken == [("a", 1), ("b", 2), ("b2", 2)]
    await clock.advance(0.999)
    assert len(woken) == 3
    await clock.advance(0.001)
    assert woken[3:] == [("c", 3)]
    await asyncio.gather(*tasks)


async def test_who_falls_asleep_on_the_way_wakes_on_the_way() -> None:
    clock, beats = VirtualClock(), list[float]()

    async def heart() -> None:
        while True:
            await clock.sleep(0.25)
            beats.append(clock.monotonic())

    task = asyncio.create_task(heart())
    await clock.advance(1)
    assert beats == [0.25, 0.5, 0.75, 1.0]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_next_due_says_how_far_to_advance() -> None:
    clock, woken = VirtualClock(), list[tuple[str, float]]()
    assert clock.next_due() is None
    early, late = (asyncio.create_task(sleeper(clock, name, due, woken)) for name, due in [("early", 2), ("late", 5)])
    await clock.advance(0)
    assert clock.next_due() == 2
    early.cancel()
    await asyncio.gather(early, return_exceptions=True)
    assert clock.next_due() == 5
    await clock.advance(5)
    await late
    assert (woken, clock.next_due()) == ([("late", 5)], None)


@pytest.mark.parametrize("seconds", [0, -1])
async def test_sleeping_for_nothing_only_lets_others_run(seconds: float) -> None:
    clock = VirtualClock()
    await asyncio.wait_for(clock.sleep(seconds), 1)
    assert clock.monotonic() == 0
