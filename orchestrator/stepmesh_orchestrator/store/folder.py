"""Blobs as files of a folder, everything else in another store.

Invariant: a blob's files are whole or not there (written beside, flushed, renamed), its data after what describes it. It must not
know what blobs hold.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from stepmesh_broker.protocol.ids import BlobId, FlowId, Partition, RunId
from stepmesh_orchestrator.ports import BlobRecord, FlowRecord, ItemRow, RunGone, RunQuery, RunRow, Store
from stepmesh_orchestrator.store.sqlite import StoreCorrupt, StoreFull, StoreUnavailable

T = TypeVar("T")


class _About(NamedTuple):
    kind: str
    filename: str | None
    content_type: str | None


class FolderBlobs:
    """`store`, except for blobs: `<folder>/<first two characters>/<id>` holds the data, `<id>.json` what describes it."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self._folder = folder

    async def open(self) -> None:
        """See the port. Raises `StoreUnavailable` when the folder cannot be made."""
        await self._run(lambda: self._folder.mkdir(0o700, parents=True, exist_ok=True))
        await self._store.open()

    async def close(self) -> None:
        """See the port."""
        await self._store.close()

    async def put_blob(self, blob: BlobRecord) -> None:
        """See the port. Raises `StoreFull`, `StoreUnavailable`."""
        await self._run(lambda: _write(self._place(blob.id), blob))

    async def get_blob(self, blob: BlobId) -> BlobRecord | None:
        """See the port. Raises `StoreCorrupt`, `StoreUnavailable`."""
        if not (blob.isascii() and blob.isalnum()):  # never a path that leads elsewhere
            return None
        return await self._run(lambda: _read(self._place(blob), blob))

    async def put_flow(self, flow: FlowRecord) -> None:
        """See the port."""
        await self._store.put_flow(flow)

    async def get_flow(self, flow: FlowId) -> FlowRecord | None:
        """See the port."""
        return await self._store.get_flow(flow)

    async def flows_named(self, name: str, limit: int) -> Sequence[FlowRecord]:
        """See the port."""
        return await self._store.flows_named(name, limit)

    async def delete_flow(self, flow: FlowId) -> bool:
        """See the port. Raises `StoreUnavailable`."""
        stored = await self._store.delete_flow(flow)
        blob = await self.get_blob(BlobId(flow))
        if blob is None or blob.kind != "flow":
            return stored
        await self._run(lambda: _remove(self._place(blob.id)))
        return True

    async def project(
        self, partition: Partition, sequence: int, runs: Sequence[RunRow], items: Sequence[ItemRow], gone: Sequence[RunGone] = ()
    ) -> None:
        """See the port."""
        await self._store.project(partition, sequence, runs, items, gone)

    async def projected(self, partition: Partition) -> int:
        """See the port."""
        return await self._store.projected(partition)

    async def get_run(self, run: RunId) -> RunRow | None:
        """See the port."""
        return await self._store.get_run(run)

    async def list_runs(self, query: RunQuery) -> Sequence[RunRow]:
        """See the port."""
        return await self._store.list_runs(query)

    async def get_items(self, run: RunId, first: int = 0, limit: int | None = None) -> Sequence[ItemRow]:
        """See the port."""
        return await self._store.get_items(run, first, limit)

    def _place(self, blob: BlobId) -> Path:
        return self._folder / blob[:2] / blob

    async def _run(self, work: Callable[[], T]) -> T:
        """In a thread, with the system's errors told as the store's."""
        try:
            return await asyncio.to_thread(work)
        except OSError as problem:
            if problem.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreFull(
                    f"no space is left in the folder of blobs {self._folder}", hint="free some space; no restart is needed"
                ) from problem
            hint = "check that it is a folder that this user may write"
            raise StoreUnavailable(f"the folder of blobs {self._folder}: {problem.strerror or problem}", hint=hint) from problem


def _write(place: Path, blob: BlobRecord) -> None:
    if place.exists():
        return
    place.parent.mkdir(0o700, exist_ok=True)
    about = msgspec.json.encode(_About(blob.kind, blob.filename, blob.content_type))
    for file, content in ((_about(place), about), (place, blob.data)):  # the data last: where it is, the rest is
        fresh = file.with_name(f"{file.name}.{os.getpid()}.new")
        with fresh.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        fresh.replace(file)
    folder = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _remove(place: Path) -> None:
    """The data first: what only describes a blob is none."""
    place.unlink(missing_ok=True)
    _about(place).unlink(missing_ok=True)


def _read(place: Path, blob: BlobId) -> BlobRecord | None:
    try:
        data = place.read_bytes()
    except FileNotFoundError:
        return None
    try:
        about = msgspec.json.decode(_about(place).read_bytes(), type=_About)
    except (FileNotFoundError, msgspec.DecodeError) as problem:
        raise StoreCorrupt(f"{_about(place)} does not describe its blob", hint="restore the folder from a backup") from problem
    return BlobRecord(blob, about.kind, data, about.filename, about.content_type)


def _about(place: Path) -> Path:
    return place.with_name(f"{place.name}.json")
