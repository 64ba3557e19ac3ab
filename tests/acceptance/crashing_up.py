"""`stepmesh up` whose journal kills the process at a named moment: STEPMESH_CRASH="append:7:before". The product has no such hook.

Moments: `append:N:before` and `append:N:after` the N-th frame is durable (all partitions, this process), `snapshot:N:before` and
`:after`, `read:N:before` the N-th frame of the replay is handed over. Instead of a kill: `eio:N`, from the N-th append on the disk fails;
`full:PATH`, there is no space while the file PATH is there.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from stepmesh_broker.protocol.ids import Partition
from stepmesh_cli.main import main
from stepmesh_orchestrator.journal import sqlite
from stepmesh_orchestrator.journal.rules import JournalBroken
from stepmesh_orchestrator.ports import Frame, JournalFull, Snapshot

KIND, AT, SIDE = (os.environ.get("STEPMESH_CRASH", "never:0:") + "::").split(":")[:3]


class CrashingJournal(sqlite.SqliteJournal):
    """Counts calls, and dies at the one that was named."""

    calls = 0

    async def append(self, partition: Partition, epoch: int, expected: int, payload: bytes) -> None:
        await self._around("append", lambda: super(CrashingJournal, self).append(partition, epoch, expected, payload))

    async def save_snapshot(self, partition: Partition, epoch: int, snapshot: Snapshot) -> None:
        await self._around("snapshot", lambda: super(CrashingJournal, self).save_snapshot(partition, epoch, snapshot))

    async def read(self, partition: Partition, after: int = 0) -> AsyncIterator[Frame]:
        async for frame in super().read(partition, after):
            if KIND == "read":
                self._count("before")
            yield frame

    async def _around(self, kind: str, call: Callable[[], Any]) -> None:
        if KIND == "eio" and kind == "append":
            CrashingJournal.calls += 1
            if CrashingJournal.calls >= int(AT):
                raise JournalBroken("the journal: the disk failed (disk I/O error)", hint="check the disk, then start again")
        if KIND == "full" and Path(AT).exists():
            raise JournalFull("the journal: no space is left for it", hint="free some space; no restart is needed")
        if kind == KIND and SIDE == "before":
            self._count("before")
        await call()
        if kind == KIND and SIDE == "after":
            self._count("after")

    def _count(self, side: str) -> None:
        CrashingJournal.calls += 1
        if side == SIDE and CrashingJournal.calls == int(AT):
            os.kill(os.getpid(), signal.SIGKILL)


sqlite.SqliteJournal = CrashingJournal  # type: ignore[misc]  # the deployment imports it from there when it opens its storage
sys.exit(main(sys.argv[1:]))
