"""Whole deployments in virtual time: sub-runs that components start, cancels of what runs, leases, time limits."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest
from tests.simulation.deployment_world import Crash, World, until
from tests.simulation.test_crash_every_write import FLOW
from tests.simulation.virtual_loop import run_virtual

from stepmesh import Context, Worker
from stepmesh.attempt import Why
from stepmesh.broker_link import BrokerLink
from stepmesh_broker.protocol.ids import Partition, RunId, WorkerId
from stepmesh_broker.protocol.messages import TaskRef, Verdict
from stepmesh_orchestrator.journal.memory import MemoryJournal
from stepmesh_orchestrator.runtime.shard import Shard

CHILD = {"steps": [{"id": "c", "component": "/cpu/echo", "input": {"$input": "$"}}], "output": {"$step": "c"}}
SLOW_CHILD = {"steps": [{"id": "c", "component": "/cpu/endless", "input": 1}], "output": {"$step": "c"}}

BUSY = {
    "steps": [*FLOW["steps"], {"id": "d", "component": "/cpu/delegate", "input": {"$input": "n"}}],  # type: ignore[misc]  # a list
    "output": {"s": {"$step": "s"}, "d": {"$step": "d"}},
}


def flow(component: str, **more: Any) -> dict[str, Any]:
    """One step on the run's input."""
    return {"steps": [{"id": "p", "component": f"/cpu/{component}", "input": {"$input": "$"}, **more}], "output": {"$step": "p"}}


class Deployment(World):
    """A world whose workers have components that start sub-runs, and that never end."""

    def __init__(self, journal: MemoryJournal | None = None, concurrency: int = 8) -> None:
        super().__init__(journal)
        self.concurrency = concurrency
        self.stopped: list[str] = []

    def worker(self, *, exclusive: bool = False) -> Worker:
        worker = super().worker(exclusive=exclusive)
        worker.concurrency = self.concurrency

        def note(context: Context) -> None:
            self.executions[context.run_id, context.item, context.step_id, context.attempt] += 1

        @worker.component
        async def delegate(value: Any, context: Context) -> Any:
            note(context)
            result = await context.evaluate_flow(CHILD, value)
            if value == "twice" and context.attempt == 1:
                raise RuntimeError("after the sub-run")
            return result

        @worker.component
        async def late_delegate(value: Any, context: Context) -> Any:
            note(context)
            await asyncio.sleep(5)
            return await context.evaluate_flow(CHILD, value)

        @worker.component
        async def delegate_endless(value: Any, context: Context) -> Any:
            note(context)
            await self.noted(context, context.evaluate_flow(SLOW_CHILD, value))

        @worker.component
        async def endless(value: Any, context: Context) -> Any:
            note(context)
            await self.noted(context, asyncio.sleep(100_000))

        @worker.component
        async def deep(value: int, context: Context) -> Any:
            note(context)
            return value if not value else await context.evaluate_flow(flow("deep"), value - 1)

        return worker

    async def noted(self, context: Context, work: Any) -> None:
        """Note in `stopped` that the component went on no more: cancelled, or because its sub-run was."""
        try:
            await work
        finally:
            self.stopped.append(context.step_id)

    @property
    def shard(self) -> Shard:
        assert self.node is not None
        return self.node.partitions[Partition(0)].shard

    def started(self, step: str) -> int:
        """Executions of a step id."""
        return sum(count for (_, _, name, _), count in self.executions.items() if name == step)


async def up(world: Deployment, workers: int = 1) -> Any:
    """A client of a running deployment."""
    await world.start_node()
    for _ in range(workers):
        await world.start_worker()
    return await world.client()


async def down(world: Deployment) -> None:
    await world.close()
    await world.audit()


# --- sub-runs that components start ------------------------------------------------------------------------------


def test_a_retried_step_finds_the_sub_run_of_its_first_attempt() -> None:
    async def main() -> None:
        world = Deployment()
        client = await up(world)
        result = await client.run(flow("delegate", onError={"action": "retry", "maxRetries": 2}), "twice", timeout=60)
        assert result == "twice"
        assert (world.started("p"), world.started("c")) == (2, 1)
        assert len(await client.list_runs()) == 2
        await down(world)

    run_virtual(main())


