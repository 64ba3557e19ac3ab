"""The small parts: due times, those who wait, those who work."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.orchestrator.runtime.lab import virtual

from stepmesh_broker.protocol.ids import Pool, RunId, WorkerId
from stepmesh_broker.protocol.messages import ComponentInfo, Hello, TaskRef
from stepmesh_orchestrator.clock import VirtualClock
from stepmesh_orchestrator.runtime.presence import SILENT_S, Presence
from stepmesh_orchestrator.runtime.timers import Timers
from stepmesh_orchestrator.runtime.waiters import Waiters

RUN = RunId("r")


def task(step: int) -> TaskRef:
    return TaskRef(RUN, 0, step, 1)


# --- timers ---


def test_timers_are_due_in_order_of_their_time_then_of_their_setting() -> None:
    timers = Timers()
    for due, step in [(30, 0), (10, 1), (20, 2), (10, 3)]:
        timers.set(due, task(step))
    assert timers.next_due() == 10
    assert timers.due(20) == [task(1), task(3), task(2)]
    assert (timers.next_due(), len(timers)) == (30, 1)


@pytest.mark.parametrize(("now", "taken"), [(99, 0), (100, 1), (101, 1)])
def test_a_timer_is_never_early(now: int, taken: int) -> None:
    timers = Timers()
    timers.set(100, task(0))
    assert len(timers.due(now)) == taken


def test_a_flood_of_timers_is_taken_in_parts() -> None:
    timers = Timers()
    for step in range(5):
        timers.set(step, task(step))
    assert [len(timers.due(10, limit=2)) for _ in range(4)] == [2, 2, 1, 0]
    assert timers.next_due() is None


# --- waiters ---


@virtual
async def test_all_who_wait_for_a_run_are_woken_and_nobody_else() -> None:
    waiters = Waiters()
    waiting = [asyncio.create_task(waiters.wait(run, 5)) for run in (RUN, RUN, RunId("other"))]
    await asyncio.sleep(0)
    waiters.wake(RUN)
    assert await asyncio.gather(*waiting) == [True, True, False]
    assert not waiters


@virtual
async def test_who_listens_before_the_look_misses_nothing() -> None:
    waiters = Waiters()
    with waiters.listen(RUN) as news:
        assert waiters
        waiters.wake(RUN)
        assert news.is_set()
    assert not waiters
    waiters.wake(RUN)


@virtual
async def test_who_gives_up_waiting_is_forgotten() -> None:
    waiters = Waiters()
    waiting = asyncio.create_task(waiters.wait(RUN, 5))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert not waiters


# --- presence ---


def hello(worker: str, stopping: bool = False, *paths: str) -> Hello:
    return Hello(WorkerId(worker), Pool("p"), 8, "1", [ComponentInfo(path) for path in paths], stopping=stopping)


async def test_workers_are_counted_until_they_say_goodbye() -> None:
    presence = Presence(VirtualClock())
    presence.hear(hello("w1", False, "/a"))
    presence.hear(hello("w1", False, "/a", "/b"))
    presence.hear(hello("w2"))
    assert presence.workers("p") == 2
    presence.hear(hello("w1", True))
    presence.hear(hello("never seen", True))
    assert [seen.hello.worker for seen in presence.seen("p")] == ["w2"]
    assert sorted(presence.offered()["p"]) == ["/a", "/b"], "what was offered stays known"
    assert (presence.workers("q"), presence.seen("q"), presence.pools()) == (0, [], ["p"])


async def test_what_a_worker_offers_no_more_is_forgotten_unless_another_one_offers_it() -> None:
    presence = Presence(VirtualClock())
    presence.hear(hello("w1", False, "/a", "/b"))
    presence.hear(hello("w2", False, "/b"))
    presence.hear(hello("w1", False, "/c"))
    assert sorted(presence.offered()["p"]) == ["/b", "/c"]
    presence.hear(hello("w2", False))
    assert sorted(presence.offered()["p"]) == ["/c"]


@pytest.mark.parametrize(("silent_s", "left"), [(SILENT_S, 1), (SILENT_S + 0.001, 0)])
async def test_silent_workers_are_forgotten(silent_s: float, left: int) -> None:
    clock = VirtualClock()
    presence = Presence(clock)
    presence.hear(hello("w1"))
    await clock.advance(silent_s)
    presence.forget_silent()
    assert presence.workers("p") == left
