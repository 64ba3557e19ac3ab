"""The life of tasks and workers: claims, signs of life, cancels, drains, crashes, gateways that come and go."""

from __future__ import annotations

import asyncio

from tests.integration.behaviour.world import PATIENCE_S, World, free_port, until

from stepmesh_broker.protocol.api import GetSteps, Steps

LEASE_S = 6.0


async def test_a_batch_of_two_thousand_tasks(world: World) -> None:
    await world.start_worker()
    handle = await world.begin("/echo", list(range(2_000)))
    await world.ended(handle)
    assert await world.values(handle) == list(range(2_000))
    assert (await world.recorded(handle))["item_completed"] == 2_000


async def test_several_workers_share_the_work(world: World) -> None:
    workers = [await world.start_worker(concurrency=2) for _ in range(3)]
    handle = await world.begin("/ledger", [{"file": world.file(), "ms": 50}] * 240)
    assert (await world.ended(handle)).completed == 240
    assert {pid for _, _, pid in world.notes("start")} == {worker.pid for worker in workers}
    assert len(world.notes("start")) == len(world.notes("end")) == 240


async def test_a_worker_runs_as_many_tasks_at_once_as_it_has_room_for(world: World) -> None:
    await world.start_worker(concurrency=3)
    handle = await world.begin("/ledger", [{"file": world.file(), "ms": 300}] * 9)
    assert (await world.ended(handle)).completed == 9
    under_way = most = 0
    for word, _, _ in world.notes():
        under_way += 1 if word == "start" else -1
        most = max(most, under_way)
    assert most == 3


async def test_a_task_longer_than_its_lease_runs_once(world: World) -> None:
    await world.start_worker()
    await world.start_worker()
    handle = await world.begin("/ledger", [{"file": world.file(), "ms": round((LEASE_S + 3) * 1000)}])
    assert (await handle.result(PATIENCE_S))["attempt"] == 1
    assert len(world.notes("start")) == 1


async def test_a_task_that_keeps_its_thread_busy_past_its_lease_runs_once(world: World) -> None:
    await world.start_worker()
    handle = await world.begin("/block", [{"ms": round((LEASE_S + 2) * 1000)}])
    assert await handle.result(PATIENCE_S) == {"blocked": 8000}
    assert (await world.recorded(handle))["step_started"] <= 1


async def test_progress_is_shown_while_a_task_runs(world: World) -> None:
    await world.start_worker()
    handle = await world.begin("/progress", [{"steps": 20, "ms": 300}])

    async def shown() -> bool:
        steps = (await world.client.requests.ask(GetSteps(handle.id), Steps)).steps
        return any(step.fraction and 0 < step.fraction <= 1 and b'"k"' in (step.details or b"") for step in steps)

    await until(shown, 20)
    await world.client.cancel(handle.id)


async def test_a_cancel_reaches_running_tasks_and_spares_others(world: World) -> None:
    await world.start_worker()
    kept = await world.begin("/sleep", [{"ms": 1500}])
    handle = await world.begin("/wait_cancelled", [{"file": world.file()}] * 3)
    await until(lambda: len(world.notes("start")) == 3)
    await world.client.cancel(handle.id)
    await until(lambda: len(world.notes("stopped")) == 3, 10)
    assert (await world.ended(handle)).status == "cancelled"
    assert await kept.result(20) == {"slept": 1500}


async def test_a_cancel_reaches_tasks_that_run_for_longer_than_their_lease(world: World) -> None:
    await world.start_worker()
    handle = await world.begin("/wait_cancelled", [{"file": world.file()}])
    await until(lambda: world.notes("start"))
    await asyncio.sleep(LEASE_S + 1)
    await world.client.cancel(handle.id)
    await until(lambda: world.notes("stopped"), 10)


async def test_a_drain_finishes_what_runs_and_hands_back_the_rest(world: World) -> None:
    first = await world.start_worker(concurrency=2)
    handle = await world.begin("/ledger", [{"file": world.file(), "ms": 1200}] * 8)
    await until(lambda: len(world.notes("start")) == 2)
    first.terminate()
    assert await first.ended(20) == 0
    begun = world.notes("start")
    assert world.notes("end") == [("end", attempt, pid) for _, attempt, pid in begun]
    second = await world.start_worker()
    assert (await world.ended(handle)).completed == 8
    assert len(world.notes("start")) == len(world.notes("end")) == 8
    assert {pid for _, _, pid in world.notes("start")[len(begun) :]} == {second.pid}


