"""Single faults with real processes: stopped, killed, drained and poisoned workers, a wiped broker, two orchestrators on one folder."""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.audit import check, read_story
from tests.acceptance.killing import stop
from tests.acceptance.processes import Lab, as_json, until

from stepmesh.client import Client
from stepmesh.runs import RunHandle
from stepmesh_broker.nats import read_endpoint

pytestmark = pytest.mark.acceptance


def flow(component: str, **more: Any) -> dict[str, Any]:
    """One step on the run's input."""
    return {"steps": [{"id": "p", "component": f"/cpu/{component}", "input": {"$input": "$"}, **more}], "output": {"$step": "p"}}


CHAIN = {
    "steps": [
        {"id": "a", "component": "/cpu/echo", "input": {"$input": "$"}},
        {"id": "nap", "component": "/builtin/sleep", "input": {"duration": "2s", "passthrough": {"$step": "a"}}},
        {"id": "b", "component": "/cpu/slow", "input": {"seconds": 0.2, "value": {"$step": "nap"}}},
        {"id": "c", "component": "/cpu/echo", "input": {"$step": "b", "path": "value"}},
    ],
    "output": {"$step": "c"},
}


async def up(lab: Lab, workers: int = 1) -> Client:
    """A client of a running deployment."""
    lab.start_orchestrator()
    for _ in range(workers):
        lab.start_worker()
    return await lab.client()


async def audited(lab: Lab, *handles: RunHandle) -> None:
    """Stop everything, then the oracle."""
    await stop(lab)
    check(await read_story(lab.data), {handle.id for handle in handles}, lab.executions())


async def test_a_broker_that_lost_everything_loses_no_run(tmp_path: Path) -> None:
    """Row K4: the broker's folder goes while all is down and a hundred runs are on their way."""
    async with Lab(tmp_path) as lab:
        client = await up(lab, workers=2)
        handles = [await client.submit(CHAIN, [n]) for n in range(100)]
        await until("some progress", lambda: lab.starts("a") >= 30)
        for process in (lab.orchestrator, *lab.workers):
            assert process is not None
            process.kill()
        await until("no nats-server", lambda: not lab.nats_pid)
        url = read_endpoint(lab.data)
        assert url is not None
        shutil.rmtree(lab.data / "nats")
        lab.start_orchestrator()
        await until("a broker", lambda: read_endpoint(lab.data) is not None)
        for index in range(2):
            lab.restart_worker(index)
        fresh = await lab.client()
        for n, handle in enumerate(handles):
            assert await fresh.handle(handle.id).result(60) == n
        await audited(lab, *handles)


async def test_a_broker_that_is_killed_with_a_thousand_tasks_in_flight_loses_none(tmp_path: Path) -> None:
    """Row K3."""
    async with Lab(tmp_path) as lab:
        client = await up(lab, workers=2)
        handle = await client.submit(CHAIN, list(range(1000)), max_concurrency=0)
        for kill in range(4):
            await until("progress", lambda kill=kill: len(lab.executions()) >= 1200 * kill + 200)
            lab.kill_nats()
        assert await handle.result(60) == list(range(1000))
        await audited(lab, handle)


async def test_a_worker_that_was_stopped_past_its_lease_changes_nothing(tmp_path: Path) -> None:
    """Row Z1."""
    async with Lab(tmp_path) as lab:
        client = await up(lab)
        handle = await client.submit(flow("slow"), [{"seconds": 4}])
        await until("the step runs", lambda: lab.starts("p"))
        await asyncio.sleep(2.0)  # past the claim, which comes after a second
        zombie = lab.workers[0]
        zombie.send(signal.SIGSTOP)
        lab.start_worker()
        await until("another worker has it", lambda: lab.starts("p") == 2, 30)
        zombie.send(signal.SIGCONT)
        assert await handle.result(30) == {"seconds": 4}
        assert await client.run(flow("echo"), "the zombie works again", timeout=20) == "the zombie works again"
        await audited(lab, handle)