@pytest.mark.parametrize("limit", [1, 2, None])
def test_components_that_wait_for_sub_runs_hold_no_slot_of_their_run(limit: int | None) -> None:
    async def main() -> None:
        world = Deployment()
        client = await up(world)
        handle = await client.submit(flow("delegate"), list(range(25)), max_concurrency=limit)
        assert await handle.result(timeout=120) == list(range(25))
        await down(world)

    run_virtual(main())


def test_a_worker_with_one_slot_runs_what_its_component_waits_for() -> None:
    async def main() -> None:
        world = Deployment(concurrency=1)
        client = await up(world)
        assert await client.run(flow("deep"), 5, timeout=60, max_concurrency=1) == 0
        await down(world)

    run_virtual(main())


def test_an_orchestrator_that_is_long_away_fails_no_component_that_starts_a_sub_run() -> None:
    async def main() -> None:
        world = Deployment()
        client = await up(world)
        handle = await client.submit(flow("late_delegate"), ["x"])
        await until(lambda: world.started("p"))
        assert world.node is not None
        await world.node.abort()
        await asyncio.sleep(300)
        await world.start_node()
        assert await handle.result(timeout=60) == "x"
        assert world.started("p") == 1
        await down(world)

    run_virtual(main())


def test_slots_are_right_after_sub_runs_retries_and_a_recovery() -> None:
    async def main() -> None:
        world = Deployment()
        client = await up(world)
        handle = await client.submit(flow("delegate_endless"), [1, 2], max_concurrency=3)
        await until(lambda: world.started("c") == 2)
        assert world.shard.session.state.trees[handle.id].in_flight == 2, "the sub-runs' steps, not those that wait for them"
        assert world.node is not None
        await world.node.abort()
        await world.start_node()
        assert world.shard.session.state.trees[handle.id].in_flight == 2
        await handle.cancel()
        assert (await handle.wait(timeout=30)).summary.status == "cancelled"
        await down(world)

    run_virtual(main())


def test_a_cancel_reaches_sub_runs_and_the_components_that_wait_for_them() -> None:
    async def main() -> None:
        world = Deployment()
        client = await up(world)
        handle = await client.submit(flow("delegate_endless"), [1])
        await until(lambda: world.started("c"))
        await handle.cancel("enough")
        await handle.wait(timeout=10)
        await asyncio.sleep(1.0)
        assert sorted(world.stopped) == ["c", "p"]
        assert {run.status for run in await client.list_runs()} == {"cancelled"}
        await down(world)

    run_virtual(main())


@pytest.mark.parametrize("side", ["before", "after"])
def test_sub_runs_survive_a_crash_at_every_write(side: str) -> None:
    async def main(at: int) -> int:
        calls = 0

        def hook(partition: int, sequence: int) -> None:
            nonlocal calls
            calls += 1
            if calls == at:
                raise Crash(f"at write {at}")

        world = Deployment(MemoryJournal(**{f"{side}_append": hook}))
        keeper = asyncio.create_task(world.keep_node_alive())
        await world.start_worker()
        client = await world.client()
        handle = await client.submit(flow("deep"), [2, 1], run_key="once", max_concurrency=1)
        assert await handle.result(timeout=600) == [0, 0]
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        await down(world)
        return calls

    writes = run_virtual(main(0))
    assert writes > 8
    for at in range(1, writes + 1):
        run_virtual(main(at))


# --- cancels -----------------------------------------------------------------------------------------------------


def test_a_cancel_stops_the_running_component_at_once_and_frees_its_worker() -> None:
    async def main() -> None:
        world = Deployment(concurrency=1)
        client = await up(world)
        handle = await client.submit(flow("endless"), [1])
        await until(lambda: world.started("p"))
        await handle.cancel()
        assert await client.run(flow("echo"), "next", timeout=5) == "next"
        assert world.stopped == ["p"]
        await down(world)

    run_virtual(main())


