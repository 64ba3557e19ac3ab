"""Redis from Debian's package: `with RedisServer(folder) as redis:`. Append-only file, fsync on every write."""

from __future__ import annotations

from pathlib import Path

from tests.services.process import LocalProcess, answers, free_port, install
from tests.services.servers import Service


class RedisServer(Service):
    """One server. `settings`: more of its options, as `("--appendfsync", "everysec")`."""

    def __init__(self, folder: Path, settings: tuple[str, ...] = ("--appendfsync", "always")) -> None:
        self.folder = folder
        self.port = free_port()
        command = [install("redis-server", "redis-server"), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder),
                   "--appendonly", "yes", "--save", "", *settings]  # fmt: skip
        self._process = LocalProcess(command, folder, lambda: answers(self.port))

    @property
    def url(self) -> str:
        """Its database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pids(self) -> list[int]:
        """Of the running server."""
        return [self._process.pid]

    def start(self) -> None:
        """Data of the last time is kept."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process.start()

    def stop(self) -> None:
        """In order."""
        self._process.stop()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
