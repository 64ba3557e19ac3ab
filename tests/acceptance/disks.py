"""Clusters whose journal lies on a disk that a test can fill, and faults put into the system calls of processes. For tests.

Invariant: nothing but the small disk is ever filled; when a folder cannot be one, the journal alone says that it is full.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
from tests.acceptance.cluster import ClusterLab, Deployment
from tests.acceptance.processes import HERE, until
from tests.acceptance.test_damaged_data import fill
from tests.acceptance.test_damaged_data import small_disk as small_files
from tests.integration.databases.test_full import small_disk, small_tables
from tests.services.postgres import PostgresServer
from tests.services.process import install

SYNCS = "fsync,fdatasync"


class Disk:
    """`fill` and `free`: of a small one only. `server`: PostgreSQL, where it is the one that writes."""

    def __init__(self, lab: ClusterLab, fill: Callable[[], object], free: Callable[[], object], server: PostgresServer | None) -> None:
        self.lab = lab
        self.fill = fill
        self.free = free
        self.server = server

    @property
    def writers(self) -> list[int]:
        """Those that sync what the first orchestrator writes: itself, or all that PostgreSQL has."""
        return [self.lab.nodes[0].pid] if self.server is None else self.server.processes[1:]

    async def recovered(self) -> None:
        """Until PostgreSQL, if it is the one that writes, takes connections. It is asked rarely: before it recovers it waits until it has
        refused the last one, and on a busy machine there would always be another."""
        async with asyncio.timeout(60):
            while not self._answers():
                await asyncio.sleep(1.0)

    def _answers(self) -> bool:
        if self.server is not None:
            with suppress(psycopg.OperationalError), psycopg.connect(self.server.url):
                return True
        return self.server is None


@asynccontextmanager
async def on_files(folder: Path, broker: str, small: bool) -> AsyncIterator[Disk]:
    """Journal, members and store are files of one folder; `small`: of a small disk."""
    disk, full = folder / "disk", folder / "full"
    deployment = Deployment(broker=broker, journal=f"sqlite:{disk / 'journal.db'}", store=f"sqlite:{disk / 'store.db'}")
    with small_files(disk) if small else nullcontext(False) as mounted:
        async with ClusterLab(folder, deployment) as lab:
            if small and not mounted:
                lab.launcher = (str(HERE / "crashing_up.py"),)
                lab._environment["STEPMESH_CRASH"] = f"full:{full}"
            yield Disk(lab, lambda: fill(disk), (disk / "ballast").unlink, None) if mounted else Disk(lab, full.touch, full.unlink, None)


@asynccontextmanager
async def on_postgres(folder: Path, broker: str, small: bool) -> AsyncIterator[Disk]:
    """A server of its own. `small`: its tables are files of a small disk, but not its log: without room for that it does not run."""
    with TemporaryDirectory(prefix="stepmesh-postgres-") as place, PostgresServer(Path(place) / "server") as server, ExitStack() as stack:
        disk = stack.enter_context(small_disk()) if small else Path(place) / "disk"
        assert disk is not None, "nobody may mount a small file system here"
        if small:
            stack.enter_context(small_tables(server, disk))
        async with ClusterLab(folder, Deployment(broker=broker, journal=server.url, store=server.url)) as lab:
            yield Disk(lab, lambda: fill(disk), (disk / "ballast").unlink, server)


@contextmanager
def injected(pids: Sequence[int], fault: str, log: Path) -> Iterator[None]:
    """`fault`: as strace's `inject=`, in all threads of these processes."""
    calls = fault.partition(":")[0]
    targets = [part for pid in pids for part in ("-p", str(pid))]
    strace = install("strace", "strace")
    command = [strace, "-f", "-qq", "-o", str(log), "-e", f"trace={calls}", "-e", f"inject={fault}", *targets]
    tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        tracer.kill()  # the kernel lets go of all at once; in order, it may wait for ever for one that dies
        tracer.wait()


async def reached(log: Path, times: int = 1) -> None:
    """Until the fault befell so many calls."""

    def befell() -> bool:
        text = log.read_text() if log.exists() else ""
        return text.count("(INJECTED") + text.count("(DELAYED") >= times

    await until("a fault in a system call", befell, 60)