def test_a_cancel_whose_signal_is_lost_in_a_crash_reaches_the_worker_with_its_next_heartbeat() -> None:
    async def main() -> None:
        crashing = {"armed": False}

        def hook(partition: int, sequence: int) -> None:
            if crashing["armed"]:
                crashing["armed"] = False
                raise Crash("the cancel is durable, its signal was never sent")

        world = Deployment(MemoryJournal(after_append=hook))
        keeper = asyncio.create_task(world.keep_node_alive())
        await world.start_worker()
        client = await world.client()
        handle = await client.submit(flow("endless"), [1])
        await until(lambda: world.started("p"))
        await asyncio.sleep(2.0)
        crashing["armed"] = True
        await handle.cancel()
        await handle.wait(timeout=10)
        await asyncio.sleep(5.0)
        assert world.restarts == 1
        assert world.stopped == ["p"]
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        await down(world)

    run_virtual(main())


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_cancel_at_any_moment_and_a_crash_at_any_write_leave_an_ended_run(side: str) -> None:
    statuses: Counter[str] = Counter()

    async def main(at: int, after_s: float) -> int:
        calls = 0

        def hook(partition: int, sequence: int) -> None:
            nonlocal calls
            calls += 1
            if calls == at:
                raise Crash(f"at write {at}")

        world = Deployment(MemoryJournal(**{f"{side}_append": hook}))
        keeper = asyncio.create_task(world.keep_node_alive())
        await world.start_worker()
        client = await world.client()
        handle = await client.submit(BUSY, [{"n": 7}, {"n": 8}], run_key="once")
        await asyncio.sleep(after_s)
        await handle.cancel("enough")
        statuses[(await handle.wait(timeout=600)).summary.status] += 1
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        await down(world)
        return calls

    for after_s in (0.0, 0.05, 0.5, 1.5, 2.5, 3.5, 9.0):
        writes = run_virtual(main(0, after_s))
        for at in range(1, writes + 1, 2):
            run_virtual(main(at, after_s))
    assert statuses["cancelled"] > 20
    assert statuses["completed"] > 0


# --- leases, broker lives, time limits ---------------------------------------------------------------------------


def test_a_lost_broker_loses_no_task() -> None:
    async def main() -> None:
        world = Deployment()
        client = await up(world, workers=0)
        handles = [await client.submit(flow("echo"), [n]) for n in range(20)]
        await asyncio.sleep(1.0)
        world.bus.wipe()
        await world.start_worker()
        assert [await handle.result(timeout=30) for handle in handles] == list(range(20))
        await down(world)

    run_virtual(main())


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_broker_that_is_lost_with_the_orchestrator_at_any_write_loses_no_run(side: str) -> None:
    """Tasks, results, claims: all that was on its way is gone, and the journal's word is all that is left. Row K4 with K1."""

    async def main(at: int) -> int:
        calls = 0

        def hook(partition: int, sequence: int) -> None:
            nonlocal calls
            calls += 1
            if calls == at:
                world.bus.wipe()
                raise Crash(f"at write {at}")

        world = Deployment(MemoryJournal(**{f"{side}_append": hook}))
        keeper = asyncio.create_task(world.keep_node_alive())
        await world.start_worker()
        client = await world.client()
        handle = await client.submit(BUSY, [{"n": 7}, {"n": 8}], run_key="once")
        assert await handle.result(timeout=600) == [{"s": 3, "d": 7}, {"s": 3, "d": 8}]
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        await down(world)
        return calls

    for at in range(1, run_virtual(main(0)) + 1):
        run_virtual(main(at))


def test_a_silent_worker_loses_its_task_and_its_late_result() -> None:
    async def main() -> None:
        world = Deployment()
        client = await up(world)
        handle = await client.submit(flow("slow"), ["x"])
        await until(lambda: world.shard.dispatcher.leases.held)
        first, run = world.workers[0]
        assert first._session is not None
        assert isinstance(first._session.link, BrokerLink)
        first._session.link.leases.close()
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        await world.start_worker()
        assert await handle.result(timeout=60) == "x"
        assert world.started("p") == 2
        world.workers.pop(0)
        await down(world)

    run_virtual(main())


def test_a_worker_that_is_heard_keeps_its_task_over_a_restart() -> None:
    async def main(pause: float) -> None:
        world = Deployment()
        client = await up(world, workers=2)
        handle = await client.submit(flow("slow"), ["x"])
        await until(lambda: world.started("p"))
        await asyncio.sleep(pause)
        assert world.node is not None
        await world.node.abort()
        await asyncio.sleep(0.5)
        await world.start_node()
        assert await handle.result(timeout=60) == "x"
        assert world.started("p") == 1, "nobody else began it"
        await down(world)

    for tenths in range(0, 30, 2):
        run_virtual(main(tenths / 10))


