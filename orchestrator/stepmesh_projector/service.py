"""The projector of one namespace, put together: where to read, where to write, and the application between them."""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from stepmesh_broker.kafka.settings import KafkaSettings
from stepmesh_broker.protocol.ids import Namespace
from stepmesh_broker.telemetry import TelemetrySettings
from stepmesh_orchestrator.clock import SystemClock
from stepmesh_orchestrator.core.flow.routing import Router
from stepmesh_orchestrator.journal.kafka import KafkaJournal
from stepmesh_orchestrator.runtime.flows import FlowRegistry
from stepmesh_orchestrator.store.postgres import PostgresStore
from stepmesh_projector import topic
from stepmesh_projector.application import Application
from stepmesh_projector.faust_app import ApplicationSettings
from stepmesh_projector.feed import Feeds, ProjectorError
from stepmesh_projector.postgres import PostgresKeeper
from stepmesh_projector.readings import Reading
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
    telemetry: TelemetrySettings | None = None


@asynccontextmanager
async def open_application(settings: ProjectorSettings) -> AsyncGenerator[Application]:
    """Connected, not started; checkpoints and windows are forgotten first for a rebuild. Raises `ProjectorError`, `StoreError`,
    `JournalError`, `BrokerError`."""
    kafka = KafkaSettings.parse(settings.broker, settings.namespace)
    found = await topic.find(kafka, topic.journal_of(settings.namespace))
    store = PostgresStore(settings.store, settings.namespace)
    keeper = PostgresKeeper(settings.store, settings.namespace)
    journal = KafkaJournal(settings.broker, settings.namespace, found.partitions)
    async with AsyncExitStack() as stack:
        for part in (store, keeper, journal):
            await part.open()
            stack.push_async_callback(part.close)
        group = await _group(settings, kafka, keeper, journal)
        feeds = Feeds(FlowRegistry(store, SystemClock()), settings.router, RecordReader, keeper, journal, settings.size_ms)
        yield Application(ApplicationSettings(
            group=group, kafka=kafka, topic=found, size_ms=settings.size_ms, keep_ms=settings.keep_ms, settle_s=settings.settle_s,
            session_s=settings.session_s, host=settings.host, port=settings.port, observe=_observed(settings.telemetry, stack),
        ), feeds, store, keeper)  # fmt: skip


def _observed(settings: TelemetrySettings | None, stack: AsyncExitStack) -> Callable[[Reading], None] | None:
    if settings is None:
        return None
    from stepmesh_projector.metrics import start  # late: only who exports pays for OpenTelemetry

    metrics = start(settings, f"{platform.node()}-{os.getpid()}")
    if metrics is None:
        return None
    stack.push_async_callback(asyncio.to_thread, metrics.close)
    return metrics.read


async def _group(settings: ProjectorSettings, kafka: KafkaSettings, keeper: PostgresKeeper, journal: KafkaJournal) -> str:
    """A rebuild is another group, which begins with the first record and has tables of its own."""
    group = _named(settings.namespace, await keeper.generation())
    if not settings.rebuild:
        return group
    if await topic.members(kafka, group):
        raise ProjectorError(
            f"projectors of the group {group} run: a rebuild would take away their checkpoints",
            code="SM-4216",
            hint="stop them all; one that was killed counts until its session is over",
        )
    await keeper.clear([partition for partition in await journal.partitions() if not await journal.trimmed(partition)])
    return _named(settings.namespace, await keeper.generation())


def _named(namespace: Namespace, generation: int) -> str:
    return f"stepmesh.{namespace}.projector" + (f".{generation}" if generation else "")
