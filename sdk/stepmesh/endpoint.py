"""Where the broker or a gateway is: an argument, `STEPMESH_URL`, or the embedded broker of a data folder at or above the working folder.

The one place that knows which backend an address means.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from stepmesh.errors import EndpointNotFound, PackageMissing, UnknownAddress
from stepmesh_broker.ports import Broker, TaskGateway
from stepmesh_broker.protocol.ids import Namespace

VARIABLE = "STEPMESH_URL"
FILE = Path(".stepmesh") / "nats" / "endpoint.json"
"""Written by the embedded broker while it runs: a JSON object with `url`."""
_OF_NATS = frozenset({"nats", "tls"})


def find(url: str | None = None, start: Path | None = None) -> str:
    """The broker's or gateway's URL. Raises `EndpointNotFound` that says where it looked."""
    if url:
        return url
    if given := os.environ.get(VARIABLE):
        return given
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / FILE).is_file():
            return _read(folder / FILE)
    raise EndpointNotFound(
        f"no broker: {VARIABLE} is not set and no {FILE} lies in {here} or above it",
        hint="start one with `stepmesh up`, or set STEPMESH_URL to nats://host:4222, kafka://host:9092 or grpc://host:port",
    )


def _read(path: Path) -> str:
    try:
        found = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError) as problem:
        raise EndpointNotFound(f"cannot read {path}: {problem}", hint="start the broker again with `stepmesh up`") from problem
    url = found.get("url") if isinstance(found, dict) else None
    if not isinstance(url, str):
        raise EndpointNotFound(f"{path} names no `url`", hint="start the broker again with `stepmesh up`")
    return url


def connection(url: str, namespace: str) -> Broker | TaskGateway:
    """A connection to `url`, not opened yet: a broker's, or a gateway's for `grpc://`. Raises `BadAddress`, `PackageMissing`,
    `UnknownAddress`, `BrokerError`."""
    if not url.startswith("grpc://"):
        return broker(url, namespace)
    try:  # late, as all of them: a program pays for the import of what it uses, and grpcio need not be there for a broker
        from stepmesh_broker.gateway import GatewayAddress, GatewayConnection
    except ImportError as problem:
        raise _missing("a gateway", "grpc", problem) from problem
    return GatewayConnection(GatewayAddress.parse(url, Namespace(namespace)))


def broker(url: str, namespace: str) -> Broker:
    """A connection to a broker, not opened yet: `nats://…`, `kafka://…`, commas between servers. Raises as `connection`."""
    scheme, separator, _ = url.partition("://")
    if scheme == "kafka":
        try:
            from stepmesh_broker.kafka import KafkaBroker, KafkaSettings
        except ImportError as problem:
            raise _missing("Kafka", "kafka", problem) from problem
        return KafkaBroker(KafkaSettings.parse(url, Namespace(namespace)))
    if separator and scheme not in _OF_NATS:
        raise UnknownAddress(
            f"{scheme[:60]}:// is the address of no broker", hint="nats://host:4222, kafka://host:9092 or grpc://host:port"
        )
    from stepmesh_broker.nats import NatsBroker, NatsSettings

    return NatsBroker(NatsSettings.parse(url, Namespace(namespace)))


def _missing(what: str, extra: str, problem: ImportError) -> PackageMissing:
    package = (problem.name or str(problem)).partition(".")[0]
    return PackageMissing(f"{what} wants the package {package}, which is not installed", hint=f"pip install 'stepmesh[{extra}]'")
