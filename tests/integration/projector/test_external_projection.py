"""A server whose read model a projector writes: lists and results are there when a run has ended, and the server wrote none of them."""

from __future__ import annotations

import asyncio
import subprocess
import uuid
from pathlib import Path

from tests.acceptance.servers import command, started
from tests.integration.projector.following import Follower, Where

from stepmesh.client import Client
from stepmesh_broker.protocol.ids import Namespace
from stepmesh_orchestrator.store.postgres import PostgresStore
from stepmesh_projector.postgres import PostgresKeeper

FLOW = {"steps": [{"id": "a", "component": "/builtin/noop", "input": {"$input": "$"}}], "output": {"$step": "a"}}


async def test_readers_wait_for_the_projector(kafka_url: str, postgres_url: str, tmp_path: Path) -> None:
    namespace = Namespace(f"external-{uuid.uuid4().hex[:8]}")
    where = Where(
        kafka_url, postgres_url, namespace, tmp_path, PostgresStore(postgres_url, namespace), PostgresKeeper(postgres_url, namespace)
    )
    places = ("--journal", kafka_url, "--store", postgres_url, "--namespace", namespace, "--partitions", "2")
    with started(command("server", "--port", "0", *places, "--projection", "external")) as server:
        await asyncio.to_thread(server.until, "serves")
        with Follower(where) as follower:
            async with Client.connect(f"grpc://{server.address}", namespace) as client:
                for number in range(10):
                    handle = await client.submit(FLOW, [number])
                    await handle.wait(timeout=60)
                    info = await client.get_run(handle.id)
                    assert (info.summary.status, len(info.results)) == ("completed", 1)
                assert len(await client.list_runs()) == 10
            assert follower.stop() == 0, follower.said


async def test_a_journal_that_no_projector_follows_is_refused(tmp_path: Path) -> None:
    argv = command("server", "--port", "0", "--data", str(tmp_path / "data"), "--projection", "external")
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "SM-0101 no projector writes the read model of the journal sqlite" in done.stderr