def test_soon_after_a_recovery_only_the_worker_that_runs_a_task_gets_it() -> None:
    async def main() -> None:
        world = Deployment()
        client = await up(world, workers=0)
        handle = await client.submit(flow("echo"), ["x"])
        await asyncio.sleep(0.5)
        assert world.node is not None
        await world.node.abort()
        await world.start_node()
        leases, task, now = world.shard.dispatcher.leases, TaskRef(RunId(handle.id), 0, 0, 1), world.clock.monotonic()
        assert leases.claim(task, WorkerId("idle"), now, 0) is Verdict.NOT_READY
        assert leases.claim(task, WorkerId("busy"), now, 0, running=True) is Verdict.GRANTED
        assert leases.claim(task, WorkerId("idle"), now, 0) is Verdict.HELD
        await world.start_worker()
        assert await handle.result(timeout=60) == "x"
        await down(world)

    run_virtual(main())


def test_what_was_never_published_is_sent_again_although_its_pool_is_never_idle() -> None:
    """The recovery begins at a snapshot that is newer than the dispatch; so only the broker's floor shows that nobody has the task."""

    async def main() -> None:
        world = Deployment()
        client = await up(world, workers=0)
        lost = await client.submit(flow("echo"), ["lost"])
        await asyncio.sleep(0.5)
        await world.shard.snapshot()
        assert world.node is not None
        await world.node.abort()
        world.bus.wipe()
        await world.start_node()
        await world.start_worker()
        others: list[Any] = []
        busy = asyncio.create_task(keep_busy(client, others))
        assert await lost.result(timeout=60) == "lost"
        busy.cancel()
        await asyncio.gather(busy, *(other.wait() for other in others), return_exceptions=True)
        await down(world)

    run_virtual(main())


async def keep_busy(client: Any, handles: list[Any]) -> None:
    while True:
        handles.append(await client.submit(flow("slow"), [1]))
        await asyncio.sleep(0.5)


def test_a_worker_ends_an_attempt_that_is_over_its_time_limit() -> None:
    async def main() -> None:
        world = Deployment()
        client = await up(world)
        handle = await client.submit(flow("endless", timeout="2s"), [1])
        info = await handle.wait(timeout=120)
        assert info.summary.status == "failed"
        [item] = [item async for item in handle.items()]
        assert json.loads(item.result)["error"]["code"] == "TIMEOUT"
        assert world.stopped == ["p"] * world.started("p")
        await down(world)

    run_virtual(main())


def test_the_shard_ends_an_attempt_whose_worker_does_not() -> None:
    async def main() -> None:
        world = Deployment()
        client = await up(world)
        handle = await client.submit(flow("endless", timeout="2s"), [1])
        await until(lambda: world.started("p"))
        worker, _ = world.workers[0]
        assert worker._session is not None
        execution = worker._session.execution
        execution.stop = lambda attempt, why: None if why is Why.TIMEOUT else type(execution).stop(execution, attempt, why)  # type: ignore[method-assign]  # a worker that forgets time
        info = await handle.wait(timeout=120)
        [item] = [item async for item in handle.items()]
        error = json.loads(item.result)["error"]
        assert info.summary.status == "failed"
        assert (error["code"], "its worker did not end it" in error["message"]) == ("TIMEOUT", True)
        await down(world)

    run_virtual(main())


def test_a_task_that_takes_its_workers_down_is_parked_under_its_pool() -> None:
    async def main() -> None:
        world = Deployment()
        client = await up(world, workers=0)
        handle = await client.submit(flow("endless"), [1])
        for attempt in range(1, 5):
            await world.start_worker()
            _, run = world.workers.pop()
            await until(lambda attempt=attempt: world.executions[handle.id, 0, "p", attempt])
            await asyncio.sleep(1.5)
            assert world.shard.dispatcher.leases.held
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)
        info = await handle.wait(timeout=60)
        assert info.summary.status == "failed"
        await asyncio.sleep(1.0)
        [parked] = await world.node.ports.broker.parked()  # type: ignore[union-attr]  # it is up
        assert parked.pool == "cpu"
        assert "step 'p'" in parked.reason
        await down(world)

    run_virtual(main())
