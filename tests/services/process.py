"""A server of somebody else's, run by a test: started, waited for, killed, started again on the same data."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

READY_S = 90.0
STOP_S = 20.0
_given: set[int] = set()


class ServiceFailed(Exception):
    """It did not start; the message has the end of its log."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has now, and that this process did not give away before."""
    while True:
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    with closing(socket.socket()) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def install(command: str, package: str) -> str:
    """The path of a program; Debian's package is installed when it is not there. Raises `ServiceFailed`."""
    found = shutil.which(command)
    if found is None and shutil.which("apt-get") and os.geteuid() == 0:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # do not start it as a service
        for arguments in (["apt-get", "update", "-q"], ["apt-get", "install", "-y", "-q", "--no-install-recommends", package]):
            subprocess.run(arguments, env=environment, stdout=subprocess.DEVNULL, check=True)
        found = shutil.which(command)
    if found is None:
        raise ServiceFailed(f"{command} is not there: install Debian's package {package}, or name a server in STEPMESH_TEST_…_URL")
    return found


class LocalProcess:
    """`ready`: asked until it says yes. The log is kept beside the data."""

    def __init__(
        self, command: Sequence[str], folder: Path, ready: Callable[[], bool], environment: Mapping[str, str] | None = None
    ) -> None:
        self.command = list(command)
        self.folder = folder
        self.log = folder / "server.log"
        self._ready = ready
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None, "it was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Started, and neither stopped nor killed since."""
        return self._process is not None

    def spawn(self) -> None:
        """Start without waiting; a session of its own, so that a Ctrl-C of the tests is not one of the server."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Raises `ServiceFailed`."""
        assert self._process is not None, "it was not started"
        until = time.monotonic() + READY_S
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise ServiceFailed(f"{self.command[0]} did not start:\n{self.log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.05)

    def start(self) -> None:
        """`spawn`, then `wait_ready`."""
        self.spawn()
        self.wait_ready()

    def stop(self, number: int = signal.SIGTERM) -> None:
        """A signal, and SIGKILL when that does not help. Idempotent."""
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """SIGKILL to the server and what it started. Idempotent."""
        if self._process is not None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self._process.wait()
            self._process = None
