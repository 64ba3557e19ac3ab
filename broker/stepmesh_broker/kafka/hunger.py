"""Who of a pool's consumers waits for frames, as they say it themselves: a partition belongs to one consumer, so a busy one must be told.

Invariant: a consumer that waits says so soon, and then ever less often; what was said is believed once and for a moment. It must not know
how frames are passed on.
"""

from __future__ import annotations

from typing import NamedTuple

FIRST_S = 0.03
"""A consumer waits so long before it says so first ..."""
AGAIN_S = 1.0
"""... and at most so long before it says so again."""
BELIEVED_S = 1.2


class Hungry(NamedTuple):
    """A consumer that waits: room for so many frames, in these partitions."""

    member: str
    room: int
    partitions: tuple[int, ...]

    def encoded(self) -> bytes:
        """As text."""
        return f"{self.member} {self.room} {','.join(map(str, self.partitions))}".encode()

    @classmethod
    def decode(cls, data: bytes) -> Hungry | None:
        """None for what is not understood."""
        words = data.decode(errors="replace").split(" ")
        if len(words) != 3 or not words[1].isdigit() or not all(number.isdigit() for number in words[2].split(",")):
            return None
        return cls(words[0], int(words[1]), tuple(int(number) for number in words[2].split(",")))


class Announcer:
    """When one consumer is to speak."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._pause = 0.0
        self._due = 0.0

    def waits(self, now: float) -> float:
        """It waits; in how many seconds it should speak (0: now)."""
        if self._since is None:
            self._since, self._pause, self._due = now, FIRST_S, now + FIRST_S
        return max(0.0, self._due - now)

    def spoke(self, now: float) -> None:
        """It said so."""
        self._pause = min(self._pause * 3, AGAIN_S)
        self._due = now + self._pause

    def fed(self) -> None:
        """It got something."""
        self._since = None


class Guests:
    """Who spoke lately."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[Hungry, float]] = {}

    def heard(self, hungry: Hungry, now: float) -> None:
        """One spoke."""
        self._heard[hungry.member] = (hungry, now)

    def next(self, now: float) -> Hungry | None:
        """One that may still wait; it is not named again before it speaks again."""
        while self._heard:
            hungry, when = self._heard.pop(next(iter(self._heard)))
            if now - when <= BELIEVED_S:
                return hungry
        return None
