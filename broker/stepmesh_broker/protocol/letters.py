"""What partitions of one deployment tell each other: letters, many of them in one message of an inbox.

Invariant: a letter may arrive twice, late, and in any order, and its receiver is right all the same. Same encoding as messages.py; a new
kind is a struct with a tag here, and a row in `core/decide/letters.py`. `scope`: of an address, see `ids.scope_of`.
"""

from __future__ import annotations

import msgspec

from stepmesh_broker.protocol.ids import Partition, RunId
from stepmesh_broker.protocol.permit_letters import PermitLetter


class Waiter(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Who waits at an address: one attempt of a step; `command`: which wait of a durable function. `root`: "" when it is `run`."""

    run: RunId
    item: int
    step: int
    attempt: int
    command: str = ""
    root: str = ""


class Subscribe(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="subscribe"):
    """The waiter wants the oldest event of the address since `since_ms`, but none of those at the positions `taken`. Sent again whenever
    that may have been lost, and then answered with the same event."""

    name: str
    key: str
    waiter: Waiter
    since_ms: int
    taken: list[int] = []
    scope: str = ""


class Unsubscribe(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="unsubscribe"):
    """The waiter has its event, or wants none any more."""

    name: str
    key: str
    waiter: Waiter
    scope: str = ""


class Deliver(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="deliver"):
    """An event for a waiter; told until it unsubscribes. `position`: of the event at its address; `since_ms`: as it subscribed."""

    name: str
    key: str
    waiter: Waiter
    since_ms: int
    position: int
    id: str
    at_ms: int
    payload: bytes
    scope: str = ""


Letter = Subscribe | Unsubscribe | Deliver | PermitLetter


class Letters(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="letters"):
    """Letters of the partition `sender` to the one whose inbox it is."""

    sender: Partition
    letters: list[Letter]
    format: int = 1
