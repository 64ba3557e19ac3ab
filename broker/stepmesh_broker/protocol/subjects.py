"""Message → subject. Namespace first, always. A name may hold letters, digits, `-` and `_`; anything else is refused here."""

from __future__ import annotations

import re
from hashlib import blake2s
from typing import NewType

from stepmesh_broker.errors import BrokerError
from stepmesh_broker.protocol.ids import Namespace, Partition, Pool, WorkerId

Subject = NewType("Subject", str)
MAX_NAME = 64
"""Characters of the name of a namespace or pool."""
_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_NAME}}}")


def checked_name(kind: str, name: str) -> str:
    """`name` itself, or `BrokerError` SM-3004 that says what a name may hold."""
    if not _NAME.fullmatch(name):
        raise BrokerError(f"{kind} {name!r} is not a name", code="SM-3004", hint="use 1 to 64 letters, digits, '-' or '_'")
    return name


def control(namespace: Namespace, partition: Partition) -> Subject:
    """Requests to the shard that owns a partition: claims and heartbeats."""
    return Subject(f"stepmesh.{namespace}.control.{partition}")


def api(namespace: Namespace) -> Subject:
    """Requests that any orchestrator of the namespace answers."""
    return Subject(f"stepmesh.{namespace}.api")


def owner(namespace: Namespace, partition: Partition) -> Subject:
    """Requests that only the orchestrator that owns a partition can answer; orchestrators pass them on."""
    return Subject(f"stepmesh.{namespace}.owner.{partition}")


def moves(namespace: Namespace) -> Subject:
    """Orchestrators tell each other here that somebody came, or let go of something: a reason to look at once."""
    return Subject(f"stepmesh.{namespace}.moves")


def presence(namespace: Namespace) -> Subject:
    """Workers say hello here; every orchestrator listens."""
    return Subject(f"stepmesh.{namespace}.presence")


def workers(namespace: Namespace, pool: Pool) -> Subject:
    """Cancel signals to all workers of a pool."""
    return Subject(f"stepmesh.{namespace}.workers.{pool}")


def worker(namespace: Namespace, pool: Pool, name: WorkerId) -> Subject:
    """Task frames for one worker of a pool. Its id may hold what no subject may."""
    return Subject(f"{workers(namespace, pool)}.{blake2s(name.encode(), digest_size=8).hexdigest()}")


def queries(namespace: Namespace, pool: Pool) -> Subject:
    """Questions to durable functions of a pool; one of its workers that have functions answers."""
    return Subject(f"stepmesh.{namespace}.queries.{pool}")


def feed(namespace: Namespace, run: str) -> Subject:
    """Live status events of one root run, for followers."""
    return Subject(f"stepmesh.{namespace}.feed.{run}")
