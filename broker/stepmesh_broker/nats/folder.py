"""The data folder of an embedded nats-server: who owns it, its password, its config, where it listens.

Invariant: one live process owns a folder (a lock on `<data>/nats.lock`, which the system releases however that process ends),
and what holds the password is readable by its user only. It must not know how the server is run.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import signal
import subprocess
import time
from pathlib import Path

from stepmesh_broker.errors import BrokerError

USER = "stepmesh"
MAX_PAYLOAD = 32 * 1024 * 1024
_LOG_BYTES = 10 * 1024 * 1024
_ORPHAN_GRACE_S = 5.0


class NatsFolder:
    """`<data>/nats` and the lock beside it. Use: `own`, then the rest, then `release`."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir.absolute() / "nats"
        self.config = self.path / "server.conf"
        self.log = self.path / "server.log"
        self.errors = self.path / "stderr.log"
        self._pid_file = self.path / "server.pid"
        self._endpoint = self.path / "endpoint.json"
        self._port_file = self.path / "port"
        self._lock_file = data_dir.absolute() / "nats.lock"
        self._lock: int | None = None
        self._password = ""

    @property
    def server_name(self) -> str:
        """Tells this folder's server from any other that listens on the port."""
        return f"stepmesh-{hashlib.sha256(self._password.encode()).hexdigest()[:12]}"

    def own(self) -> None:
        """Lock the folder and stop a server that an earlier, killed owner left behind.

        Raises `BrokerError` SM-3012 (the folder cannot be used) or SM-3013 (another live process owns it).
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(self._lock_file, os.O_RDWR | os.O_CREAT, 0o600)
            self._take_lock(self._lock)
            self._password = self._password or self._read_password()
        except OSError as problem:
            self.release()
            raise BrokerError(
                f"the data folder {self.path} cannot be used: {problem.strerror}",
                code="SM-3012",
                hint="make it writable, or choose another data folder",
            ) from problem
        self._stop_orphan()

    def release(self) -> None:
        """Give the folder up. Idempotent."""
        if self._lock is not None:
            self._endpoint.unlink(missing_ok=True)
            self._pid_file.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def url(self, port: int) -> str:
        """Where clients connect, with credentials."""
        return f"nats://{USER}:{self._password}@127.0.0.1:{port}"

    def write_config(self, port: int, *, sync_always: bool) -> None:
        """The server's config; makes the folder again when somebody wiped it."""
        quoted = {
            name: json.dumps(str(path)) for name, path in (("store", self.path / "jetstream"), ("log", self.log), ("pid", self._pid_file))
        }
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_private(self.path / "password", self._password)
        _write_private(self._port_file, str(port))
        _write_private(
            self.config,
            f'server_name: "{self.server_name}"\nhost: "127.0.0.1"\nport: {port}\nmax_payload: {MAX_PAYLOAD}\n'
            f'authorization {{ user: "{USER}", password: "{self._password}" }}\n'
            f"jetstream {{ store_dir: {quoted['store']}{', sync_interval: always' if sync_always else ''} }}\n"
            f"log_file: {quoted['log']}\nlogfile_size_limit: {_LOG_BYTES}\nlogfile_max_num: 2\npid_file: {quoted['pid']}\n",
        )

    def write_endpoint(self, port: int) -> None:
        """Tell local clients where the server is."""
        _write_private(self._endpoint, json.dumps({"url": self.url(port), "port": port, "owner_pid": os.getpid()}))

    def last_port(self) -> int:
        """Where the server listened last time, so that clients find it again; 0 when this is the first time."""
        kept = self._port_file.read_text() if self._port_file.exists() else ""
        return int(kept) if kept.isdigit() else 0

    def last_words(self) -> str:
        """The end of what the server wrote, for an error message."""
        text = "".join(path.read_text(errors="replace")[-2000:] for path in (self.log, self.errors) if path.exists())
        return " | ".join(text.strip().splitlines()[-3:])

    def _take_lock(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as problem:
            owner = os.pread(lock, 32, 0).decode() or "unknown"
            os.close(lock)
            self._lock = None
            raise BrokerError(
                f"the data folder {self.path} is in use by process {owner}",
                code="SM-3013",
                hint="stop that process, or choose another data folder",
            ) from problem
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)

    def _read_password(self) -> str:
        kept = self.path / "password"
        return kept.read_text() if kept.exists() else secrets.token_urlsafe(24)

    def _stop_orphan(self) -> None:
        pid = int(self._pid_file.read_text() or 0) if self._pid_file.exists() else 0
        for sign in (signal.SIGTERM, signal.SIGKILL):
            if not pid or str(self.config) not in _command_line(pid):
                return
            os.kill(pid, sign)
            deadline = time.monotonic() + _ORPHAN_GRACE_S
            while time.monotonic() < deadline and str(self.config) in _command_line(pid):
                time.sleep(0.01)


def read_endpoint(data_dir: Path) -> str | None:
    """The URL of the server that now runs for a data folder, credentials included; None when there is none."""
    try:
        url: str = json.loads((data_dir / "nats" / "endpoint.json").read_text())["url"]
    except FileNotFoundError:
        return None
    return url


def _write_private(path: Path, text: str) -> None:
    """Readable by the user only, and whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    fresh.replace(path)


def _command_line(pid: int) -> str:
    """How a process was called; "" when it is gone or a zombie."""
    if Path("/proc/self/cmdline").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            return ""
    return subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