async def test_a_second_orchestrator_on_the_folder_is_refused_while_the_first_sleeps(tmp_path: Path) -> None:
    """Row Z2: one process per data folder, also when that process does not move."""
    async with Lab(tmp_path) as lab:
        client = await up(lab)
        first = lab.orchestrator
        assert first is not None
        handle = await client.submit(flow("slow"), [{"seconds": 2}])
        await until("the step runs", lambda: lab.starts("p"))
        first.send(signal.SIGSTOP)
        second = lab.start_orchestrator("second")
        assert await second.ended() not in (0, None)
        assert "SM-0102" in second.output()
        assert f"in use by process {first.pid}" in second.output()
        first.send(signal.SIGCONT)
        lab.orchestrator = first
        assert await handle.result(30) == {"seconds": 2}
        await audited(lab, handle)


async def test_an_orchestrator_that_slept_past_a_lease_blames_no_worker(tmp_path: Path) -> None:
    """While it did not move it heard nobody, so silence proves nothing."""
    async with Lab(tmp_path) as lab:
        client = await up(lab)
        handle = await client.submit(flow("slow"), [{"seconds": 12, "n": n} for n in range(4)])
        await until("the steps run", lambda: lab.starts("p") == 4)
        await asyncio.sleep(1.5)
        assert lab.orchestrator is not None
        lab.orchestrator.send(signal.SIGSTOP)
        await asyncio.sleep(8.0)
        lab.orchestrator.send(signal.SIGCONT)
        assert [result["n"] for result in await handle.result(40)] == [0, 1, 2, 3]
        assert lab.starts("p") == 4
        await audited(lab, handle)


async def test_a_healthy_worker_keeps_its_long_step_while_the_orchestrator_is_killed(tmp_path: Path) -> None:
    async with Lab(tmp_path) as lab:
        client = await up(lab, workers=2)
        handles = [await client.submit(flow("slow"), [{"seconds": seconds}]) for seconds in (3, 3.5, 5, 9)]
        await until("the steps run", lambda: lab.starts("p") == 4)
        for pause in (0.3, 1.2):
            await asyncio.sleep(pause)
            assert lab.orchestrator is not None
            lab.orchestrator.kill()
            lab.start_orchestrator()
            await client.list_runs()
        for handle in handles:
            await handle.result(60)
        assert lab.starts("p") == 4, "each was executed exactly once"
        await audited(lab, *handles)


async def test_a_component_that_kills_its_workers_is_parked_and_other_work_flows(tmp_path: Path) -> None:
    """Row P1p."""
    async with Lab(tmp_path, retries=1) as lab:
        client = await up(lab, workers=2)
        poison = await client.submit(flow("poison"), ["x"])
        others: list[RunHandle] = []
        ending = asyncio.create_task(poison.wait(58))
        while not ending.done():
            for index, worker in enumerate(lab.workers):
                if not worker.alive:
                    assert await worker.ended() == 9
                    lab.restart_worker(index)
            if len(others) < 100:
                others.append(await client.submit(flow("echo"), [len(others)]))
            await asyncio.sleep(0.2)
        assert ending.result().summary.status == "failed"
        [item] = [item async for item in poison.items()]
        error: Any = as_json(item.result)
        assert error["error"]["code"] == "UNREACHABLE"
        parked = await client.dead_letters()
        assert [letter.pool for letter in parked] == ["cpu"]
        assert poison.id in parked[0].reason
        assert [await other.result(20) for other in others] == list(range(len(others)))
        for index, worker in enumerate(lab.workers):
            if not worker.alive:
                lab.restart_worker(index)
        await audited(lab, poison, *others)


async def test_workers_that_are_drained_under_load_lose_nothing(tmp_path: Path) -> None:
    async with Lab(tmp_path) as lab:
        client = await up(lab, workers=2)
        handle = await client.submit(flow("slow"), [{"seconds": 0.05 + n % 7 / 10} for n in range(300)], max_concurrency=0)
        for turn in range(6):
            await until("progress", lambda turn=turn: lab.starts("p") >= 20 * (turn + 1))
            worker = lab.workers[turn % 2]
            worker.send(signal.SIGTERM)
            assert await worker.ended() == 0, worker.output()
            lab.restart_worker(turn % 2)
        await handle.result(60)
        ends = [key for kind, *key in lab.executions() if kind == "end"]
        assert len(ends) == 300, "what was begun was finished, and nothing was begun twice"
        await audited(lab, handle)


async def test_an_idle_deployment_stops_at_once(tmp_path: Path) -> None:
    async with Lab(tmp_path) as lab:
        client = await up(lab)
        await client.run(flow("echo"), 1, timeout=20)
        began = time.monotonic()
        await stop(lab)
        assert time.monotonic() - began < 20
