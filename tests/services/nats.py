"""nats-server from its wheel, one or a cluster of three with JetStream: `with NatsServers(folder, 3) as nats:`."""

from __future__ import annotations

import urllib.request
from pathlib import Path

from tests.services.process import LocalProcess, free_port
from tests.services.servers import Servers

from stepmesh_broker.nats.embedded import find_nats_server


class NatsServers(Servers):
    """`settings`: more lines of each configuration file."""

    def __init__(self, folder: Path, servers: int = 1, settings: tuple[str, ...] = ()) -> None:
        self.ports = [free_port() for _ in range(servers)]
        self._routes = [free_port() for _ in range(servers)]
        self._monitors = [free_port() for _ in range(servers)]
        self._settings = settings
        processes = [
            LocalProcess(
                [str(find_nats_server()), "-c", "server.conf"],
                folder / str(number),
                lambda number=number: self._healthy(number),  # type: ignore[misc]
            )
            for number in range(servers)
        ]
        super().__init__(folder, processes)

    @property
    def url(self) -> str:
        """`nats://host:port,nats://host:port`."""
        return ",".join(f"nats://127.0.0.1:{port}" for port in self.ports)

    def _healthy(self, number: int) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._monitors[number]}/healthz", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _prepare(self, number: int) -> None:
        folder = self.folder / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        lines = [
            f"server_name: n{number + 1}",
            f"listen: 127.0.0.1:{self.ports[number]}",
            f"http: 127.0.0.1:{self._monitors[number]}",
            "max_payload: 33554432",
            f'jetstream {{ store_dir: "{folder / "data"}" }}',
            *self._settings,
        ]
        if len(self._nodes) > 1:
            routes = ", ".join(f"nats://127.0.0.1:{port}" for port in self._routes)
            lines.append(f"cluster {{ name: tests, listen: 127.0.0.1:{self._routes[number]}, routes: [{routes}] }}")
        (folder / "server.conf").write_text("\n".join(lines) + "\n")
