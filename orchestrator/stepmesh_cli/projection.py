"""`--projection`: who writes the read model, and what that asks of journal and store. Opens nothing."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from stepmesh_cli.addresses import POSTGRES, scheme_of, shown
from stepmesh_cli.errors import CommandError
from stepmesh_cli.storage import StorageSettings

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
