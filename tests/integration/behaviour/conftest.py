"""A world per test, and one launcher's command per session."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio
from tests.integration.behaviour.launchers import LAUNCHERS, Launcher
from tests.integration.behaviour.world import World

_numbers = itertools.count()


@pytest.fixture(scope="session", params=LAUNCHERS, ids=lambda launcher: launcher.name)
def command(request: pytest.FixtureRequest) -> Sequence[str]:
    """How the worker of each language is started; built once."""
    launcher: Launcher = request.param
    return launcher.command()


@pytest.fixture
async def world(nats_url: str, tmp_path: Path, command: Sequence[str]) -> AsyncIterator[World]:
    """An orchestrator with a gateway; workers are started by the test."""
    async with World(nats_url, f"behaviour-{os.getpid()}-{next(_numbers)}", tmp_path, command) as one:
        await one.start_gateway()
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(nats_url: str, tmp_path_factory: pytest.TempPathFactory, command: Sequence[str]) -> AsyncIterator[World]:
    """The same for all tests of a module, with one worker of four slots that none of them stops."""
    async with World(nats_url, f"behaviour-{os.getpid()}-{next(_numbers)}", tmp_path_factory.mktemp("shared"), command) as one:
        await one.start_gateway()
        await one.start_worker(concurrency=4)
        yield one
