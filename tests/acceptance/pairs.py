"""The pairs of broker and journal on which the conformance flows run. tests/README.md says which are left out, and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

_FIXTURES = {
    "nats": "nats_url", "nats-cluster": "nats_cluster_url", "kafka": "kafka_url", "kafka-cluster": "kafka_cluster_url",
    "postgres": "postgres_url", "redis": "redis_url",
}  # fmt: skip
"""Kind of server → the fixture that starts it."""


@dataclass(frozen=True)
class Pair:
    """`journal`: `memory`, `sqlite`, `broker` (the broker's own server) or a kind of server."""

    broker: str
    journal: str

    def __str__(self) -> str:
        """As the test is called."""
        return f"{self.broker}-{self.journal}"

    def addresses(self, request: pytest.FixtureRequest) -> tuple[str, str]:
        """What `--broker` and `--journal` take; starts what is not there yet."""
        found = [request.getfixturevalue(_FIXTURES[kind]) if kind in _FIXTURES else kind for kind in (self.broker, self.journal)]
        return found[0], found[1]

    @staticmethod
    def journal_in(folder: Path, journal: str) -> str:
        """With a file of its own where the journal is one."""
        return f"sqlite:{folder / 'journal.db'}" if journal == "sqlite" else journal


PAIRS = (
    *(Pair("memory", journal) for journal in ("memory", "sqlite", "postgres", "redis")),
    *(Pair("embedded", journal) for journal in ("sqlite", "postgres", "redis", "broker")),
    *(Pair("nats", journal) for journal in ("memory", "sqlite", "postgres", "redis", "broker")),
    *(Pair("nats-cluster", journal) for journal in ("sqlite", "postgres", "redis", "broker")),
    *(Pair("kafka", journal) for journal in ("memory", "sqlite", "postgres", "redis", "broker")),
    *(Pair("kafka-cluster", journal) for journal in ("sqlite", "postgres", "redis", "broker")),
)
