"""`--projection`: who writes the read model, what that asks of journal and store, and what stands in a partition for whoever does.

Invariant: a deployment whose read model others write knows how far they are, so that its journal waits for them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Literal

from cyclopts import Parameter

from stepmesh_broker.protocol.ids import Namespace, Partition
from stepmesh_cli.addresses import POSTGRES, scheme_of, shown
from stepmesh_cli.errors import CommandError
from stepmesh_cli.storage import StorageSettings
from stepmesh_orchestrator.ports import Store
from stepmesh_orchestrator.runtime.external_projector import ExternalProjector
from stepmesh_orchestrator.runtime.projector import Projector

Projection = Annotated[
    Literal["inline", "external"],
    Parameter(
        env_var="STEPMESH_PROJECTION",
        help="Who writes lists and results of ended runs: this process, or `stepmesh projector`, for a journal in Kafka and a store in"
        " PostgreSQL.",
    ),
]


def check(projection: Projection, settings: StorageSettings) -> None:
    """Raises `CommandError` for a journal that no projector can follow, or a store that none can write."""
    if projection == "inline":
        return
    if scheme_of(settings.journal_name) != "kafka" or scheme_of(settings.store or "") not in POSTGRES:
        raise CommandError(
            f"no projector writes the read model of the journal {shown(settings.journal_name)}",
            hint="--journal kafka://host:9092 --store postgres://host/database, or --projection inline",
        )


@asynccontextmanager
async def projectors(
    projection: Projection, store: str | None, namespace: Namespace
) -> AsyncGenerator[Callable[[Store, Partition], Projector]]:
    """Makes the one of a partition. Raises `StoreError`."""
    if projection == "inline":
        yield Projector
        return
    from stepmesh_projector.progress import Progress

    progress = Progress(store or "", namespace)
    await progress.open()
    try:
        yield partial(ExternalProjector, kept=progress.kept)
    finally:
        await progress.close()
