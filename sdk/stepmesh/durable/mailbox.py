"""Events and promises of a test, kept until a body waits for them.

Invariant: every run gets an event once, in one of its waits, the oldest event first; whether it was sent before or after the wait makes no
difference. One from before the run counts only when the wait says so. A wait without a key hears who names the event alone, or the run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

import msgspec

from stepmesh.durable.sequencer import Ready
from stepmesh_broker.protocol import tokens
from stepmesh_broker.protocol.histories import Issued, Kind, Record, Settled


class Mailbox:
    """Of one test, for all its runs. `latest_ms`: of the latest event."""

    def __init__(self) -> None:
        self.latest_ms = 0
        self._events: defaultdict[tuple[str, str], list[tuple[int, bytes]]] = defaultdict(list)
        self._taken: defaultdict[tuple[str, str, str], set[int]] = defaultdict(set)  # of a run and an address: places of its events
        self._settled: dict[tuple[str, str], bytes] = {}

    def send(self, name: str, key: str, payload: bytes, now_ms: int) -> None:
        """An event."""
        self._events[name, key].append((now_ms, payload))
        self.latest_ms = max(self.latest_ms, now_ms)

    def settle(self, token: str, value: bytes) -> None:
        """A promise. Raises `ValueError` for what is no token."""
        waiter = tokens.read_token(token)
        if waiter is None:
            raise ValueError(f"{token!r} is no token of a wait")
        self._settled[waiter.run, waiter.command] = value

    def waiting(self, run: str, command: Issued, started_ms: int, now_ms: Callable[[], int]) -> Ready | None:
        """What settles the command of a run that began at `started_ms`, if it is here."""
        if command.kind is Kind.PROMISE:
            place = run, command.id
            return _given(command, now_ms, lambda: self._settled[place]) if place in self._settled else None
        since_ms = msgspec.json.decode(command.options or b"{}").get("since_ms", started_ms)
        given = msgspec.json.decode(command.arguments)["key"]
        here = min(
            (one for key in ((given,) if given else ("", run)) for one in self._here(run, command.name, key, since_ms)), default=None
        )
        return None if here is None else _given(command, now_ms, lambda: self._take(run, command.name, *here[1:]))

    def _here(self, run: str, name: str, key: str, since_ms: int) -> Iterator[tuple[int, str, int]]:
        """(time, key, place) of events that the run may take there."""
        taken = self._taken[run, name, key]
        kept = enumerate(self._events[name, key])
        return ((at_ms, key, place) for place, (at_ms, _) in kept if at_ms >= since_ms and place not in taken)

    def _take(self, run: str, name: str, key: str, place: int) -> bytes:
        self._taken[run, name, key].add(place)
        return self._events[name, key][place][1]


def _given(command: Issued, now_ms: Callable[[], int], take: Callable[[], bytes]) -> Ready:
    async def given() -> Record:
        return Settled(command.id, now_ms(), take())

    return given
