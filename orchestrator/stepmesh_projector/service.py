"""The projector of one namespace, put together: where to read, where to write, and the application between them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from stepmesh_broker.kafka.settings import KafkaSettings
from stepmesh_broker.protocol.ids import Namespace
from stepmesh_orchestrator.clock import SystemClock
from stepmesh_orchestrator.core.flow.routing import Router
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.store.postgres import PostgresStore
from stepmesh_projector import topic
from stepmesh_projector.application import Application, ApplicationSettings
from stepmesh_projector.feed import Feeds, ProjectorError
from stepmesh_projector.postgres import PostgresKeeper
from stepmesh_projector.records import RecordReader


@dataclass(frozen=True, kw_only=True)
class ProjectorSettings:
    """`broker`: kafka://…; `store`: postgres://…. Times as in `ApplicationSettings`."""

    broker: str
    store: str
    namespace: Namespace
    router: Router
    rebuild: bool = False
    size_ms: int = 10_000
    keep_ms: int = 24 * 3_600_000
    settle_s: float = 2.0
    session_s: float = 15.0
    host: str = "127.0.0.1"
    port: int | None = None


@asynccontextmanager
async def open_application(settings: ProjectorSettings) -> AsyncGenerator[Application]:
    """Connected, not started; what was projected is forgotten first for a rebuild. Raises `ProjectorError`, `StoreError`, `BrokerError`."""
    kafka = KafkaSettings.parse(settings.broker, settings.namespace)
    found = await topic.find(kafka, f"stepmesh.{settings.namespace}.journal")
    store = PostgresStore(settings.store, settings.namespace)
    keeper = PostgresKeeper(settings.store, settings.namespace)
    await store.open()
    try:
        await keeper.open()
        try:
            group = await _group(settings, kafka, keeper)
            yield _application(settings, ApplicationSettings(
                group=group, kafka=kafka, topic=found, size_ms=settings.size_ms, keep_ms=settings.keep_ms, settle_s=settings.settle_s,
                session_s=settings.session_s, host=settings.host, port=settings.port,
            ), store, keeper)  # fmt: skip
        finally:
            await keeper.close()
    finally:
        await store.close()


def _application(settings: ProjectorSettings, of_app: ApplicationSettings, store: PostgresStore, keeper: PostgresKeeper) -> Application:
    feeds = Feeds(FlowRegistry(store, SystemClock()), settings.router, RecordReader, keeper, settings.size_ms)
    return Application(of_app, feeds, store, keeper)


async def _group(settings: ProjectorSettings, kafka: KafkaSettings, keeper: PostgresKeeper) -> str:
    """A rebuild is another group, which begins with the first record and has tables of its own."""
    group = _named(settings.namespace, await keeper.generation())
    if not settings.rebuild:
        return group
    if await topic.members(kafka, group):
        raise ProjectorError(
            f"projectors of the group {group} run: a rebuild would take away what they write",
            code="SM-4216",
            hint="stop them all; one that was killed counts until its session is over",
        )
    await keeper.clear()
    return _named(settings.namespace, await keeper.generation())


def _named(namespace: Namespace, generation: int) -> str:
    return f"stepmesh.{namespace}.projector" + (f".{generation}" if generation else "")
