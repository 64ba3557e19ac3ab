"""Who shares the partitions, from what flags call the journal. Imports only the backend that is used."""

from __future__ import annotations

from pathlib import Path

from stepmesh_cli.errors import CommandError
from stepmesh_orchestrator.ports import Membership


def membership_of(journal: str) -> Membership:
    """The one that is kept where the journal is kept. Nothing is opened. Raises `CommandError` for a journal that cannot be shared."""
    kind, _, path = journal.partition(":")
    if kind != "sqlite" or not path:
        raise CommandError(f"the journal {journal!r} cannot be shared by several orchestrators", hint="use sqlite:PATH")
    from stepmesh_orchestrator.membership.sqlite import SqliteMembership

    file = Path(path)
    return SqliteMembership(file.with_name("members.db" if file.name == "journal.db" else f"{file.stem}.members.db"))
