"""Journal, store and membership from what flags and configuration call them. Imports only the backend that is used, opens nothing.

Invariant: nothing contradicts the journal. What it refers to (flows, blobs) lies in a store that lives as long as it does, and that every
machine which may read the journal can read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from stepmesh.errors import PackageMissing
from stepmesh_broker.protocol.ids import Namespace
from stepmesh_cli.addresses import JOURNALS, NATS, POSTGRES, REDIS, STORES, scheme_of, shown
from stepmesh_cli.errors import CommandError, StoreNotKept
from stepmesh_cli.membership import membership_of
from stepmesh_orchestrator.journal.repair import Repairable
from stepmesh_orchestrator.ports import Journal, Membership, Store

ENOUGH = 3
"""Servers of which any one may go."""


class Storage(NamedTuple):
    """What a deployment keeps, not opened yet. `membership`: None when it shares the partitions with nobody."""

    journal: Journal
    store: Store
    membership: Membership | None = None

    @property
    def parts(self) -> Iterator[Journal | Store | Membership]:
        """Those that are there, in the order in which they are opened."""
        return (part for part in self if part is not None)


@dataclass(frozen=True, kw_only=True)
class StorageSettings:
    """`journal`: one of `JOURNALS`; `sqlite` alone lies in the data folder, `broker` is the server behind `broker`, a URL (None: it is in
    memory). `store`: one of `STORES`; None: PostgreSQL when the journal is there, else a file beside the journal or in the data folder.
    `blobs`: a folder for blobs instead of the store. `kept`: the data folder outlives the process. `shared`: other processes own partitions
    of the same journal, maybe on other machines."""

    journal: str
    store: str | None = None
    blobs: Path | None = None
    namespace: str = "default"
    partitions: int = 1
    broker: str | None = None
    kept: bool = True
    shared: bool = False

    @property
    def journal_name(self) -> str:
        """`journal`, with `broker` resolved. Raises `CommandError`."""
        if self.journal != "broker":
            return self.journal
        if self.broker is None:
            return "memory"
        if scheme_of(self.broker) not in {*NATS, "kafka"}:
            raise CommandError(f"no journal lies on the broker {shown(self.broker)}", hint=f"--journal is {JOURNALS}")
        return self.broker


def storage_of(settings: StorageSettings, data_dir: Callable[[], Path]) -> Storage:
    """`data_dir` is asked only when something lies there. Raises `CommandError`, `StoreNotKept`, `PackageMissing`."""
    name = settings.journal_name
    journal = _journal(settings, name, data_dir)
    store = _store(settings, name, data_dir)
    membership = membership_of(name, Namespace(settings.namespace)) if settings.shared else None
    if settings.blobs is None:
        return Storage(journal, store, membership)
    from stepmesh_orchestrator.store.folder import FolderBlobs

    return Storage(journal, FolderBlobs(store, settings.blobs), membership)


def store_of(journal: str, store: str | None, namespace: str) -> Store:
    """The one that belongs to a journal which is looked at; a file is not made. Raises `CommandError`, `StoreNotKept`, `PackageMissing`."""
    settings = StorageSettings(journal=journal, store=store, namespace=namespace)
    name = _store_name(settings, settings.journal_name, _no_folder)
    kind, _, path = name.partition(":")
    if kind == "sqlite" and not Path(path).is_file():
        raise CommandError(f"there is no store {path}", hint="--store names where the deployment keeps its flows")
    return _store(settings, settings.journal_name, _no_folder)


def _no_folder() -> Path:
    raise CommandError("no store is named, and none lies beside this journal", hint="--store names where the deployment keeps its flows")


def _journal(settings: StorageSettings, name: str, data_dir: Callable[[], Path]) -> Journal:
    kind = scheme_of(name)
    if name == "memory":
        from stepmesh_orchestrator.journal.memory import MemoryJournal

        return MemoryJournal()
    if kind == "sqlite":
        from stepmesh_orchestrator.journal.sqlite import SqliteJournal

        return SqliteJournal(_journal_file(name, data_dir))
    return journal_on_server(name, Namespace(settings.namespace), settings.partitions)


def journal_on_server(name: str, namespace: Namespace, partitions: int | None) -> Repairable:
    """`partitions`: None for one that must be there. Raises `CommandError`, `PackageMissing`."""
    kind = scheme_of(name)
    try:
        return _journal_of(kind, name, namespace, partitions)
    except ImportError as problem:
        raise missing(f"a journal in {kind}", problem) from problem


def _journal_of(kind: str, name: str, namespace: Namespace, partitions: int | None) -> Repairable:
    make = partitions is not None
    if kind in POSTGRES:
        from stepmesh_orchestrator.journal.postgres import PostgresJournal

        return PostgresJournal(name, namespace, make=make)
    if kind in REDIS:
        from stepmesh_orchestrator.journal.redis import RedisJournal

        return RedisJournal(name, namespace, make=make)
    if kind == "kafka":
        from stepmesh_orchestrator.journal.kafka import KafkaJournal

        return KafkaJournal(name, namespace, partitions)
    if kind in NATS:
        from stepmesh_orchestrator.journal.jetstream import JetStreamJournal

        return JetStreamJournal(name, namespace, None if "replicas=" in name else _enough(name), make=make)
    raise CommandError(f"{shown(name)!r} is not a journal", hint=f"use {JOURNALS}")


def _enough(servers: str) -> int:
    """Replicas where nobody says how many: three when so many servers are named, else one."""
    return ENOUGH if servers.count(",") >= ENOUGH - 1 else 1


def missing(what: str, problem: ImportError) -> PackageMissing:
    """The error for a package that this install lacks."""
    package = (problem.name or str(problem)).partition(".")[0]
    return PackageMissing(
        f"{what} wants the package {package}, which is not installed", hint="pip install 'stepmesh[kafka,postgres,redis]'"
    )


def _store(settings: StorageSettings, journal: str, data_dir: Callable[[], Path]) -> Store:
    name = _store_name(settings, journal, data_dir)
    if name == "memory":
        from stepmesh_orchestrator.store.memory import MemoryStore

        return MemoryStore()
    kind, _, path = name.partition(":")
    if kind in POSTGRES:
        try:
            from stepmesh_orchestrator.store.postgres import PostgresStore
        except ImportError as problem:
            raise missing("a store in PostgreSQL", problem) from problem
        return PostgresStore(name, Namespace(settings.namespace))
    if kind == "sqlite" and path:
        from stepmesh_orchestrator.store.sqlite import SqliteStore

        return SqliteStore(Path(path))
    raise CommandError(f"{shown(name)!r} is not a store", hint=f"use {STORES}")


def _store_name(settings: StorageSettings, journal: str, data_dir: Callable[[], Path]) -> str:
    """Raises `StoreNotKept` for one that would contradict the journal: rows and flows of another journal, or none after a restart."""
    name = settings.store or (journal if scheme_of(journal) in POSTGRES else None)
    if journal == "memory":
        if name not in (None, "memory"):
            raise CommandError(f"the store {shown(name)} would outlive a journal in memory", hint="name a journal that lasts, or no store")
        return "memory"
    if settings.shared and name is None and scheme_of(journal) != "sqlite":
        raise StoreNotKept.of(shown(journal), "none is named, and others that share the journal cannot read a file of this process")
    if name == "memory":
        raise StoreNotKept.of(shown(journal), "one in memory is gone after a restart, and the runs with it")
    if name is not None:
        return name
    beside = _beside(journal, data_dir)
    if beside is None and not settings.kept:
        raise StoreNotKept.of(shown(journal), "a temporary folder is gone after a restart, and the runs with it")
    return f"sqlite:{beside or data_dir() / 'store.db'}"


def _journal_file(name: str, data_dir: Callable[[], Path]) -> Path:
    if name == "sqlite":
        return data_dir() / "journal.db"
    path = name.partition(":")[2]
    if not path:
        raise CommandError(f"{name!r} is not a journal", hint=f"use {JOURNALS}")
    return Path(path)


def _beside(journal: str, data_dir: Callable[[], Path]) -> Path | None:
    """The store's file beside a journal's; None when the journal is no file."""
    if scheme_of(journal) != "sqlite":
        return None
    file = _journal_file(journal, data_dir)
    return file.with_name("store.db" if file.name == "journal.db" else f"{file.stem}.store.db")
