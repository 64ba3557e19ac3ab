"""Journal and store from what flags and configuration call them. Imports only the backend that is used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stepmesh_cli.errors import CommandError
from stepmesh_orchestrator.ports import Journal, Store


def storage_of(journal: str, store: str | None, blobs: Path | None, data_dir: Callable[[], Path]) -> tuple[Journal, Store]:
    """`journal`: `memory`, `sqlite` (in `data_dir()`) or `sqlite:PATH`. The store lies beside it, or in `store` (`sqlite:PATH`); blobs
    may have a folder of their own. Nothing is opened. Raises `CommandError`."""
    kept, found = _journal_and_store(journal, store, data_dir)
    if blobs is None:
        return kept, found
    from stepmesh_orchestrator.store.folder import FolderBlobs

    return kept, FolderBlobs(found, blobs)


def _journal_and_store(journal: str, store: str | None, data_dir: Callable[[], Path]) -> tuple[Journal, Store]:
    if journal == "memory":
        from stepmesh_orchestrator.journal.memory import MemoryJournal
        from stepmesh_orchestrator.store.memory import MemoryStore

        return MemoryJournal(), MemoryStore()
    file = _file(journal) if journal != "sqlite" else data_dir() / "journal.db"
    from stepmesh_orchestrator.journal.sqlite import SqliteJournal
    from stepmesh_orchestrator.store.sqlite import SqliteStore

    beside = file.with_name("store.db" if file.name == "journal.db" else f"{file.stem}.store.db")
    return SqliteJournal(file), SqliteStore(beside if store is None else _file(store))


def _file(name: str) -> Path:
    kind, _, path = name.partition(":")
    if kind != "sqlite" or not path:
        raise CommandError(f"{name!r} is not a journal", hint="use memory, sqlite or sqlite:PATH")
    return Path(path)
