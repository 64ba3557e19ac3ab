"""Where a broker's own rate is measured: a frozen value that crosses to the two processes, and what they need of a broker there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from stepmesh_cli.bench.raw.exchange import Side

Role = Literal["orchestrator", "worker"]
"""Whose place a process takes: the first sends tasks and takes results, the second the other way round."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """`namespace`: of the scenario, whose streams and topics say how durable a message is. `name`: what is made here begins with it."""

    url: str
    namespace: str
    name: str


class Client(NamedTuple):
    """A client library: how it makes the two ways of a place, opens a side, and removes the ways. `errors`: what it raises."""

    make: Callable[[Place], Awaitable[None]]
    open: Callable[[Place, Role], Awaitable[Side]]
    remove: Callable[[Place], Awaitable[None]]
    errors: tuple[type[Exception], ...]
