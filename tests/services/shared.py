"""One server of a kind for all processes of a test run: the first that needs it starts it, the run that made the folder ends it.

The address in the environment comes first, then Docker where an engine runs, then a process of this machine.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tests.services.docker import Container, docker_runs, kafka_container, nats_container, postgres_container, redis_container
from tests.services.kafka import KafkaServers
from tests.services.nats import NatsServers
from tests.services.postgres import PostgresServer
from tests.services.redis import RedisServer

FOLDER = "STEPMESH_TEST_SERVICES"
"""Names the folder of this run's servers, for its processes."""
GRACE_S = 10.0
_started: list[Service] = []
"""By this process; kept, because a `Popen` that is forgotten complains."""


class Service(Protocol):
    """A server, or several, that was not started yet."""

    @property
    def url(self) -> str: ...

    @property
    def pids(self) -> list[int]: ...

    def start(self) -> None: ...


LOCAL: dict[str, Callable[[Path], Service]] = {
    "nats": NatsServers,
    "nats-cluster": lambda folder: NatsServers(folder, 3),
    "kafka": KafkaServers,
    "kafka-cluster": lambda folder: KafkaServers(folder, 3),
    "postgres": PostgresServer,
    "redis": RedisServer,
}
CONTAINERS: dict[str, Callable[[], Container]] = {
    "nats": nats_container,
    "kafka": kafka_container,
    "postgres": postgres_container,
    "redis": redis_container,
}
"""Clusters are local processes everywhere: their members must reach each other."""


def begin() -> None:
    """At the start of a run, in its first process."""
    os.environ.setdefault(FOLDER, tempfile.mkdtemp(prefix="stepmesh-services-"))


def end() -> None:
    """At the end of a run, in the process that began it: stop what was started, remove the data."""
    folder = Path(os.environ.pop(FOLDER))
    pids: list[int] = []
    for file in folder.glob("*.json"):
        said = json.loads(file.read_text())
        pids += said["pids"]
        for container in said["containers"]:
            Container.remove(container)
    for pid in pids:
        _signal(pid, signal.SIGTERM)
    until = time.monotonic() + GRACE_S
    while any(_lives(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    for pid in pids:
        _signal(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def url_of(kind: str) -> str:
    """The address of this run's server of a kind of `LOCAL`, started when it does not run yet. Raises `ServiceFailed`."""
    given = os.environ.get(f"STEPMESH_TEST_{kind.upper().replace('-', '_')}_URL")
    if given:
        return given
    folder = Path(os.environ[FOLDER])
    with (folder / f"{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        file = folder / f"{kind}.json"
        if not file.exists():
            file.write_text(json.dumps(_start(kind, folder / kind)))
        url: str = json.loads(file.read_text())["url"]
        return url


def _start(kind: str, folder: Path) -> dict[str, object]:
    if kind in CONTAINERS and docker_runs():
        container = CONTAINERS[kind]()
        return {"url": container.url, "pids": [], "containers": [container.id]}
    service = LOCAL[kind](folder)
    service.start()
    _started.append(service)
    return {"url": service.url, "pids": service.pids, "containers": []}


def _lives(pid: int) -> bool:
    try:
        os.waitpid(pid, os.WNOHANG)  # our own children leave a zombie
    except ChildProcessError:
        pass
    return Path(f"/proc/{pid}").exists()


def _signal(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        pass
