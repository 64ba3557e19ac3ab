"""How the command line names brokers, journals and stores, and how it shows the names.

Invariant: no password leaves through `shown`. It must not open anything.
"""

from __future__ import annotations

BROKERS = "memory, embedded, nats://host:4222[,host:4222] or kafka://host:9092[,host:9092]"
JOURNALS = "memory, sqlite[:PATH], broker, postgres://…, redis://…, nats://… or kafka://…"
STORES = "sqlite:PATH or postgres://…"
POSTGRES = frozenset({"postgres", "postgresql"})
REDIS = frozenset({"redis", "rediss"})
NATS = frozenset({"nats", "tls"})


def shown(name: str) -> str:
    """`name` without the credentials and options of a URL."""
    scheme, separator, rest = name.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2].partition('?')[0]}" if separator else name


def scheme_of(name: str) -> str:
    """`postgres` of `postgres://…`, `sqlite` of `sqlite:PATH`, `memory` of `memory`."""
    return name.partition(":")[0]
