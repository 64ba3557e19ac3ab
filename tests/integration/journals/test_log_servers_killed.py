"""A broker that dies under its journal: what was acknowledged is there, and the next owner goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.journals.deployments import Deployment, append_until, deployment, grown, payloads

KINDS = pytest.mark.parametrize("kind", ["jetstream", "kafka"])


@pytest.fixture
def alone(kind: str, tmp_path: Path) -> Iterator[Deployment]:
    made = deployment(kind, tmp_path, 1)
    yield made
    made.servers.kill(0)


@pytest.fixture
def cluster(kind: str, tmp_path: Path) -> Iterator[Deployment]:
    made = deployment(kind, tmp_path, 3)
    yield made
    for number in range(3):
        made.servers.kill(number)


def is_within(acknowledged: list[bytes], stored: list[bytes]) -> bool:
    """All of them, in order; between them may lie what was stored but never acknowledged."""
    rest = iter(stored)
    return all(payload in rest for payload in acknowledged)


@pytest.mark.slow
@KINDS
async def test_what_was_acknowledged_survives_the_servers_death(alone: Deployment) -> None:
    kept: list[bytes] = []
    stop = asyncio.Event()
    async with alone.journal() as journal:
        writing = asyncio.create_task(append_until(journal, stop, kept))
        for _ in range(2):
            await grown(kept, 50)
            await asyncio.to_thread(alone.servers.kill, 0)
            await asyncio.to_thread(alone.servers.restart, 0)
        await grown(kept, 50)
        stop.set()
        await writing
    async with alone.journal() as journal:
        stored = await payloads(journal)
    assert is_within(kept, stored)


@pytest.mark.slow
@KINDS
async def test_appends_go_on_when_one_of_three_dies(cluster: Deployment) -> None:
    kept: list[bytes] = []
    stop = asyncio.Event()
    async with cluster.journal() as journal:
        assert journal.durability == "replicated"
        writing = asyncio.create_task(append_until(journal, stop, kept))
        for number in range(3):
            await grown(kept, 30)
            await asyncio.to_thread(cluster.servers.kill, number)
            await grown(kept, 30)
            await asyncio.to_thread(cluster.servers.restart, number)
        stop.set()
        await writing
    async with cluster.journal() as journal:
        stored = await payloads(journal)
    assert is_within(kept, stored)
