"""After a chaos run: everything has stopped, and journal and ledger are opened to be compared."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from stepmesh_cli.demo.audit import Check, audit
from stepmesh_cli.demo.history import History, read_history
from stepmesh_cli.demo.ledger import Execution
from stepmesh_cli.demo.replay import kept, replayed
from stepmesh_cli.demo.stage import Stage
from stepmesh_orchestrator.journal.sqlite import SqliteJournal
from stepmesh_orchestrator.store.sqlite import SqliteStore


@asynccontextmanager
async def opened(stage: Stage) -> AsyncGenerator[tuple[SqliteJournal, SqliteStore]]:
    """Journal and store of the data folder, to be read; no partition is taken over."""
    journal, store = SqliteJournal(stage.data / "journal.db"), SqliteStore(stage.data / "store.db")
    await journal.open()
    try:
        await store.open()
        try:
            yield journal, store
        finally:
            await store.close()
    finally:
        await journal.close()


async def history_of(stage: Stage) -> History:
    """What the journal says now."""
    async with opened(stage) as (journal, store):
        return await read_history(journal, store)


async def examine(stage: Stage, done: list[Execution]) -> list[Check]:
    """All checks of the audit, and that replays agree."""
    async with opened(stage) as (journal, store):
        return [*audit(await read_history(journal, store), done), await _replays(journal, store)]


async def _replays(journal: SqliteJournal, store: SqliteStore) -> Check:
    frames, first = await replayed(journal, store)
    _, second = await replayed(journal, store)
    wrong = [] if first == second else [f"two replays of {frames} frames differ: {first[:12]} and {second[:12]}"]
    live = await kept(journal, store)
    if live is not None and (await replayed(journal, store, through=live[0]))[1] != live[1]:
        wrong.append(f"the state that the orchestrator had at frame {live[0]} differs from its replay")
    return Check("two replays, and the state when it stopped, have one hash", frames, tuple(wrong))
