"""Backends of the Journal port. Those of servers are imported from their modules by whoever wants them: nobody else
loads their clients."""

from stepmesh_orchestrator.journal.memory import MemoryJournal
from stepmesh_orchestrator.journal.rules import JournalBroken, JournalFormatError, JournalUnavailable
from stepmesh_orchestrator.journal.sqlite import SqliteJournal

__all__ = [
    "JournalBroken",
    "JournalFormatError",
    "JournalUnavailable",
    "MemoryJournal",
    "SqliteJournal",
]
