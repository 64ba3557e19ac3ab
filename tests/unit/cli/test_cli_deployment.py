"""A whole deployment in this process: every pair of broker and journal, what it refuses, how it ends."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from stepmesh import RunFailed, Worker
from stepmesh_broker.errors import BrokerError, StepmeshError
from stepmesh_cli.data_folder import owner_of
from stepmesh_cli.deployment import Deployment, DeploymentSettings
from stepmesh_cli.errors import CommandError, DataFolderInUse, DataFolderUnusable, PartitionsDiffer
from stepmesh_cli.processes import WorkerProcess
from stepmesh_orchestrator.config import parse_config

FLOW = {"name": "f", "steps": [{"id": "a", "component": "/cpu/double", "input": {"$input": "n"}}], "output": {"$step": "a"}}
NOOP = {"name": "n", "steps": [{"id": "a", "component": "/builtin/noop", "input": 1}], "output": {"$step": "a"}}


def doubling() -> Worker:
    worker = Worker(pool="cpu")

    @worker.component
    async def double(n: int) -> int:
        return 2 * n

    return worker


@asynccontextmanager
async def deployed(**settings: Any) -> AsyncIterator[Deployment]:
    async with Deployment(DeploymentSettings(**settings)) as deployment:
        yield deployment


@pytest.mark.parametrize("broker", ["memory", "embedded"])
@pytest.mark.parametrize("journal", ["memory", "sqlite"])
async def test_a_run_goes_through(broker: str, journal: str, tmp_path: Path) -> None:
    async with deployed(broker=broker, journal=journal, data_dir=tmp_path / "data", workers=(doubling(),)) as deployment:
        client = await deployment.client()
        assert await deployment.guard(client.run(FLOW, {"n": 21}, timeout=30)) == 42
    assert owner_of(tmp_path / "data") is None


async def test_the_builtin_pool_is_always_served() -> None:
    flow = {"steps": [{"id": "a", "component": "/builtin/create_messages", "input": {"user_prompt": "hi"}}], "output": {"$step": "a"}}
    async with deployed() as deployment:
        result = await (await deployment.client()).run(flow, None, timeout=30)
    assert result == {"messages": [{"role": "user", "content": "hi"}]}


async def test_mocks_of_the_configuration_are_served() -> None:
    config, _ = parse_config(
        """
        plugins:
          fake: {type: mock, components: {/say: {behaviors: {'{"v":1}': {outcome: success, result: [1, 2.0]}, '2': {error: kaput}}}}}
        routes: {/f: [{plugin: fake}]}
        """,
        {},
    )
    flow = {"steps": [{"id": "a", "component": "/f/say", "input": {"$input": "$"}}], "output": {"$step": "a"}}
    async with deployed(config=config) as deployment:
        client = await deployment.client()
        assert await client.run(flow, {"v": 1}, timeout=30) == [1, 2.0]
        with pytest.raises(RunFailed, match="kaput"):
            await client.run(flow, 2, timeout=30)
        assert "/f/say" in [entry.path for entry in await client.components()]


async def test_a_temporary_folder_is_used_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    async with deployed(broker="embedded", journal="sqlite") as deployment:
        assert await (await deployment.client()).run(NOOP, None, timeout=30) == 1
        made = list(tmp_path.iterdir())
        assert [path.name.startswith("stepmesh-") for path in made] == [True]
        assert {"nats", "journal.db", "store.db"} <= {path.name for path in made[0].iterdir()}
    assert list(tmp_path.iterdir()) == []


async def test_what_ran_is_known_after_a_restart(tmp_path: Path) -> None:
    async with deployed(journal="sqlite", data_dir=tmp_path) as deployment:
        client = await deployment.client()
        handle = await client.submit(FLOW, [{"n": 4}])
        ended = await client.submit(NOOP, [None])
        await ended.wait(30)
    async with deployed(journal="sqlite", data_dir=tmp_path, workers=(doubling(),)) as deployment:
        client = await deployment.client()
        assert await client.handle(handle.id).result(30) == 8
        assert (await client.handle(ended.id).info()).summary.status == "completed"


async def test_a_journal_elsewhere_has_its_store_beside_it(tmp_path: Path) -> None:
    async with deployed(journal=f"sqlite:{tmp_path / 'x.db'}") as deployment:
        assert await (await deployment.client()).run(NOOP, None, timeout=30) == 1
    assert {"x.db", "x.store.db"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"broker": "rabbit"}, "'rabbit' is not a broker"),
        ({"journal": "paper"}, "'paper' is not a journal"),
        ({"journal": "paper:x"}, "'paper:x' is not a journal"),
        ({"processes": (WorkerProcess("w", ("true",)),)}, "cannot reach a broker in memory"),
    ],
)
async def test_wrong_settings_are_refused(settings: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=told):
        await Deployment(DeploymentSettings(data_dir=tmp_path, **settings)).start()
    assert owner_of(tmp_path) is None


async def test_a_folder_that_another_one_uses_is_refused(tmp_path: Path) -> None:
    async with deployed(data_dir=tmp_path) as deployment:
        with pytest.raises(DataFolderInUse):
            await Deployment(DeploymentSettings(data_dir=tmp_path)).start()
        assert await (await deployment.client()).run(NOOP, None, timeout=30) == 1


async def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(DataFolderUnusable):
        await Deployment(DeploymentSettings(data_dir=tmp_path / "data", journal="sqlite")).start()


async def test_another_number_of_partitions_is_refused(tmp_path: Path) -> None:
    async with deployed(data_dir=tmp_path, partitions=2) as deployment:
        assert len(deployment.node.partitions) == 2
    async with deployed(data_dir=tmp_path) as deployment:
        assert len(deployment.node.partitions) == 2
    with pytest.raises(PartitionsDiffer):
        await Deployment(DeploymentSettings(data_dir=tmp_path, partitions=3)).start()


async def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(BrokerError, match=f"port {port}") as caught:
        await Deployment(DeploymentSettings(broker="embedded", data_dir=tmp_path, port=port)).start()
    assert caught.value.code == "SM-3011"
    assert owner_of(tmp_path) is None
    server.close()
    await server.wait_closed()


async def test_a_broken_part_ends_what_is_guarded() -> None:
    async with deployed() as deployment:
        deployment.node.ended.set_exception(StepmeshError("the journal has another owner", code="SM-4002"))
        with pytest.raises(StepmeshError, match="another owner"):
            await deployment.guard(asyncio.sleep(3600))


async def test_a_worker_that_breaks_ends_what_is_guarded() -> None:
    worker = doubling()
    async with deployed(workers=(worker, worker)) as deployment:
        with pytest.raises(StepmeshError, match="runs already"):
            await deployment.guard(asyncio.sleep(3600))


async def test_guard_gives_the_result_and_the_error_of_the_work() -> None:
    async def fails() -> None:
        raise KeyError("mine")

    async with deployed() as deployment:
        assert await deployment.guard(asyncio.sleep(0, "result")) == "result"
        with pytest.raises(KeyError, match="mine"):
            await deployment.guard(fails())


async def test_a_cancelled_guard_cancels_the_work() -> None:
    cancelled = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()

    async with deployed() as deployment:
        guard = asyncio.create_task(deployment.guard(work()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        guard.cancel()
        await asyncio.wait((guard,))
    assert cancelled.is_set()
    assert guard.cancelled()


async def test_stop_twice_is_stop_once(tmp_path: Path) -> None:
    deployment = Deployment(DeploymentSettings(data_dir=tmp_path, journal="sqlite"))
    await deployment.start()
    await deployment.stop()
    await deployment.stop()
    assert owner_of(tmp_path) is None
