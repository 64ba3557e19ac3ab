"""Who shares the partitions, from what flags call the journal. Imports only the backend that is used."""

from __future__ import annotations

from pathlib import Path

from stepmesh_broker.protocol.ids import Namespace
from stepmesh_cli.addresses import NATS, POSTGRES, REDIS, shown
from stepmesh_cli.errors import CommandError
from stepmesh_orchestrator.ports import Membership


def membership_of(journal: str, namespace: Namespace) -> Membership:
    """The one that is kept where the journal is kept. Nothing is opened. Raises `CommandError` for a journal that cannot be shared."""
    kind, _, path = journal.partition(":")
    if kind in POSTGRES:
        from stepmesh_orchestrator.membership.postgres import PostgresMembership

        return PostgresMembership(journal, namespace)
    if kind in REDIS:
        from stepmesh_orchestrator.membership.redis import RedisMembership

        return RedisMembership(journal, namespace)
    if kind in NATS:
        from stepmesh_orchestrator.membership.jetstream import JetStreamMembership

        return JetStreamMembership(journal, namespace)
    if kind == "kafka":
        from stepmesh_orchestrator.membership.kafka import KafkaMembership

        return KafkaMembership(journal, namespace)
    if kind != "sqlite" or not path:
        raise CommandError(
            f"the journal {shown(journal)!r} cannot be shared by several orchestrators",
            hint="use postgres://…, redis://…, nats://… or kafka://…",
        )
    from stepmesh_orchestrator.membership.sqlite import SqliteMembership

    file = Path(path)
    return SqliteMembership(file.with_name("members.db" if file.name == "journal.db" else f"{file.stem}.members.db"))
