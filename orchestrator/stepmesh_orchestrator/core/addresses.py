"""The events from outside that a partition keeps, by address, and who waits there: of the addresses that hash to it.

Only `evolve` writes what events of the journal say; forgetting follows from the time alone, so no event says it. What waits for an event
may live on any partition: here it is a name.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import msgspec

from stepmesh_broker.protocol.letters import Waiter

_SCOPED = "\x1f"
_OVERHEAD = 200
"""Bytes that an event costs beside its id and payload, about."""


class Kept(msgspec.Struct, array_like=True, gc=False):
    """An event from outside. `position`: of the journal's event; it grows, so it is the order at the address, and 0 is before all."""

    id: str
    position: int
    at_ms: int
    payload: bytes

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return len(self.id) + len(self.payload) + _OVERHEAD


class Standing(msgspec.Struct, array_like=True, gc=False):
    """Who waits, for an event since when. `offered`: position of the one that it is given until it leaves; 0 = none so far."""

    waiter: Waiter
    since_ms: int
    offered: int = 0


class Address(msgspec.Struct, array_like=True):
    """`events`: by id, oldest first. `waiters`: in the order in which they came."""

    events: dict[str, Kept] = {}
    waiters: dict[str, Standing] = {}

    def at(self, position: int) -> Kept | None:
        """The event there, while it is kept."""
        return next((kept for kept in self.events.values() if kept.position == position), None)

    def first(self, since_ms: int, taken: list[int]) -> Kept | None:
        """The oldest event since then that is none of those taken."""
        had = frozenset(taken)
        return next((kept for kept in self.events.values() if kept.at_ms >= since_ms and kept.position not in had), None)


def waiter_key(waiter: Waiter) -> str:
    """One text per waiter."""
    return f"{waiter.run}/{waiter.item}/{waiter.step}/{waiter.attempt}/{waiter.command}"


class Place(NamedTuple):
    """Where an address is."""

    scope: str
    name: str
    key: str

    @property
    def text(self) -> str:
        """One text per address, because no name holds a slash, and none what is not printable."""
        address = f"{self.name}/{self.key}"
        return f"{self.scope}{_SCOPED}{address}" if self.scope else address

    @classmethod
    def of(cls, text: str) -> Place:
        """Of its text."""
        scope, scoped, address = text.rpartition(_SCOPED)
        return cls(scope if scoped else "", *address.split("/", 1))


class Addresses:
    """Those of a partition that have an event or a waiter. `size`: about how many bytes the events take."""

    __slots__ = ("_order", "places", "size")

    def __init__(self) -> None:
        self.places: dict[str, Address] = {}
        self.size = 0
        self._order: deque[tuple[int, str, str]] = (
            deque()
        )  # time, address and id of all events, oldest first; perhaps of some that are gone

    def get(self, place: Place) -> Address | None:
        """None: neither an event nor a waiter."""
        return self.places.get(place.text)

    def made(self, place: Place) -> Address:
        """The address, new if need be."""
        return self.places.setdefault(place.text, Address())

    def keep(self, place: Place, kept: Kept) -> None:
        """One more event, in place of one with its id that the time had let go."""
        address = self.made(place)
        self._drop(address, kept.id)
        address.events[kept.id] = kept
        self.size += kept.size
        self._order.append((kept.at_ms, place.text, kept.id))

    def drop_through(self, place: Place, position: int) -> None:
        """No room for the events of the address up to there."""
        address = self.made(place)
        for kept in [kept for kept in address.events.values() if kept.position <= position]:
            self._drop(address, kept.id)

    def leave(self, place: Place, waiter: Waiter) -> None:
        """Somebody waits there no more."""
        address = self.get(place)
        if address is not None:
            address.waiters.pop(waiter_key(waiter), None)
            self._tidy(place.text, address)

    def forget(self, before_ms: int) -> None:
        """Let go of the events from before then."""
        while self._order and self._order[0][0] < before_ms:
            at_ms, place, name = self._order.popleft()
            address = self.places.get(place)
            if address is not None and name in address.events and address.events[name].at_ms == at_ms:
                self._drop(address, name)
                self._tidy(place, address)

    def _drop(self, address: Address, name: str) -> None:
        gone = address.events.pop(name, None)
        if gone is not None:
            self.size -= gone.size

    def _tidy(self, place: str, address: Address) -> None:
        if not address.events and not address.waiters:
            del self.places[place]

    def encoded(self) -> bytes:
        """For a snapshot; nothing when there is nothing."""
        return _encoder.encode(self.places) if self.places else b""

    def restore(self, payload: bytes) -> None:
        """What `encoded` gave."""
        if payload:
            self.places = _decoder.decode(payload)
            found = [(kept.at_ms, place, kept.id) for place, address in self.places.items() for kept in address.events.values()]
            self._order = deque(sorted(found))
            self.size = sum(kept.size for address in self.places.values() for kept in address.events.values())


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(dict[str, Address])
