"""Who of a group answers a request: a function of the log, so that all members decide alike without asking each other.

Invariant: members that read the same records of a partition choose the same one. A member counts from its greeting in the log until it
says goodbye, or until the log shows nothing of it for `EXPIRY_MS` of the broker's time. It must not know how records travel.
"""

from __future__ import annotations

from hashlib import blake2s

GREETING_S = 1.0
"""How often a member is to greet."""
EXPIRY_MS = 4_000


class Electorate:
    """The members of one group as the log shows them."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def greet(self, member: str, now_ms: int) -> bool:
        """A member showed itself; whether it was unknown."""
        new = now_ms - self._seen.get(member, -EXPIRY_MS) >= EXPIRY_MS
        self._seen[member] = now_ms
        return new

    def leave(self, member: str) -> None:
        """A member said goodbye."""
        self._seen.pop(member, None)

    def chosen(self, request: str, now_ms: int) -> str | None:
        """Who answers a request that the broker appended at `now_ms`."""
        alive = [member for member, seen in self._seen.items() if now_ms - seen < EXPIRY_MS]
        return max(alive, key=lambda member: blake2s(f"{request}/{member}".encode(), digest_size=8).digest(), default=None)
