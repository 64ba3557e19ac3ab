"""Which journal the journal commands look at: the file of a data folder that no process owns, or one on a server.

Invariant: looking makes nothing. A folder that another process owns is refused; on a server reading and writing go side by side. Must
not know what is done with the journal.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

from stepmesh_broker.protocol.ids import Namespace
from stepmesh_cli.addresses import JOURNALS, shown
from stepmesh_cli.data_folder import DataFolder
from stepmesh_cli.errors import BadInput, CommandError
from stepmesh_cli.storage import journal_on_server
from stepmesh_orchestrator.journal.inspect import Inspectable
from stepmesh_orchestrator.journal.repair import Repairable
from stepmesh_orchestrator.journal.sqlite import SqliteJournal

FILE = "journal.db"


class FileSource(NamedTuple):
    """The file, and the `flags` that name it."""

    file: Path
    flags: str

    @property
    def name(self) -> str:
        """For people."""
        return str(self.file)

    def opened(self) -> AbstractAsyncContextManager[Inspectable]:
        """The journal, open."""
        return _opened_file(self.file)


class ServerSource(NamedTuple):
    """A journal's address and namespace."""

    address: str
    namespace: str

    @property
    def name(self) -> str:
        """For people."""
        return f"{shown(self.address)}, namespace {self.namespace}"

    @property
    def flags(self) -> str:
        """Those that name it; without a password."""
        return f"--journal {shown(self.address)} --namespace {self.namespace}"

    def opened(self) -> AbstractAsyncContextManager[Repairable]:
        """The journal, open. Raises SM-4222 when there is none."""
        return _opened_server(self.address, Namespace(self.namespace))


@contextmanager
def source_of(data: Path | None, journal: str | None, namespace: str) -> Generator[FileSource | ServerSource]:
    """The one that is named; a folder is owned meanwhile. Raises `CommandError`, `BadInput`, `DataFolderInUse`."""
    if (data is None) == (journal is None):
        raise CommandError("name one journal", hint="--data FOLDER, or --journal with the address of a server")
    kind, _, path = (journal or "").partition(":")
    if data is None and kind != "sqlite":
        if kind in ("memory", "broker", ""):
            raise CommandError(f"{journal!r} is not a journal that can be looked at", hint=f"--journal is {JOURNALS}")
        yield ServerSource(journal or "", namespace)
        return
    named = Path(path or ".stepmesh") if data is None else data
    with _owned(named) as file:
        yield FileSource(file, f"--data {named}")


@contextmanager
def _owned(data: Path) -> Generator[Path]:
    """The journal's file, while this process owns the folder."""
    file = data if data.is_file() else data / FILE
    if not file.is_file():
        raise BadInput(f"there is no journal {file}", hint="--data names the folder of a deployment that used --journal sqlite")
    folder = DataFolder(file.parent)
    folder.own()
    try:
        yield file
    finally:
        folder.release()


@asynccontextmanager
async def _opened_file(file: Path) -> AsyncGenerator[Inspectable]:
    journal = SqliteJournal(file)
    await journal.open()
    try:
        yield journal
    finally:
        await journal.close()


@asynccontextmanager
async def _opened_server(address: str, namespace: Namespace) -> AsyncGenerator[Repairable]:
    journal = journal_on_server(address, namespace, None)
    await journal.open()
    try:
        yield journal
    finally:
        await journal.close()
