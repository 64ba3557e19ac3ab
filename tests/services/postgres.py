"""PostgreSQL from Debian's package: `with PostgresServer(folder) as postgres:`. Never as root, which it refuses."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tests.services.process import LocalProcess, ServiceFailed, answers, free_port, install
from tests.services.servers import Service

USER = "postgres"


def programs() -> Path:
    """The folder of `initdb` and `postgres`. Raises `ServiceFailed`."""
    if shutil.which("pg_lsclusters") is None and not _versions():
        install("pg_lsclusters", "postgresql")
    found = _versions()
    if not found:
        raise ServiceFailed("PostgreSQL's programs are not in /usr/lib/postgresql: install Debian's package postgresql")
    return found[-1]


def _versions() -> list[Path]:
    folders = [folder / "bin" for folder in Path("/usr/lib/postgresql").glob("*") if (folder / "bin" / "initdb").exists()]
    return sorted(folders, key=lambda folder: int(folder.parent.name))


def _runs(pid: int) -> bool:
    """Neither gone nor only waiting to be noticed."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class PostgresServer(Service):
    """One server with the database `stepmesh`. `settings`: options of the server, as `("fsync=off",)`."""

    def __init__(self, folder: Path, settings: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.port = free_port()
        self._bin = programs()
        options = [part for setting in ("listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200", *settings)
                   for part in ("-c", setting)]  # fmt: skip
        command = [str(self._bin / "postgres"), "-D", str(folder / "data"), "-p", str(self.port), *options]
        self._process = LocalProcess([*self._as_user(), *command], folder, lambda: self._psql("SELECT 1", "postgres"))

    @property
    def url(self) -> str:
        """With the database that tests use."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/stepmesh"

    @property
    def pids(self) -> list[int]:
        """Of the running server."""
        return [self._process.pid]

    def start(self) -> None:
        """Make the database if there is none."""
        fresh = not (self.folder / "data").exists()
        if fresh:
            self.folder.mkdir(parents=True, exist_ok=True)
            if os.geteuid() == 0:
                self._open_path()
                shutil.chown(self.folder, USER)
            command = [str(self._bin / "initdb"), "-D", str(self.folder / "data"), "-U", USER, "-A", "trust", "--no-sync"]
            subprocess.run([*self._as_user(), *command], cwd=self.folder, stdout=subprocess.DEVNULL, check=True)
        self._process.start()
        if fresh:
            assert self._psql("CREATE DATABASE stepmesh", "postgres")

    @property
    def processes(self) -> list[int]:
        """The server and its children, each of which leads a session of its own: a signal to the server's group does not reach them."""
        if not self._process.running:
            return []
        pid = self._process.pid
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]

    def stop(self) -> None:
        """In order, without waiting for clients to leave."""
        self._process.stop(signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL to the server and its children: one that is left could still write beside the next server."""
        if self._process.running:
            os.kill(self._process.pid, signal.SIGSTOP)  # it begins no more of them
        doomed = self.processes
        for pid in doomed:
            os.kill(pid, signal.SIGKILL)
        self._process.kill()
        while any(_runs(pid) for pid in doomed):
            time.sleep(0.01)
        (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)

    def _psql(self, statement: str, database: str) -> bool:
        if not answers(self.port):
            return False
        command = [str(self._bin / "psql"), "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "-d", database, "-c", statement]
        return subprocess.run(command, capture_output=True).returncode == 0

    def _open_path(self) -> None:
        """Let its user reach the folder: pytest's are for their owner only."""
        for parent in self.folder.absolute().parents:
            if not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)

    def _as_user(self) -> list[str]:
        if os.geteuid() != 0:
            return []
        try:
            pwd.getpwnam(USER)
        except KeyError:
            raise ServiceFailed(f"PostgreSQL does not run as root, and there is no user {USER}") from None
        return ["setpriv", "--reuid", USER, "--regid", USER, "--clear-groups", "--"]