async def test_a_worker_without_work_drains_at_once(world: World) -> None:
    worker = await world.start_worker()
    worker.terminate()
    assert await worker.ended(5) == 0


async def test_a_killed_worker_s_task_runs_again_elsewhere_and_is_recorded_once(world: World) -> None:
    workers = [await world.start_worker() for _ in range(2)]
    handle = await world.begin("/ledger", [{"file": world.file(), "ms": 2500}])
    await until(lambda: world.notes("start"))
    [(_, _, busy)] = world.notes("start")
    first, second = sorted(workers, key=lambda worker: worker.pid != busy)
    first.kill()
    found = await handle.result(PATIENCE_S)
    assert found["pid"] == second.pid
    assert [pid for _, _, pid in world.notes("start")] == [first.pid, second.pid]
    assert (await world.recorded(handle))["step_completed"] == 1


async def test_quick_tasks_of_a_killed_worker_are_not_lost(world: World) -> None:
    first = await world.start_worker()
    handle = await world.begin("/sleep", [{"ms": 20}] * 400)
    await until(lambda: _some_done(world, handle.id))
    first.kill()
    await world.start_worker()
    assert (await world.ended(handle)).completed == 400
    assert (await world.recorded(handle))["item_completed"] == 400


async def test_a_component_that_ends_its_process_touches_only_its_own_task(world: World) -> None:
    workers = [await world.start_worker() for _ in range(2)]
    others = await world.begin("/sleep", [{"ms": 30}] * 200)
    crashing = await world.begin("/crash", [{"attempts": 1, "file": world.file()}])

    async def ended() -> bool:
        if workers[-1].process.returncode is not None or workers[-2].process.returncode is not None:
            workers.append(await world.start_worker())
        return (await world.client.get_run(crashing.id)).summary.status != "running"

    await until(ended)
    assert await crashing.result(PATIENCE_S) == {"attempt": 2}
    dead = [worker for worker in workers if worker.process.returncode is not None]
    assert {worker.process.returncode for worker in dead} == {70}
    assert len(world.notes("start")) == len(dead) + 1
    assert (await world.ended(others)).completed == 200


async def test_a_restarted_gateway_finds_its_workers_and_their_tasks_again(world: World) -> None:
    await world.start_worker()
    handle = await world.begin("/ledger", [{"file": world.file(), "ms": 4000}] * 4)
    await until(lambda: len(world.notes("start")) == 4)
    await asyncio.sleep(1.5)
    await world.stop_gateway()
    await world.start_gateway()
    assert (await world.ended(handle)).completed == 4
    assert len(world.notes("start")) == 4
    assert await world.run("/echo", 1) == 1


async def test_what_ended_while_the_gateway_was_dead_counts_and_is_not_run_again(world: World) -> None:
    await world.stop_gateway()
    gateway = world.gateway_process()
    await gateway.start()
    await world.start_worker()
    handle = await world.begin("/ledger", [{"file": world.file(), "ms": 2500}] * 4)
    await until(lambda: len(world.notes("start")) == 4)
    await asyncio.sleep(1.5)
    await gateway.kill()
    await until(lambda: len(world.notes("end")) == 4)
    await gateway.start()
    assert (await world.ended(handle)).completed == 4
    assert len(world.notes("start")) == 4
    assert (await world.recorded(handle))["step_completed"] == 4


async def test_a_worker_goes_to_another_gateway_when_its_own_leaves(world: World) -> None:
    await world.stop_gateway()
    own = await world.start_gateway()
    port = free_port()
    await world.start_worker(more_ports=[port])
    handle = await world.begin("/ledger", [{"file": world.file(), "ms": 3000}] * 2)
    await until(lambda: len(world.notes("start")) == 2)
    await world.start_gateway(port)
    await own.stop()
    assert (await world.ended(handle)).completed == 2
    assert len(world.notes("start")) == 2
    assert await world.run("/echo", "there") == "there"


async def test_a_worker_waits_for_a_gateway_that_is_away_and_still_drains(world: World) -> None:
    worker = await world.start_worker()
    await world.stop_gateway()
    worker.terminate()
    assert await worker.ended(25) == 0


async def _some_done(world: World, run: str) -> bool:
    return (await world.client.get_run(run)).summary.completed > 50
