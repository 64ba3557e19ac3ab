"""Asks the server behind a broker's or a journal's address what it would lose: which backend is asked, and none of its questions."""

from __future__ import annotations

from pathlib import Path

from stepmesh_broker.durability import Finding
from stepmesh_broker.protocol.ids import Namespace
from stepmesh_cli.addresses import JOURNALS, NATS, POSTGRES, REDIS, scheme_of, shown
from stepmesh_cli.errors import CommandError
from stepmesh_cli.storage import missing


async def examine(address: str, namespace: str, monitor: str | None = None, data: Path | None = None) -> list[Finding]:
    """`address`: a broker or a journal. `monitor`: of a NATS server; `data`: the data folder of an embedded one. Empty for what is no
    server. Raises `StepmeshError` of the backend, `PackageMissing`, `CommandError`."""
    kind = scheme_of(address)
    try:
        if kind in NATS:
            return await _nats(address, namespace, monitor, data)
        if kind == "kafka":
            return await _kafka(address, namespace)
        if kind in POSTGRES:
            from stepmesh_orchestrator.journal import postgres_durability

            return await postgres_durability.examine(address)
        if kind in REDIS:
            from stepmesh_orchestrator.journal import redis_durability

            return await redis_durability.examine(address)
    except ImportError as problem:
        raise missing(kind, problem) from problem
    if kind == "memory":
        return [Finding("journal", "memory", "every run is lost when the process ends", "--journal sqlite")]
    if kind in ("sqlite", "grpc"):  # a file is looked at where it lies; a gateway shows no settings
        return []
    raise CommandError(f"{shown(address)!r} is neither a broker nor a journal", hint=f"a journal is {JOURNALS}")


async def examine_projectors(journal: str, store: str, namespace: str) -> list[Finding]:
    """How far the projectors of a journal in Kafka are. Raises `StepmeshError`, `PackageMissing`, `CommandError`."""
    if scheme_of(journal) != "kafka" or scheme_of(store) not in POSTGRES:
        raise CommandError(
            f"no projector reads the journal {shown(journal)} for the store {shown(store)}",
            hint="--journal kafka://host:9092 --store postgres://host/database",
        )
    try:
        from stepmesh_projector import lag
    except ImportError as problem:
        raise missing("to look after projectors", problem) from problem
    return await lag.examine(journal, store, Namespace(namespace))


async def _nats(address: str, namespace: str, monitor: str | None, data: Path | None) -> list[Finding]:
    from stepmesh_broker.nats import NatsSettings, durability

    config = None if data is None else data / "nats" / "server.conf"
    return await durability.examine(NatsSettings.parse(address, Namespace(namespace)), monitor=monitor, config=config)


async def _kafka(address: str, namespace: str) -> list[Finding]:
    from stepmesh_broker.kafka import KafkaSettings, durability

    return await durability.examine(KafkaSettings.parse(address, Namespace(namespace)))
