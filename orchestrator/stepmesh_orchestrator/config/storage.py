"""`storageConfig`: where metadata, blobs and the journal live; one backend for all, or one each."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from stepmesh_orchestrator.config.section import Section

BackendType = Literal["inMemory", "sqlite", "postgres", "redis", "filesystem", "nats", "kafka", "broker"]
_ROLES: dict[str, frozenset[str]] = {
    "metadata": frozenset({"inMemory", "sqlite", "postgres", "redis"}),
    "blobs": frozenset({"inMemory", "sqlite", "postgres", "redis", "filesystem"}),
    "journal": frozenset({"inMemory", "sqlite", "postgres", "redis", "nats", "kafka", "broker"}),
}


class Backend(Section):
    """One store. `databaseUrl`: `sqlite:path`, `postgres://…`; `url`: of a Redis, NATS or Kafka server (NATS: the broker's when absent);
    `directory`: of a folder; `broker`: the server that is the broker. `replicas` of what is made on a cluster of NATS or Kafka."""

    type: BackendType = "inMemory"
    database_url: str | None = None
    max_connections: int = Field(default=10, ge=1, le=10_000)
    auto_migrate: bool = True
    directory: str | None = None
    url: str | None = None
    bootstrap_servers: str | None = None
    replicas: int | None = Field(default=None, ge=1, le=9)

    @model_validator(mode="after")
    def _has_its_place(self) -> Backend:
        if self.type in ("sqlite", "postgres") and not self.database_url:
            raise ValueError(f"{self.type} storage wants `databaseUrl`")
        if self.type == "redis" and not self.url:
            raise ValueError("redis storage wants `url`")
        if self.type == "kafka" and not (self.bootstrap_servers or self.url):
            raise ValueError("kafka storage wants `bootstrapServers`, or `url`")
        return self


class StorageConfig(Section):
    """The expanded form. The short form `{type: …}` is the same backend for all three."""

    metadata: Backend = Backend()
    blobs: Backend
    journal: Backend

    @model_validator(mode="before")
    @classmethod
    def _expanded(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if "type" in value:
            return {"metadata": value, "blobs": value, "journal": value}
        metadata = value.get("metadata") or {}
        return {**value, "metadata": metadata, "blobs": value.get("blobs") or metadata, "journal": value.get("journal") or metadata}

    @model_validator(mode="after")
    def _fits(self) -> StorageConfig:
        for role, allowed in _ROLES.items():
            kind = getattr(self, role).type
            if kind not in allowed:
                raise ValueError(f"{kind} cannot store {role}; use one of {', '.join(sorted(allowed))}")
        return self
