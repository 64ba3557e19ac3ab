"""What became of the frames of one partition of a pool: what may be committed, and what the next owner must know.

Invariant: a frame below the committed offset was acknowledged, is in hand and kept alive, or was written anew elsewhere; the floor is below
every frame that is none of the first. Pure: no client, no clock. It must not know what a frame holds.
"""

from __future__ import annotations

from typing import NamedTuple

from stepmesh_broker.kafka.copies import Copies
from stepmesh_broker.kafka.records import position_at
from stepmesh_broker.protocol.ids import Position

MAX_METADATA = 3_500
"""Characters of commit metadata; brokers take 4,096 unless set otherwise."""


class Frame:
    """One frame in this process. `handed`: how often it was handed out before."""

    __slots__ = ("data", "done", "handed", "ledger", "offset", "position")

    def __init__(self, ledger: Ledger, offset: int, position: Position, handed: int, data: bytes) -> None:
        self.ledger = ledger
        self.offset = offset
        self.position = position
        self.handed = handed
        self.data = data
        self.done = False


class Mark(NamedTuple):
    """The metadata of a commit. `owner`: who, and in which life of the data (`ID@LIFE`): an offset of another life says nothing.
    `floor`: every frame at or below was acknowledged. `upto`: frames below were handed out. `in_hand`: of
    those, how many are not settled; `open`: of these, how many are not committed past. `moved`: frames lately written anew elsewhere.
    `settled`: offsets beyond the committed one that are done with, as ranges relative to it, ends included."""

    owner: str
    floor: Position
    upto: int
    in_hand: int
    open: int
    moved: int = 0
    settled: tuple[tuple[int, int], ...] = ()

    def text(self) -> str:
        """Ranges that find no place are left out: those frames come again if the owner dies."""
        text = f"1 {self.owner} {self.floor} {self.upto} {self.in_hand} {self.open} {self.moved} "
        for first, last in self.settled:
            part = f"{first}-{last},"
            if len(text) + len(part) > MAX_METADATA:
                break
            text += part
        return text.rstrip(",")

    @classmethod
    def parse(cls, text: str) -> Mark | None:
        """None for what is no mark."""
        words = text.split(" ")
        if len(words) != 8 or words[0] != "1" or not all(word.isdigit() for word in words[2:7]):
            return None
        floor, upto, in_hand, still_open, moved = (int(word) for word in words[2:7])
        pairs = (part.partition("-") for part in words[7].split(",") if part)
        return cls(words[1], Position(floor), upto, in_hand, still_open, moved, tuple((int(first), int(last)) for first, _, last in pairs))

    @property
    def life(self) -> str:
        """In which the owner had the partition."""
        return self.owner.partition("@")[2]

    @property
    def settled_count(self) -> int:
        """Beyond the committed offset."""
        return sum(last - first + 1 for first, last in self.settled)


