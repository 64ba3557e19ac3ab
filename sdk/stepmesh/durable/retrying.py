"""When a step that failed is tried again: a policy as a frozen value, and the delay that follows from it.

Invariant: the delay is a function of the policy, the step's id and the attempt, so every replay and every worker finds the same one. What
is not to be tried again is never tried again, whatever a policy says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec

from stepmesh.durable.durations import BadDuration, Duration, seconds
from stepmesh.durable.errors import Fatal, RetryAfter
from stepmesh.errors import Cancelled, ComponentError, InvalidInput
from stepmesh_broker.errors import StepmeshError

Matching = type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], bool]
_FINAL = (Fatal, StepmeshError, InvalidInput, Cancelled)
"""What another attempt would not help."""


class Retry(msgspec.Struct, frozen=True):
    """At most `max` attempts in all. `backoff`: the time before the second one, `"5s"`, or that and the longest, `"1s..60s"`: it doubles.

    `on`: exceptions that are worth another attempt, or a function that says so."""

    max: int = 5
    backoff: Duration = "1s..60s"
    on: Matching = Exception

    def __post_init__(self) -> None:
        if self.max < 1:
            raise BadDuration(f"Retry(max={self.max}) allows no attempt at all", hint="max counts every attempt, the first one too")
        self.range_s()

    def range_s(self) -> tuple[float, float]:
        """(first, longest) delay in seconds. Raises `BadDuration`."""
        if not isinstance(self.backoff, str):
            return seconds(self.backoff), seconds(self.backoff)
        first, _, longest = self.backoff.partition("..")
        return seconds(first), max(seconds(first), seconds(longest or first))

    def matches(self, problem: BaseException) -> bool:
        """Whether it is one of those that another attempt may help."""
        if isinstance(self.on, (type, tuple)):
            return isinstance(problem, self.on)
        return self.on(problem)

    def options(self) -> dict[str, Any]:
        """As a command's options say it."""
        first, longest = self.range_s()
        return {"max": self.max, "initial_ms": round(first * 1000), "max_ms": round(longest * 1000)}


NEVER = Retry(max=1)
"""Of a step that says nothing."""
WISHED = 4
"""Attempts of a step without a policy that asks for another one itself, as steps of flows have them."""


def delay_ms(policy: Retry, key: str, attempt: int, problem: BaseException) -> int | None:
    """Time until the attempt after `attempt` (from 1), or None when there is none. `key`: `<run>/<step id>`."""
    if isinstance(problem, _FINAL):
        return None
    wished = _wished(problem)
    if wished is not None:
        return wished if attempt < (WISHED if policy is NEVER else policy.max) else None
    if attempt >= policy.max or not policy.matches(problem):
        return None
    first, longest = policy.range_s()
    base = min(longest, first * 2.0 ** min(attempt - 1, 60))
    return round(1000 * base * (1 - _share(f"{key}/{attempt}") / 2))


def _wished(problem: BaseException) -> int | None:
    if isinstance(problem, RetryAfter):
        return round(problem.after_s * 1000)
    if isinstance(problem, ComponentError) and problem.retry_after_s is not None:
        return round(problem.retry_after_s * 1000)
    return None


def _share(seed: str) -> float:
    """0 to 1, the same for the same seed: steps that failed together do not come back together."""
    return int.from_bytes(hashlib.blake2s(seed.encode(), digest_size=4).digest(), "big") / 2**32
