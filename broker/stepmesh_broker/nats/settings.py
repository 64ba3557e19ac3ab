"""How to reach a NATS server and how streams are made there. A frozen value; it must not know how it is used."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Literal

from stepmesh_broker.protocol.ids import Namespace

_DEFAULT = Namespace("default")

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
