"""Every backend of the Journal port, by name; each makes a journal of its own for one test."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from tests.contract.journals.backend import Backend
from tests.contract.journals.jetstream import JetStreamBackend
from tests.contract.journals.kafka import KafkaBackend
from tests.contract.journals.memory import MemoryBackend
from tests.contract.journals.postgres import PostgresBackend
from tests.contract.journals.redis import RedisBackend
from tests.contract.journals.sqlite import SqliteBackend

from stepmesh_broker.protocol.ids import Namespace


def fresh() -> str:
    """A namespace that no other test uses."""
    return f"t{uuid.uuid4().hex[:12]}"


def _postgres(request: pytest.FixtureRequest) -> Backend:
    made = PostgresBackend(request.getfixturevalue("postgres_url"), Namespace(fresh()))
    request.addfinalizer(made.drop)
    return made


def _redis(request: pytest.FixtureRequest) -> Backend:
    made = RedisBackend(request.getfixturevalue("redis_url"), Namespace(fresh()))
    request.addfinalizer(made.drop)
    return made


BACKENDS: dict[str, Callable[[pytest.FixtureRequest], Backend]] = {
    "jetstream": lambda request: JetStreamBackend(request.getfixturevalue("nats_url"), fresh(), 1),
    "jetstream-cluster": lambda request: JetStreamBackend(request.getfixturevalue("nats_cluster_url"), fresh(), 3),
    "kafka": lambda request: KafkaBackend(request.getfixturevalue("kafka_url"), fresh(), "process"),
    "kafka-cluster": lambda request: KafkaBackend(request.getfixturevalue("kafka_cluster_url"), fresh(), "replicated"),
    "memory": lambda request: MemoryBackend(),
    "postgres": _postgres,
    "redis": _redis,
    "sqlite": lambda request: SqliteBackend(request.getfixturevalue("tmp_path")),
}
