"""Deployments whose read model a projector writes: lists and results are there when a run has ended, and they wrote none of them."""

from __future__ import annotations

import asyncio
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.acceptance.servers import Server, command
from tests.integration.projector.following import Follower, Where

from stepmesh.client import Client
from stepmesh_broker.protocol.ids import Namespace
from stepmesh_orchestrator.store.postgres import PostgresStore
from stepmesh_projector.postgres import PostgresKeeper

FLOW = {"steps": [{"id": "a", "component": "/builtin/noop", "input": {"$input": "$"}}], "output": {"$step": "a"}}
READY = {"server": "serves", "up": "stepmesh is up", "orchestrator": "shares 2 partitions"}


@contextmanager
def serving(*arguments: str) -> Iterator[Server]:
    """A deployment that is ready; ended in order."""
    process = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    server = Server(process)
    try:
        server.until(READY[arguments[0]])
        yield server
        process.terminate()
        code, said = server.end()
        assert code == 0, said
    finally:
        process.kill()
        server.end()
        assert process.stderr is not None
        process.stderr.close()


@pytest.mark.parametrize("kind", [["server", "--port", "0"], ["up", "--http", "0"], ["orchestrator"]], ids=lambda kind: kind[0])
async def test_readers_wait_for_the_projector(kind: list[str], kafka_url: str, postgres_url: str, tmp_path: Path) -> None:
    namespace = Namespace(f"external-{uuid.uuid4().hex[:8]}")
    where = Where(
        kafka_url, postgres_url, namespace, tmp_path, PostgresStore(postgres_url, namespace), PostgresKeeper(postgres_url, namespace)
    )
    data = ("--data", str(tmp_path / "data")) if kind[0] == "up" else ()
    places = ("--broker", kafka_url, "--journal", kafka_url, "--store", postgres_url, "--namespace", namespace, "--partitions", "2")
    with serving(*kind, *data, *places, "--projection", "external"), Follower(where) as follower:

        async def follows() -> bool:
            return all(f"partition {number} is followed" in follower.said for number in range(2))

        await follower.until(follows)  # a reader waits for ten seconds, and a busy machine may take longer to start it
        async with Client.connect(kafka_url, namespace) as client:
            for number in range(10):
                handle = await client.submit(FLOW, [number])
                await handle.wait(timeout=60)
                info = await client.get_run(handle.id)
                assert (info.summary.status, len(info.results)) == ("completed", 1)
            assert len(await client.list_runs()) == 10
        assert follower.stop() == 0, follower.said


@pytest.mark.parametrize(
    ("argv", "journal"),
    [
        (["server", "--port", "0", "--data", "data"], "sqlite"),
        (["up", "--data", "data"], "sqlite"),
        (["orchestrator", "--broker", "kafka://nowhere:1", "--journal", "postgres://nowhere/stepmesh"], "postgres://nowhere/stepmesh"),
        (["orchestrator", "--broker", "kafka://nowhere:1", "--journal", "broker", "--store", "sqlite:a"], "kafka://nowhere:1"),
    ],
)
async def test_a_journal_that_no_projector_follows_is_refused(argv: list[str], journal: str, tmp_path: Path) -> None:
    wanted = command(*argv, "--projection", "external")
    done = await asyncio.to_thread(subprocess.run, wanted, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 2
    assert f"SM-0101 no projector writes the read model of the journal {journal}" in done.stderr
