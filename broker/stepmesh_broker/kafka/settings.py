"""How to reach a Kafka cluster and how topics are made there. A frozen value; it must not know how it is used."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from stepmesh_broker.errors import BrokerError
from stepmesh_broker.protocol.ids import Namespace

STOP_S = 5.0
"""What a client of aiokafka gets to stop in order, in seconds; while brokers are away or elect, some never do."""
_DEFAULT = Namespace("default")
_HINT = (
    "kafka://[user:password@]host:port[,host:port][?mechanism=SCRAM-SHA-512&tls=true&ca=FILE&cert=FILE&key=FILE&replicas=3&instance=NAME]"
)
_MECHANISMS = frozenset({"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"})
_OPTIONS = frozenset({"mechanism", "tls", "ca", "cert", "key", "replicas", "instance"})


@dataclass(frozen=True, kw_only=True)
class KafkaSettings:
    """Settings of one connection. Times are seconds.

    The topic settings (`…_partitions`, `replicas`, `retention_s`) count when a topic is made; None for `replicas` is the cluster's own
    default. All processes of a namespace should agree on them. `instance`: a name that this process has again after a restart, and nobody
    else: within `session_s` it then takes its place in its pools again, and the others notice nothing.
    """

    bootstrap: tuple[str, ...] = ("127.0.0.1:9092",)
    namespace: Namespace = _DEFAULT
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    mechanism: str = "SCRAM-SHA-512"
    tls: ssl.SSLContext | None = None
    ack_wait_s: float = 6.0
    dedupe_window_s: float = 120.0
    pool_partitions: int = 8
    inbox_partitions: int = 16
    talk_partitions: int = 16
    replicas: int | None = None
    retention_s: float = 7 * 24 * 3600.0
    max_message_bytes: int = 8 << 20
    session_s: float = 3.0  # a consumer that is silent for so long has left its pool; 6 where the cluster allows no less
    instance: str = ""
    connect_timeout_s: float = 5.0
    publish_timeout_s: float = 10.0  # for one publish, retries included

    @classmethod
    def parse(cls, url: str, namespace: Namespace = _DEFAULT, **others: Any) -> KafkaSettings:
        """From `kafka://[user:password@]host:port[,host:port][?option=value]`. Raises `BrokerError` SM-3020 for anything else."""
        parts = urlsplit(url)
        credentials, _, hosts = parts.netloc.rpartition("@")
        bootstrap = tuple(host for host in hosts.split(",") if host)
        options = dict(parse_qsl(parts.query))
        if parts.scheme != "kafka" or not bootstrap or not all(_is_address(host) for host in bootstrap) or options.keys() - _OPTIONS:
            raise _bad("it is not the address of a Kafka cluster")
        mechanism = options.get("mechanism", "SCRAM-SHA-512").upper()
        if mechanism not in _MECHANISMS:
            raise _bad(f"there is no mechanism {mechanism}")
        others.setdefault("replicas", _replicas(options.get("replicas")))
        user, _, password = credentials.partition(":")
        return cls(
            bootstrap=bootstrap,
            namespace=namespace,
            user=unquote(user) or None,
            password=unquote(password) or None,
            mechanism=mechanism,
            tls=_tls(options),
            instance=others.pop("instance", options.get("instance", "")),
            **others,
        )

    @property
    def placement(self) -> tuple[int, dict[int, list[int]] | None]:
        """Replicas of a new topic and where they lie, as aiokafka takes them: "as the cluster does by itself" wants an empty plan."""
        return (-1, {}) if self.replicas is None else (self.replicas, None)

    @property
    def client_options(self) -> dict[str, Any]:
        """What every client of aiokafka is given to reach the cluster."""
        protocol = ("SASL_" if self.user else "") + ("SSL" if self.tls else "PLAINTEXT")
        options: dict[str, Any] = {
            "bootstrap_servers": list(self.bootstrap),
            "security_protocol": protocol,
            "request_timeout_ms": round(self.publish_timeout_s * 1000),
        }
        if self.tls is not None:
            options["ssl_context"] = self.tls
        if self.user:
            options.update(sasl_mechanism=self.mechanism, sasl_plain_username=self.user, sasl_plain_password=self.password or "")
        return options


def _is_address(host: str) -> bool:
    name, _, port = host.rpartition(":")
    return bool(name) and port.isascii() and port.isdigit() and 0 < int(port) < 65536


def _replicas(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 100):
        raise _bad("replicas is not a number from 1 to 99")
    return int(text)


def _tls(options: dict[str, str]) -> ssl.SSLContext | None:
    if options.get("tls", "true" if options.keys() & {"ca", "cert", "key"} else "false").lower() != "true":
        return None
    try:
        context = ssl.create_default_context(cafile=options.get("ca"))
        if "cert" in options:
            context.load_cert_chain(options["cert"], options.get("key"))
    except OSError as problem:
        raise _bad(f"a certificate cannot be read: {problem}") from problem
    return context


def _bad(why: str) -> BrokerError:
    return BrokerError(f"the Kafka URL cannot be used: {why}", code="SM-3020", hint=_HINT)
