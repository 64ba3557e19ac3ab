"""Where gateways are: `grpc://host:port`, or several with commas between them. A frozen value; it must not know gRPC."""

from __future__ import annotations

import re
from dataclasses import dataclass

from stepmesh_broker.errors import BrokerError
from stepmesh_broker.protocol.ids import Namespace

SCHEME = "grpc://"
_TARGET = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")


class BadAddress(BrokerError):
    """A `grpc://` URL that names no gateway."""

    default_code = "SM-7310"


@dataclass(frozen=True, kw_only=True)
class GatewayAddress:
    """`targets`: `host:port` of each gateway; one is used at a time, the next when it is away. `message_bytes`: the largest gRPC
    message, as the gateways' own limit has it."""

    targets: tuple[str, ...]
    namespace: Namespace = Namespace("default")
    message_bytes: int = 16 * 1024 * 1024
    connect_timeout_s: float = 5.0

    @classmethod
    def parse(cls, url: str, namespace: Namespace) -> GatewayAddress:
        """Raises `BadAddress`."""
        targets = tuple(url.removeprefix(SCHEME).rstrip("/").split(","))
        wrong = [target for target in targets if not ((found := _TARGET.fullmatch(target)) and 0 < int(found[2]) < 65536)]
        if wrong or not url.startswith(SCHEME):
            raise BadAddress(
                f"{url!r} names no gateway: {', '.join(wrong) or url!r}", hint="write grpc://host:port, or grpc://host:port,host:port"
            )
        return cls(targets=targets, namespace=namespace)

    def __str__(self) -> str:
        """As it was written."""
        return SCHEME + ",".join(self.targets)
