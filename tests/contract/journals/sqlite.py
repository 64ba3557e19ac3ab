"""The journal in a SQLite file, for its contract."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from stepmesh_broker.protocol.ids import Partition
from stepmesh_orchestrator.journal import SqliteJournal
from stepmesh_orchestrator.ports import Journal


class SqliteBackend:
    durability = "fsync"
    survives = "power loss, as long as the disk"
    lost_end = ""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "data" / "journal.db"
        self.journal: Journal = SqliteJournal(self.path)

    async def reopened(self) -> Journal:
        await self.journal.close()
        self.journal = SqliteJournal(self.path)
        await self.journal.open()
        return self.journal

    def _run(self, statement: str, *values: object) -> None:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            assert connection.execute(statement, values).rowcount == 1

    async def put_frame(self, partition: Partition, sequence: int, **fields: Any) -> None:
        for name, value in fields.items():
            self._run(f"UPDATE frames SET {name}=? WHERE partition=? AND sequence=?", value, partition, sequence)

    async def drop_frame(self, partition: Partition, sequence: int) -> None:
        self._run("DELETE FROM frames WHERE partition=? AND sequence=?", partition, sequence)

    async def put_snapshot(self, partition: Partition, sequence: int, **fields: Any) -> None:
        for name, value in fields.items():
            self._run(f"UPDATE snapshots SET {name}=? WHERE partition=? AND sequence=?", value, partition, sequence)
