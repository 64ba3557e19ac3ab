"""A deployment's servers as processes of one test, to be killed, wiped and started again: a broker and PostgreSQL.

What starts them waits for them, so it is called in a thread while a load goes on. PostgreSQL is in a folder that its user may reach: pytest
closes its own ones again whenever it is started, also by somebody else. It must not know what runs on them.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

from tests.acceptance.cluster import PARTITIONS, Deployment
from tests.services.kafka import QUICK_FAILOVER, KafkaServers
from tests.services.nats import NatsServers
from tests.services.postgres import PostgresServer

THREE = 3


@dataclass(frozen=True)
class Backend:
    """`broker`: nats or kafka, or three of them as -cluster; `journal`: postgres, or `broker`. The store is always PostgreSQL."""

    broker: str
    journal: str

    def __str__(self) -> str:
        """As the test is called."""
        return f"{self.broker}-{self.journal}"


class Backends:
    """`with Backends(backend, folder) as servers:`. All have started then."""

    def __init__(self, backend: Backend, folder: Path) -> None:
        self.backend = backend
        self.count = THREE if backend.broker.endswith("-cluster") else 1
        settings = QUICK_FAILOVER if backend.broker.startswith("kafka") else ()
        self.broker = (NatsServers if backend.broker.startswith("nats") else KafkaServers)(folder / "broker", self.count, settings)
        self._place = TemporaryDirectory(prefix="stepmesh-postgres-")
        self.postgres = PostgresServer(Path(self._place.name) / "server")
        self._stack = ExitStack()

    def __enter__(self) -> Backends:
        with ExitStack() as stack:
            stack.enter_context(self._place)
            for server in (self.broker, self.postgres):
                stack.callback(server.end)
                server.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def deployment(self, partitions: int = PARTITIONS) -> Deployment:
        """Of orchestrators and workers on these servers."""
        journal = self.postgres.url if self.backend.journal == "postgres" else self.backend.journal
        return Deployment(broker=self.broker.url, journal=journal, store=self.postgres.url, partitions=partitions)

    @property
    def may_be_wiped(self) -> bool:
        """Not where the journal is on the broker."""
        return self.backend.journal != "broker"

    def kill_broker(self) -> None:
        """SIGKILL to all of its servers."""
        for number in range(self.count):
            self.broker.kill(number)

    def wipe_broker(self) -> None:
        """Lose all data of a broker that does not run."""
        for number in range(self.count):
            self.broker.wipe(number)

    def restart_postgres(self) -> None:
        """SIGKILL, and start it again on its data."""
        self.postgres.kill()
        self.postgres.start()
