"""How to reach a NATS server and how streams are made there. A frozen value; it must not know how it is used."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qsl

from stepmesh_broker.errors import BrokerError
from stepmesh_broker.protocol.ids import Namespace

_DEFAULT = Namespace("default")
_HINT = "nats://[user:password@]host:port[,host:port][?replicas=3]"
MOST_REPLICAS = 5
"""JetStream's own limit."""

Storage = Literal["memory", "file"]


@dataclass(frozen=True, kw_only=True)
class NatsSettings:
    """Settings of one connection. Times are seconds.

    The stream settings (`dedupe_window_s`, `replicas`, `*_storage`) count when a stream is made, `ack_wait_s` whenever a
    pool is joined; all processes of a namespace should agree on them. Losing the tasks (`task_storage="memory"` and a server
    restart) costs no run: the journal publishes them again. The inbox is always on disk, flushed by the server's
    `sync_interval` (survives a crash of the server, not a power cut).
    """

    url: str | tuple[str, ...] = "nats://127.0.0.1:4222"
    namespace: Namespace = _DEFAULT
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    credentials_file: str | None = None
    tls: ssl.SSLContext | None = None
    ack_wait_s: float = 6.0
    dedupe_window_s: float = 120.0
    replicas: int = 1
    task_storage: Storage = "memory"
    max_message_bytes: int | None = None  # None: as much as the server takes
    connect_timeout_s: float = 5.0
    publish_timeout_s: float = 5.0  # for one publish, reconnects and retries included

    @classmethod
    def parse(cls, url: str, namespace: Namespace = _DEFAULT, **others: Any) -> NatsSettings:
        """From `nats://[user:password@]host:port[,host:port][?replicas=N]`; the credentials of the first server go for all of them.
        Raises `BrokerError` SM-0151."""
        servers, _, query = url.partition("?")
        options = dict(parse_qsl(query, keep_blank_values=True))
        replicas = options.pop("replicas", "1")
        if options or not (replicas.isascii() and replicas.isdigit() and 1 <= int(replicas) <= MOST_REPLICAS):
            raise BrokerError("the NATS URL cannot be used: its only option is replicas, from 1 to 5", code="SM-0151", hint=_HINT)
        addresses = _addresses(servers)
        return cls(
            url=addresses if len(addresses) > 1 else next(iter(addresses), servers), namespace=namespace, replicas=int(replicas), **others
        )


def _addresses(servers: str) -> tuple[str, ...]:
    """One URL per server, each with scheme and credentials of the first unless it has its own."""
    scheme, separator, rest = servers.partition("://")
    if not separator:
        scheme, rest = "nats", servers
    credentials = rest.split(",")[0].rpartition("@")[0]
    found: list[str] = []
    for one in rest.split(","):
        address = one.rpartition("://")[2]
        own, _, host = address.rpartition("@")
        found.append(f"{scheme}://{own or credentials}@{host}" if own or credentials else f"{scheme}://{host}")
    return tuple(one for one in found if not one.endswith(("://", "@")))
