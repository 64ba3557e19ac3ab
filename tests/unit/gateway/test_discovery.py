"""What workers offer: asked when they come, never in the way of a task."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from tests.unit.gateway.door import Door, one_step, opened
from tests.unit.gateway.puller import pulling, status_of

from stepmesh_gateway.work.catalogue import Catalogue, Found, as_is, missing
from stepmesh_gateway.work.line import Offer


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    """Without a worker."""
    async with opened(workers=0) as one:
        yield one


async def listed(door: Door) -> dict[str, Any]:
    """The components of pool py by path, once there are some."""
    async with asyncio.timeout(10):
        while True:
            answer = await door.client("ComponentsService/ListRegisteredComponents")
            found = {one.path: one for one in answer.components if one.path.startswith("/py/")}
            if found:
                return found
            await asyncio.sleep(0.02)


async def workers_of(door: Door) -> int:
    return door.deployment.node.presence.workers("py")


async def until_workers(door: Door, count: int) -> None:
    async with asyncio.timeout(10):
        while await workers_of(door) != count:
            await asyncio.sleep(0.02)


async def test_what_a_worker_tells_is_listed_with_schemas_as_long_as_it_is_there(door: Door) -> None:
    async with pulling(door.gateway, offers={"/work": "work", "/x/{name}": "x"}) as worker:
        found = await listed(door)
        assert set(found) == {"/py/work", "/py/x/{name}"}
        assert found["/py/work"].description == "about work"
        assert found["/py/work"].input_schema["type"] == "object"
        await until_workers(door, 1)
        assert worker.questions[0].task_id.startswith("discovery-")
    await until_workers(door, 0)


async def test_a_worker_is_there_until_its_last_stream_ends(door: Door) -> None:
    async with pulling(door.gateway):
        async with pulling(door.gateway):
            await until_workers(door, 1)
        await asyncio.sleep(0.1)
        assert await workers_of(door) == 1
    await until_workers(door, 0)


async def test_paths_with_parameters_reach_the_component_that_registered_them(door: Door) -> None:
    offers = {"/work": "work", "/x/{name}": "one", "/x/{name}/{*rest}": "many", "/x/fixed": "fixed"}
    async with pulling(door.gateway, offers=offers) as worker:
        for path, id, params in (
            ("/work", "work", {}),
            ("/x/a", "one", {"name": "a"}),
            ("/x/fixed", "fixed", {}),
            ("/x/a/b/c", "many", {"name": "a", "rest": "b/c"}),
        ):
            await door.client.submit(one_step(f"/py{path}"), 1)
            task = await worker.begin()
            assert (task.execute.component_id, dict(task.execute.path_params)) == (id, params)
            await worker.complete(task)


async def test_a_component_that_nobody_offers_fails_at_once_with_the_nearest(door: Door) -> None:
    async with pulling(door.gateway, offers={"/double": "double", "/boom": "boom"}):
        await listed(door)
        began = time.monotonic()
        answer = await door.client.run(one_step("/py/dubble"), 1)
        assert answer.results[0].error_code == 6
        assert answer.results[0].error_message == "no component /dubble in pool py: did you mean /double?"
        assert time.monotonic() - began < 1.0


async def test_a_worker_that_does_not_answer_gets_its_tasks_after_a_moment(door: Door) -> None:
    async with pulling(door.gateway, silent=True) as worker:
        began = time.monotonic()
        await door.client.submit(one_step("/py/some/where"), 1)
        task = await worker.begin(5.0)
        assert task.execute.component_id == "some/where"
        assert time.monotonic() - began < 3.0
        await worker.complete(task)
        await door.client.submit(one_step("/py/some/where"), 1)
        began = time.monotonic()
        await worker.begin(5.0)
        assert time.monotonic() - began < 0.5, "the wait is over for good"


async def test_what_a_pool_offered_last_serves_until_the_next_worker_answers(door: Door) -> None:
    async with pulling(door.gateway, offers={"/work": "the-work"}):
        await listed(door)
    async with pulling(door.gateway, "w2", silent=True) as worker:
        began = time.monotonic()
        await door.client.submit(one_step("/py/work"), 1)
        assert (await worker.begin(5.0)).execute.component_id == "the-work"
        assert time.monotonic() - began < 0.8
        await door.client.submit(one_step("/py/new"), 1)
        assert (await worker.begin(5.0)).execute.component_id == "new"


async def test_a_task_goes_to_a_worker_that_offers_its_component(door: Door) -> None:
    async with pulling(door.gateway, "a", offers={"/a": "a"}) as a, pulling(door.gateway, "b", offers={"/b": "b"}) as b:
        for _ in range(3):
            await door.client.submit(one_step("/py/b"), 1)
        await door.client.submit(one_step("/py/a"), 1)
        assert (await a.begin()).execute.component_id == "a"
        for _ in range(3):
            await b.complete(await b.begin())
        await a.nothing(0.1)


async def test_a_discovery_s_answer_of_another_gateway_is_taken(door: Door) -> None:
    async with opened(workers=0) as second, pulling(second.gateway, silent=True) as worker:
        worker.client = door.client
        await worker.tell(worker.questions[0])
        strange = type(worker.questions[0])(task_id="nonsense")
        assert (await status_of(worker.tell(strange)))[0] is grpc.StatusCode.INVALID_ARGUMENT


def offers(*paths: str) -> Catalogue:
    return Catalogue(Offer(path, f"id of {path}") for path in paths)


def test_a_catalogue_prefers_what_is_said_more_exactly() -> None:
    catalogue = offers("/{*all}", "/a/{x}", "/{x}/b", "/a/b", "/a/{x}/c", "/a/{*rest}")
    assert catalogue.find("/a/b") == Found("id of /a/b", {})
    assert catalogue.find("/a/z") == Found("id of /a/{x}", {"x": "z"})
    assert catalogue.find("/z/b") == Found("id of /{x}/b", {"x": "z"})
    assert catalogue.find("/a/z/c") == Found("id of /a/{x}/c", {"x": "z"})
    assert catalogue.find("/a/z/d") == Found("id of /a/{*rest}", {"rest": "z/d"})
    assert catalogue.find("/q/r/s") == Found("id of /{*all}", {"all": "q/r/s"})
    assert catalogue.find("/q/r/s") == Found("id of /{*all}", {"all": "q/r/s"}), "remembered"


def test_a_catalogue_says_no() -> None:
    catalogue = offers("/a/{x}", "b")
    assert catalogue.find("/a") is None
    assert catalogue.find("/a/b/c") is None
    assert catalogue.find("/b") == Found("id of b", {}), "a slash is never missing"
    assert Catalogue([]).find("/a") is None
    assert as_is("/a/b") == Found("a/b", {})


def test_what_is_missing_is_told_with_what_there_is() -> None:
    assert missing("/dubble", "py", [offers("/double", "/x")]) == "no component /dubble in pool py: did you mean /double?"
    assert (
        missing("/quite-else", "py", [offers("/double"), offers("/x")])
        == "no component /quite-else in pool py: its workers offer /double, /x"
    )
    assert missing("/q", "py", []) == "no component /q in pool py: its workers offer none"
