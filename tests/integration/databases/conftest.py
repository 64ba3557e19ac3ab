"""Servers that a test may kill, stop and start again, and the backends on them."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from tests.contract.journals.registry import fresh
from tests.services.postgres import PostgresServer
from tests.services.process import answers
from tests.services.redis import RedisServer

from stepmesh_broker.protocol.ids import Namespace
from stepmesh_orchestrator.journal.inspect import Inspectable
from stepmesh_orchestrator.journal.postgres import PostgresJournal
from stepmesh_orchestrator.journal.redis import RedisJournal

Server = PostgresServer | RedisServer
TIMEOUT_S = 2.0


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[PostgresServer]:
    """In a folder that its user may reach: pytest closes its own ones again whenever it is started."""
    with TemporaryDirectory(prefix="stepmesh-postgres-") as folder, PostgresServer(Path(folder) / "server") as server:
        yield server


@pytest.fixture(scope="module")
def own_redis() -> Iterator[RedisServer]:
    with TemporaryDirectory(prefix="stepmesh-redis-") as folder, RedisServer(Path(folder)) as server:
        yield server


@pytest.fixture(params=["postgres", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Runs again at the end of each test."""
    found: Server = request.getfixturevalue(f"own_{request.param}")
    yield found
    if not answers(found.port):
        found.start()


class Journals:
    """Journals of one namespace, as of several processes."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.namespace = Namespace(fresh())
        self.opened: list[Inspectable] = []

    async def connect(self, **options: Any) -> Inspectable:
        kind = PostgresJournal if isinstance(self.server, PostgresServer) else RedisJournal
        journal = kind(self.server.url, self.namespace, **{"timeout_s": TIMEOUT_S, **options})
        await journal.open()
        self.opened.append(journal)
        return journal


@pytest.fixture
async def journals(server: Server) -> AsyncIterator[Journals]:
    made = Journals(server)
    yield made
    for journal in made.opened:
        await journal.close()


@contextmanager
def stopped(server: Server) -> Iterator[None]:
    """It is there, and does not answer."""
    pids = server.processes if isinstance(server, PostgresServer) else server.pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
