"""Backends of the Journal port. `journal.kafka` is imported by whoever wants it: its client is an extra."""

from stepmesh_orchestrator.journal.jetstream import JetStreamJournal
from stepmesh_orchestrator.journal.memory import MemoryJournal
from stepmesh_orchestrator.journal.rules import JournalBroken, JournalFormatError, JournalTrimmed, JournalUnavailable
from stepmesh_orchestrator.journal.sqlite import SqliteJournal

__all__ = [
    "JetStreamJournal",
    "JournalBroken",
    "JournalFormatError",
    "JournalTrimmed",
    "JournalUnavailable",
    "MemoryJournal",
    "SqliteJournal",
]
