"""Which nats-server is new enough. Pure.

Invariant: a server that would not know a question of ours is refused when it is connected to, not when it is asked. What calls itself by no
version that can be read (a server that somebody built) is let in.
"""

from __future__ import annotations

import re

from stepmesh_broker.errors import BrokerError

OLDEST = (2, 11)
"""The first that answers a direct get of many messages, by which the journal is read."""
_VERSION = re.compile(r"v?(\d+)\.(\d+)")


def is_too_old(version: str) -> bool:
    """Whether a server of this version lacks something that Stepmesh needs."""
    found = _VERSION.match(version)
    return found is not None and tuple(map(int, found.groups())) < OLDEST


def check_release(version: str, where: str) -> None:
    """Raises `BrokerError` SM-3042, which names both versions."""
    if is_too_old(version):
        needed = ".".join(map(str, OLDEST))
        raise BrokerError(
            f"the nats-server at {where} is of version {version}; Stepmesh needs {needed} or newer, which answers batched direct gets",
            code="SM-3042",
            hint=f"install nats-server {needed} or newer on each machine of the cluster",
        )
