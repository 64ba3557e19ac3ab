"""How to reach a NATS server or cluster and how streams are made there. A frozen value; it must not know how it is used."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote

from stepmesh_broker.errors import BrokerError
from stepmesh_broker.protocol.ids import Namespace

_DEFAULT = Namespace("default")
_HINT = (
    "nats://[user:password@]host[:port][,host[:port]][?tls=true&ca=FILE&cert=FILE&key=FILE&credentials=FILE&replicas=3]; "
    "inbox=PREFIX for answers; write signs of a password as %XX"
)
_OPTIONS = frozenset({"tls", "ca", "cert", "key", "credentials", "replicas", "inbox"})
_TLS_FILES = frozenset({"ca", "cert", "key"})
_SCHEMES = ("nats", "tls")
_MOST_REPLICAS = 5
_PREFIX = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PORT = 4222

Storage = Literal["memory", "file"]


@dataclass(frozen=True, kw_only=True)
class NatsSettings:
    """Settings of one connection. Times are seconds.

    The stream settings (`dedupe_window_s`, `replicas`, `*_storage`) count when a stream is made, `ack_wait_s` whenever a
    pool is joined; all processes of a namespace should agree on them. Losing the tasks (`task_storage="memory"` and a server
    restart) costs no run: the journal publishes them again. In a cluster tasks are on disk, whatever `task_storage` says: there a
    stream outlives its content, and nobody would see that tasks were lost. `replicas`: None is three in a cluster, else one. The
    inbox is always on disk, flushed by the server's `sync_interval` (survives a crash of the server, not a power cut).
    """

    url: str | tuple[str, ...] = "nats://127.0.0.1:4222"
    namespace: Namespace = _DEFAULT
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    credentials_file: str | None = None
    inbox_prefix: str = "_INBOX"  # where answers are heard: one of its own for each user who must not hear those of others
    tls: ssl.SSLContext | None = None
    ack_wait_s: float = 6.0
    dedupe_window_s: float = 120.0
    replicas: int | None = None
    task_storage: Storage = "memory"
    max_message_bytes: int | None = None  # None: as much as the server takes
    connect_timeout_s: float = 5.0
    publish_timeout_s: float = 10.0  # for one publish, reconnects and retries included; a cluster needs 4 to 9 s for a new leader

    @classmethod
    def parse(cls, url: str, namespace: Namespace = _DEFAULT, **others: Any) -> NatsSettings:
        """From `nats://[user:password@]host:port[,host:port][?option=value]`; each host may have its scheme, and a name without a
        password is a token. Raises `BrokerError` SM-3040 for anything else."""
        addresses, _, query = url.partition("?")
        pieces = [_Piece.read(piece) for piece in addresses.split(",")]
        options = dict(parse_qsl(query, keep_blank_values=True))
        if options.keys() - _OPTIONS:
            raise _bad(f"there is no option {', '.join(sorted(options.keys() - _OPTIONS))}")
        others.setdefault("replicas", _replicas(options))
        login = next((piece.login for piece in pieces if piece.login), "")
        name, separator, password = login.partition(":")
        over_tls = any(piece.scheme == "tls" for piece in pieces)
        return cls(
            url=tuple(f"nats://{piece.host}" for piece in pieces),
            namespace=namespace,
            user=unquote(name) if separator else None,
            password=unquote(password) if separator else None,
            token=unquote(name) if name and not separator else None,
            credentials_file=options.get("credentials"),
            inbox_prefix=_inbox(options),
            tls=_tls(options, over_tls),
            **others,
        )


@dataclass(frozen=True)
class _Piece:
    scheme: str
    login: str
    host: str

    @classmethod
    def read(cls, text: str) -> _Piece:
        scheme, separator, rest = text.partition("://")
        if not separator:
            scheme, rest = "nats", text
        login, _, host = rest.rstrip("/").rpartition("@")
        name, _, port = host.rpartition(":") if ":" in host.rpartition("]")[2] else (host, "", str(_PORT))
        if scheme not in _SCHEMES or not name or "/" in host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise _bad(f"{scheme}://{host} is not the address of a NATS server")
        return cls(scheme, login, f"{name}:{port}")


def _replicas(options: dict[str, str]) -> int | None:
    text = options.get("replicas")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _MOST_REPLICAS):
        raise _bad(f"replicas is {text!r}, not a number from 1 to {_MOST_REPLICAS}")
    return int(text)


def _inbox(options: dict[str, str]) -> str:
    prefix = options.get("inbox", "_INBOX")
    if not _PREFIX.fullmatch(prefix):
        raise _bad(f"inbox is {prefix!r}, not a word of letters, digits, - and _")
    return prefix


def _tls(options: dict[str, str], wanted: bool) -> ssl.SSLContext | None:
    if options.get("tls", "true" if wanted or options.keys() & _TLS_FILES else "false").lower() != "true":
        return None
    try:
        context = ssl.create_default_context(cafile=options.get("ca"))
        if "cert" in options:
            context.load_cert_chain(options["cert"], options.get("key"))
    except OSError as problem:
        raise _bad(f"a certificate cannot be read: {problem}") from problem
    return context


def _bad(why: str) -> BrokerError:
    return BrokerError(f"the NATS URL cannot be used: {why}", code="SM-3040", hint=_HINT)
