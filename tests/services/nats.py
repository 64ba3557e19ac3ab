"""nats-server from its wheel, one or a cluster of three with JetStream: `with NatsServers(folder, 3) as nats:`."""

from __future__ import annotations

import shutil
import urllib.request
from pathlib import Path
from types import TracebackType

from tests.services.process import LocalProcess, free_port

from stepmesh_broker.nats.embedded import find_nats_server


class NatsServers:
    """`settings`: more lines of each configuration file."""

    def __init__(self, folder: Path, servers: int = 1, settings: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.ports = [free_port() for _ in range(servers)]
        self._routes = [free_port() for _ in range(servers)]
        self._monitors = [free_port() for _ in range(servers)]
        self._settings = settings
        self._nodes = [
            LocalProcess(
                [str(find_nats_server()), "-c", "server.conf"],
                folder / str(number),
                lambda number=number: self._healthy(number),  # type: ignore[misc]
            )
            for number in range(servers)
        ]

    def __enter__(self) -> NatsServers:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """`nats://host:port,nats://host:port`."""
        return ",".join(f"nats://127.0.0.1:{port}" for port in self.ports)

    @property
    def pids(self) -> list[int]:
        """Of the running servers."""
        return [node.pid for node in self._nodes]

    def start(self) -> None:
        """All of them; returns when JetStream has a leader."""
        for number in range(len(self._nodes)):
            self._prepare(number)
            self._nodes[number].spawn()
        for node in self._nodes:
            node.wait_ready()

    def stop(self) -> None:
        """All of them, in order."""
        for node in self._nodes:
            node.stop()

    def kill(self, number: int) -> None:
        """SIGKILL to one."""
        self._nodes[number].kill()

    def restart(self, number: int) -> None:
        """Start one again, on its data."""
        self._nodes[number].start()

    def wipe(self, number: int) -> None:
        """Lose the data of one that does not run."""
        shutil.rmtree(self.folder / str(number) / "data", ignore_errors=True)

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