class Ledger:
    """`committed`: where reading begins; `mark`: what the last owner left; `patience_s`: how long the frames that it had in hand, and those
    that are written anew, are waited for; `window_ms`: how long a message id is remembered."""

    def __init__(self, owner: str, committed: int, mark: Mark | None, now: float, patience_s: float, window_ms: float) -> None:
        self.owner = owner
        self.committed = committed
        self.live = True
        self.waiting: dict[int, Frame] = {}
        self.open: dict[int, Frame] = {}
        self.kept: dict[int, Frame] = {}
        self._settled: set[int] = set()
        self._handed_before = mark.upto if mark is not None else 0
        self._upto = max(committed, self._handed_before)
        self._next = committed
        self._patience_s = patience_s
        self._last_ms = 0
        self._copies = Copies(window_ms)
        self._moved: list[tuple[Position, float]] = []
        self._floor = mark.floor if mark is not None else Position(0)
        self._inherited = 0
        self._bound_until = 0.0
        if mark is not None:
            for first, last in mark.settled:
                self._settled.update(range(committed + first, committed + last + 1))
            if mark.owner != owner and (mark.in_hand > mark.open or mark.moved):
                self._inherited = mark.in_hand - mark.open
                self._bound_until = now + patience_s

    @property
    def next(self) -> int:
        """The offset to read next."""
        return self._next

    def arrived(self, offset: int, timestamp_ms: int, message_id: str, origin: int, handed: int, data: bytes) -> Frame | None:
        """A record was read; None when it needs no work: settled before, or a copy."""
        if offset < self._next:
            return None
        if offset > self._next and self._next == self.committed:
            self.committed = offset  # what lay between is gone
        self._settled.update(range(max(self._next, self.committed), offset))
        self._next = offset + 1
        self._last_ms = max(self._last_ms, timestamp_ms)
        if offset in self._settled:
            self._advance()
            return None
        if self._copies.is_copy(message_id, timestamp_ms):
            self.settle(offset)
            return None
        position = Position(origin) if origin else position_at(timestamp_ms)
        frame = Frame(self, offset, position, max(handed, int(offset < self._handed_before)), data)
        self.waiting[offset] = frame
        return frame

    def hand_out(self, frame: Frame) -> None:
        """To a worker."""
        self.waiting.pop(frame.offset, None)
        frame.handed += 1
        (self.kept if self._is_settled(frame.offset) else self.open)[frame.offset] = frame
        self._upto = max(self._upto, frame.offset + 1)

    def keep(self, frame: Frame) -> None:
        """Its worker said that it is at work: from now on the offset does not wait for it."""
        if self.open.pop(frame.offset, None) is not None:
            self.kept[frame.offset] = frame
            self._settled.add(frame.offset)
            self._advance()

    def take_back(self, frame: Frame) -> None:
        """Its worker was silent: it waits to be handed out again."""
        self.open.pop(frame.offset, None)
        self.kept.pop(frame.offset, None)
        self.waiting[frame.offset] = frame

    def depart(self, frame: Frame) -> None:
        """It is being written anew: should the partition go to another owner meanwhile, that one must not take it as well."""
        if self.waiting.pop(frame.offset, None) is not None:
            (self.kept if self._is_settled(frame.offset) else self.open)[frame.offset] = frame

    def finish(self, frame: Frame) -> None:
        """It was acknowledged."""
        for place in (self.waiting, self.open, self.kept):
            place.pop(frame.offset, None)
        self.settle(frame.offset)

    def move(self, frame: Frame, now: float) -> None:
        """It was written anew; until that copy shows itself the floor stays below."""
        self._moved.append((frame.position, now + self._patience_s))
        self.finish(frame)

    def settle(self, offset: int) -> None:
        """Done with an offset."""
        if offset >= self.committed:
            self._settled.add(offset)
            self._advance()

    def release(self) -> list[Frame]:
        """The partition goes to another owner: what is in hand stays here and is committed past. Returns what waits and would be lost."""
        for frame in list(self.open.values()):
            self.keep(frame)
        lost = [frame for frame in self.waiting.values() if self._is_settled(frame.offset)]
        for frame in lost:
            del self.waiting[frame.offset]
            self.kept[frame.offset] = frame
        self.live = False
        return lost

    def adopt(self, past: Ledger) -> None:
        """What is still in hand from an earlier time of this partition here."""
        for frame in past.kept.values():
            frame.ledger = self
            self.kept[frame.offset] = frame
        self._moved += past._moved

    def mark(self, now: float) -> Mark:
        """What is to be committed with `committed`."""
        self._moved = [one for one in self._moved if one[1] > now]
        if now >= self._bound_until:
            self._inherited = 0
        again = sum(self._is_settled(offset) for offset in self.waiting)
        in_hand = len(self.open) + len(self.kept) + self._inherited + again
        return Mark(self.owner, self._lowered(now), self._upto, in_hand, len(self.open), len(self._moved), self._ranges())

    def _lowered(self, now: float) -> Position:
        """The floor. What was not read yet was appended later than all that was."""
        bounds = [frame.position - 1 for place in (self.waiting, self.open, self.kept) for frame in place.values()]
        bounds += [position - 1 for position, _ in self._moved]
        if self._last_ms and not bounds:
            bounds.append(position_at(self._last_ms) - 1)
        if not bounds or now < self._bound_until:
            bounds.append(self._floor)
        self._floor = Position(max(min(bounds), 0))
        return self._floor

    def _is_settled(self, offset: int) -> bool:
        return offset < self.committed or offset in self._settled

    def _advance(self) -> None:
        while self.committed in self._settled and self.committed < self._next:
            self._settled.discard(self.committed)
            self.committed += 1

    def _ranges(self) -> tuple[tuple[int, int], ...]:
        ranges: list[tuple[int, int]] = []
        for offset in sorted(self._settled):
            relative = offset - self.committed
            if relative < 0:
                continue
            if ranges and ranges[-1][1] == relative - 1:
                ranges[-1] = (ranges[-1][0], relative)
            else:
                ranges.append((relative, relative))
        return tuple(ranges)
