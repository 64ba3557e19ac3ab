"""What a driver has to tell the shard: records, and what the body waits for no more.

Invariant: records are told in their order, in turns that a broker takes, and nothing is given up before it was asked for.
"""

from __future__ import annotations

from typing import NamedTuple

from stepmesh_broker.protocol.histories import Issued, Kind, Record, Settled, Tried, size_of


class Told(NamedTuple):
    """What one turn tells. `heard`: so many of the `records`, from the first on, the body has already."""

    records: list[Record]
    given_up: list[str]
    heard: int


class Unsaid:
    """Of one activation. `records`: oldest first; the body has the first `heard` of them already, where it went ahead of its history.
    `given_up`: ids that the shard was not told of yet. `turn_bytes`: what one turn carries, when it carries more than one record."""

    def __init__(self, turn_bytes: int) -> None:
        self.records: list[Record] = []
        self.heard = 0
        self.given_up: list[str] = []
        self._turn_bytes = turn_bytes
        self._known: set[str] = set()  # what was given up, and told

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.records or self.given_up)

    def give_up(self, ids: list[str]) -> None:
        """All that the body waits for no more, told or not."""
        self.given_up = [id for id in ids if id not in self._known]

    def new(self) -> list[Record]:
        """What the body does not have yet."""
        return self.records[self.heard :]

    def ended(self) -> set[str]:
        """Local steps that ended, of which the body does not know."""
        return {record.id for record in self.new() if isinstance(record, Settled | Tried)}

    def is_urgent(self, *, asks_first: bool) -> bool:
        """Whether others are to hear of something that the body issued; `asks_first`: of steps, too."""
        return any(isinstance(record, Issued) and (asks_first or record.kind is not Kind.STEP) for record in self.new())

    def hear(self) -> list[Record]:
        """The body gets all that there is."""
        found, self.heard = self.new(), len(self.records)
        return found

    def fits(self) -> bool:
        """Whether one turn takes all records."""
        return len(self._fitting()) == len(self.records)

    def take(self) -> Told:
        """What goes with the next turn; the rest stays."""
        sent = self._fitting()
        self.records = self.records[len(sent) :]
        heard = min(self.heard, len(sent))
        self.heard -= heard
        given_up = self._fitting_ids(sent) if self.given_up else []
        self._known.update(given_up)
        return Told(sent, given_up, heard)

    def _fitting(self) -> list[Record]:
        size = 0
        for index, record in enumerate(self.records):
            size += size_of(record)
            if size > self._turn_bytes and index:
                return self.records[:index]
        return self.records

    def _fitting_ids(self, sent: list[Record]) -> list[str]:
        """Those that fit the same turn, and that the shard was asked for, with it or before."""
        fitting, rest = list[str](), list[str]()
        untold, size = {record.id for record in self.records if isinstance(record, Issued)}, sum(map(size_of, sent))
        for id in self.given_up:
            size += len(id)
            fits = size <= self._turn_bytes or not (sent or fitting)
            (fitting if fits and id not in untold else rest).append(id)
        self.given_up = rest
        return fitting
