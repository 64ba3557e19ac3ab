"""The interface between a compiled flow and the engine: what the engine may ask of an expression, and what that may see.

An expression is compiled once into a `Plan`. A plan never does I/O and never looks a name up. Values are JSON
text as bytes throughout: they are spliced, not re-encoded, so that numbers keep their digits and objects their order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from stepmesh_broker.protocol.messages import Failure


class Skipped:
    """The outcome of a step that was skipped. One instance: `SKIPPED`."""

    def __repr__(self) -> str:
        """For failing tests."""
        return "SKIPPED"


SKIPPED: Final = Skipped()

Outcome = bytes | Failure | Skipped
"""How a step ended: its output as JSON text, its error, or no result at all."""


class Scope(Protocol):
    """What an expression of one item may see."""

    @property
    def input(self) -> bytes:
        """The item's input, JSON."""
        ...

    @property
    def variables(self) -> Mapping[str, bytes]:
        """The run's variables, schema defaults included: name → JSON."""
        ...

    @property
    def outcomes(self) -> list[Outcome | None]:
        """By step index; None while the step has not ended."""
        ...

    @property
    def error(self) -> bytes | None:
        """`$error` inside `onError.defaultValue`: `{"code", "message", "data"?}` as JSON; None elsewhere."""
        ...


class PlanFailed(Exception):
    """The expression has no value: its failure is that of a step it needs, or EXPRESSION_FAILURE."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.message)


class PlanSkipped(Exception):
    """The expression refers to a skipped step and nothing says otherwise."""


def is_truthy(value: bytes) -> bool:
    """Only `null` and `false` are not."""
    return value != b"null" and value != b"false"


class Plan(Protocol):
    """A compiled expression."""

    @property
    def mentions(self) -> tuple[int, ...]:
        """Every step index that it may ever need, ascending."""
        ...

    @property
    def static(self) -> bool:
        """True: it needs all of `mentions`, always. False: ask `blockers`."""
        ...

    def blockers(self, scope: Scope) -> list[int]:
        """The steps without an outcome that it needs now, lazily: for `$if` first the condition, then one branch; for `$coalesce` one
        element at a time; unions elsewhere. Ascending, no repeats; empty = `render` may be called."""
        ...

    def render(self, scope: Scope) -> bytes:
        """The value. Only when nothing blocks. Raises `PlanFailed` (the first failure in reading order; a failure goes before any skip)
        or `PlanSkipped`."""
        ...
