"""What a turn of a body brought, as a value for whoever drives it: the worker, or a test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from stepmesh.durable.attempts import LocalStep
from stepmesh.durable.divergence import Divergence
from stepmesh_broker.protocol.histories import Issued


class State(StrEnum):
    """Where a body stands after a turn."""

    IDLE = "idle"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    CONTINUED = "continued"  # it begins anew with another input: `value`
    DIVERGED = "diverged"


@dataclass
class Turn:
    """What a turn brought. `commands`: those that the history lacks, in the order of their issuing. `abandoned`: ids whose results the body
    waits for no more. `local`: what the worker itself is to do, by id: the steps without a result, those of earlier turns among them."""

    state: State
    commands: list[Issued] = field(default_factory=list)
    abandoned: list[str] = field(default_factory=list)
    value: Any = None
    error: BaseException | None = None
    divergence: Divergence | None = None
    local: Mapping[str, LocalStep] = field(default_factory=dict)
