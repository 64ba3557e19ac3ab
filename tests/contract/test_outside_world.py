"""Events, gates, idempotency keys and schedules on every pair of broker and journal: what runs are told, what lets them begin, what starts
them, and that all of it is there after a restart.

No worker is needed: the flows wait for events. Nothing depends on how fast a machine is: what is far away in time does not come.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.pairs import Pair
from tests.services.producers import kafka_records, nats_records

from stepmesh.client import Client
from stepmesh.runs import RunHandle
from stepmesh_broker.memory import MemoryBroker
from stepmesh_broker.protocol.api import GetSteps, RunSummary, Steps
from stepmesh_broker.protocol.ids import Namespace, RunId
from stepmesh_broker.protocol.records import Topic
from stepmesh_cli.deployment import Deployment, DeploymentSettings

PAIRS = [Pair(broker, journal) for broker in ("memory", "nats", "kafka") for journal in ("sqlite", "postgres", "redis")]
PARTITIONS = 4
PATIENCE_S = 40.0
KEY = {"$input": "key"}


def waiting_flow(name: str = "waits", **more: Any) -> dict[str, Any]:
    """It ends with the event `go` of its own address."""
    step = {"id": "w", "component": "/builtin/wait_for_event", "input": {"name": "go"}}
    return {"name": name, "steps": [step], "output": {"$step": "w"}, **more}


def keyed_flow() -> dict[str, Any]:
    """It ends with the event `paid` of its key, also one that came within the hour before it."""
    given = {"name": "paid", "key": KEY, "since": "1h"}
    return {"name": "keyed", "steps": [{"id": "w", "component": "/builtin/wait_for_event", "input": given}], "output": {"$step": "w"}}


@dataclass
class World:
    """A deployment, a client of it, and a producer of another program."""

    deployment: Deployment
    client: Client
    write: Callable[[bytes, str], Awaitable[None]]

    async def summary(self, run: RunHandle) -> RunSummary:
        return (await run.info()).summary

    async def begun(self, run: RunHandle) -> str:
        """Until it waits for its event; the token of that wait."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                found = (await self.client.requests.ask(GetSteps(RunId(run.id)), Steps)).steps
                if found and found[0].status == "awaiting":
                    return found[0].token
                await asyncio.sleep(0.05)

    async def became(self, run: RunHandle, status: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while (await self.summary(run)).status != status:
                await asyncio.sleep(0.05)

    async def result(self, run: RunHandle) -> Any:
        return await run.result(timeout=PATIENCE_S)

    async def submit(self, flow: dict[str, Any], key: Any = 1) -> RunHandle:
        return await self.client.submit(flow, [{"key": key}])


@asynccontextmanager
async def opened(settings: DeploymentSettings) -> AsyncIterator[World]:
    async with Deployment(settings) as deployment:
        broker = await deployment.connect()

        async def write(value: bytes, key: str) -> None:
            if isinstance(broker, MemoryBroker):
                broker._streams().write(Topic.EVENTS, value, key)
                return
            produce = kafka_records if settings.broker.startswith("kafka") else nats_records
            await produce(settings.broker, settings.namespace, [(value, key, {})], Topic.EVENTS)

        yield World(deployment, Client(broker, Namespace(settings.namespace)), write)


@pytest.fixture(params=PAIRS, ids=str)
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> DeploymentSettings:
    pair: Pair = request.param
    broker, journal = pair.addresses(request)
    store = None if journal.startswith("postgres") else f"sqlite:{tmp_path / 'store.db'}"
    name = f"t{uuid.uuid4().hex[:12]}"
    kept = pair.journal_in(tmp_path, journal)
    return DeploymentSettings(broker=broker, journal=kept, store=store, namespace=name, partitions=PARTITIONS, data_dir=tmp_path)


# --- events ---------------------------------------------------------------------------------------------------


async def events_by_key_early_and_late_and_once(world: World) -> None:
    send = world.client.events.send
    early = await send("paid", key="early", data=1, id="e1")
    assert (early.matched, early.existing) == (0, False)
    assert (await send("paid", key="early", data="again", id="e1")).existing
    late, other = await world.submit(keyed_flow(), "late"), await world.submit(keyed_flow(), "late")
    await asyncio.gather(world.begun(late), world.begun(other))
    await send("paid", key="late", data=2)
    assert [await world.result(await world.submit(keyed_flow(), "early")), await world.result(late), await world.result(other)] == [1, 2, 2]


async def an_event_by_run(world: World) -> None:
    run, bystander = await world.submit(waiting_flow()), await world.submit(waiting_flow())
    await world.begun(bystander)
    await run.signal("go", {"n": 1})
    assert await world.result(run) == {"n": 1}
    assert (await world.summary(bystander)).status == "running"
    await bystander.cancel()


async def an_answer_by_token(world: World) -> None:
    run = await world.submit(waiting_flow())
    token = await world.begun(run)
    for _ in range(2):
        await world.client.promises.resolve(token, "by token")
    assert await world.result(run) == "by token"


async def events_from_a_topic(world: World) -> None:
    keyed, own = await world.submit(keyed_flow(), "topic"), await world.submit(waiting_flow())
    await world.write(b"nonsense", "")
    for _ in range(2):
        await world.write(b'{"name": "paid", "id": "t1", "data": 7}', "topic")
    cloud = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "go", "stepmeshrun": own.id, "data": [8]}
    await world.write(json.dumps(cloud).encode(), "")
    assert [await world.result(keyed), await world.result(own)] == [7, [8]]
    assert (await world.client.events.send("paid", key="topic", id="t1")).existing
    broker = await world.deployment.connect()
    async with asyncio.timeout(PATIENCE_S):
        while not (letters := [one for one in await broker.parked() if one.pool == "events"]):
            await asyncio.sleep(0.05)
    assert [(one.data, one.reason[:7]) for one in letters] == [(b"nonsense", "SM-5020")]


