"""Which runs are dormant: live, with nothing to do for long, and out of memory. What is left of one here is where the journal keeps it.

A million of them must fit, so a run is one entry of one dict, with one number of 64 bits for its place: in which frame its image lies (the
low 35), and when its tree is to be back (above). Knows nothing of how an image looks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from stepmesh_broker.protocol.ids import FlowId, RunId

_K = TypeVar("_K")
_FRAME_BITS = 35
MAX_FRAME = (1 << _FRAME_BITS) - 1
"""The last frame that may hold an image: after five years of 200 turns a second no run becomes dormant any more."""
UNIT_MS = 8_000
"""How exactly the time of waking is kept; it is rounded down."""
_MAX_UNITS = (1 << (64 - _FRAME_BITS)) - 1


def place_of(frame: int, wakes_ms: int) -> int:
    """The number for a tree whose image is in `frame`, and that is to be back at `wakes_ms`, or a little before."""
    return min(max(0, wakes_ms) // UNIT_MS, _MAX_UNITS) << _FRAME_BITS | frame


def frame_of(place: int) -> int:
    """The frame with the image."""
    return place & MAX_FRAME


def wakes_ms_of(place: int) -> int:
    """When the tree is to be back, ms since 1970."""
    return (place >> _FRAME_BITS) * UNIT_MS


class Dormant:
    """The dormant runs of a partition. `flows`, `frames`: how many of them need a flow, or have their image in a frame (oldest first)."""

    __slots__ = ("flows", "frames", "places")

    def __init__(self) -> None:
        self.places: dict[RunId, int] = {}
        self.flows: dict[FlowId, int] = {}
        self.frames: dict[int, int] = {}

    def __len__(self) -> int:
        """How many runs."""
        return len(self.places)

    def __contains__(self, run: RunId) -> bool:
        """Whether the run is dormant."""
        return run in self.places

    def add(self, runs: Iterable[tuple[RunId, FlowId]], place: int) -> None:
        """The runs of a tree, with their flows. Frames come in their order."""
        frame = frame_of(place)
        for run, flow in runs:
            self.places[run] = place
            self.flows[flow] = self.flows.get(flow, 0) + 1
            self.frames[frame] = self.frames.get(frame, 0) + 1

    def remove(self, runs: Iterable[tuple[RunId, FlowId]]) -> None:
        """Those of a tree that is back."""
        for run, flow in runs:
            _less(self.frames, frame_of(self.places.pop(run)))
            _less(self.flows, flow)

    @property
    def first_frame(self) -> int | None:
        """The oldest frame that holds an image; None without any."""
        return next(iter(self.frames), None)

    def encoded(self) -> bytes:
        """For a snapshot; nothing when nothing is dormant."""
        return _encoder.encode((self.places, self.flows, self.frames)) if self.places else b""

    def restore(self, payload: bytes) -> None:
        """What `encoded` gave."""
        if payload:
            self.places, self.flows, self.frames = _decoder.decode(payload)


def _less(counts: dict[_K, int], key: _K) -> None:
    if counts[key] > 1:
        counts[key] -= 1
    else:
        del counts[key]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[dict[RunId, int], dict[FlowId, int], dict[int, int]])