# --- what lets runs begin ----------------------------------------------------------------------------------------


async def one_of_a_key_goes_at_a_time(world: World) -> None:
    flow = waiting_flow("concurrent", concurrency={"key": KEY})
    first, second, other = [await world.submit(flow, key) for key in ("a", "a", "b")]
    await asyncio.gather(world.begun(first), world.begun(other))
    assert (await world.summary(second)).status == "queued"
    await first.signal("go")
    await world.begun(second)
    await asyncio.gather(second.signal("go"), other.signal("go"))
    await asyncio.gather(*(world.became(run, "completed") for run in (first, second, other)))


async def whoever_comes_while_one_goes_is_skipped_or_takes_its_place(world: World) -> None:
    for policy, ended, going in (("skip", 1, 0), ("cancel_previous", 0, 1)):
        runs: list[RunHandle] = []
        flow = waiting_flow(policy, concurrency={"key": KEY, "policy": policy})
        for _ in range(2):
            runs.append(await world.submit(flow))
            if len(runs) == 1:
                await world.begun(runs[0])
        await world.became(runs[ended], "cancelled")
        await world.begun(runs[going])
        await runs[going].signal("go")
        await world.became(runs[going], "completed")


async def so_many_begin_and_the_next_one_waits_for_its_time(world: World) -> None:
    flow = waiting_flow("throttled", throttle={"rate": "2/d", "key": KEY})
    runs = [await world.submit(flow) for _ in range(3)]
    await asyncio.gather(*map(world.begun, runs[:2]))
    await world.begun(await world.submit(flow, "another"))
    assert (await world.summary(runs[2])).status == "queued"
    for run in runs:
        await run.cancel()


async def of_many_the_last_one_counts(world: World) -> None:
    far = waiting_flow("debounced", debounce={"key": KEY, "period": "1h", "max": "2h"})
    runs = [await world.submit(far) for _ in range(3)]
    await asyncio.gather(*(world.became(run, "cancelled") for run in runs[:2]))
    assert (await world.summary(runs[2])).status == "queued"
    await runs[2].cancel()
    await world.begun(await world.submit(waiting_flow("let through", debounce={"period": "100ms"})))


async def equal_keys_are_one_run(world: World) -> None:
    flow = waiting_flow("idempotent", idempotency={"key": KEY})
    runs = [await world.submit(flow, number % 4) for number in range(8)]
    assert [one.id for one in runs[:4]] == [one.id for one in runs[4:]]
    assert len({one.id for one in runs}) == 4
    assert [one.existing for one in runs] == [False] * 4 + [True] * 4


# --- schedules ------------------------------------------------------------------------------------------------


async def schedules_start_runs(world: World) -> None:
    done: dict[str, Any] = {"name": "done", "steps": [], "output": {"$input": "$"}}
    schedules = world.client.schedules
    await schedules.create("second", done, "tick", every="1s")
    await schedules.create("yearly", done, "year", cron="0 0 1 1 *")
    triggered = [await schedules.trigger("yearly", key="k") for _ in range(2)]
    assert triggered[0].id == triggered[1].id
    filled = await schedules.backfill("yearly", "2020-01-01T00:00:00Z", "2022-06-01T00:00:00Z", key="k")
    assert len({run.id for run in filled}) == 3
    assert [await world.result(run) for run in (triggered[0], *filled)] == ["year"] * 4
    await fired(world, 1)


async def fired(world: World, least: int) -> int:
    async with asyncio.timeout(PATIENCE_S):
        while (found := (await world.client.schedules.get("second")).fired) < least:
            await asyncio.sleep(0.05)
    return found


SCENES = (
    events_by_key_early_and_late_and_once,
    an_event_by_run,
    an_answer_by_token,
    events_from_a_topic,
    one_of_a_key_goes_at_a_time,
    whoever_comes_while_one_goes_is_skipped_or_takes_its_place,
    so_many_begin_and_the_next_one_waits_for_its_time,
    of_many_the_last_one_counts,
    equal_keys_are_one_run,
    schedules_start_runs,
)


async def test_what_comes_from_outside_holds_on_every_pair_and_over_a_restart(settings: DeploymentSettings) -> None:
    async with opened(settings) as world:
        async with asyncio.TaskGroup() as scenes:
            for scene in SCENES:
                scenes.create_task(scene(world), name=scene.__name__)
        await world.client.events.send("paid", key="kept", data="before")
        asleep = await world.submit(keyed_flow(), "later")
        single = waiting_flow("single", concurrency={"key": KEY})
        holder, held = await world.submit(single), await world.submit(single)
        await asyncio.gather(world.begun(asleep), world.begun(holder))
        one = await world.submit(waiting_flow("idempotent", idempotency={"key": KEY}), "restart")
        before = await fired(world, 1)
    async with opened(settings) as world:
        assert await world.result(await world.submit(keyed_flow(), "kept")) == "before"
        asleep, holder, held = [world.client.handle(run.id) for run in (asleep, holder, held)]
        await world.client.events.send("paid", key="later", data="after")
        assert await world.result(asleep) == "after"
        assert (await world.summary(held)).status == "queued"
        await holder.signal("go")
        await world.begun(held)
        assert (await world.submit(waiting_flow("idempotent", idempotency={"key": KEY}), "restart")).id == one.id
        await fired(world, before + 1)
