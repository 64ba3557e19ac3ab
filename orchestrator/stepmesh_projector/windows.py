"""What happened in one span of time to one pool, flow or namespace: counts, and quantiles that can be merged.

Invariant: a frame counts once in a window, however often it is read, because a window says up to which frame it counts. Windows of
several partitions add up to the window of all. Must not know where windows are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec
from ddsketch import DDSketch
from ddsketch.ddsketch import BaseDDSketch
from ddsketch.pb import ddsketch_pb2
from ddsketch.pb.proto import DDSketchProto

from stepmesh_broker.protocol.ids import Namespace
from stepmesh_projector.usage import Usage

_Message: Any = ddsketch_pb2.DDSketch  # generated and untyped code, both
_Proto: Any = DDSketchProto
POOL, FLOW, NAMESPACE = "pool", "flow", "namespace"
ACCURACY = 0.02
"""Relative error of a quantile, of times in ms."""


class Label(NamedTuple):
    """Whose window: `kind` is pool, flow or namespace; `name` is empty for a namespace."""

    namespace: Namespace
    kind: str
    name: str


class Place(NamedTuple):
    """A window of one partition. `start_ms` is since 1970."""

    label: Label
    start_ms: int


class Counts(msgspec.Struct, array_like=True):
    """Tasks are attempts; `failed` ones ended their step's attempts, `retried` ones did not. Runs are root runs and sub-runs."""

    dispatched: int = 0
    succeeded: int = 0
    failed: int = 0
    retried: int = 0
    runs_started: int = 0
    runs_completed: int = 0
    runs_failed: int = 0
    runs_cancelled: int = 0

    def add(self, other: Counts) -> None:
        """Those of another partition, or of the next window."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Window:
    """`latency` and `wait` are sketches of ms. `sequence`: the last frame that counts here; frames up to `through` counted before this
    process had the window."""

    __slots__ = ("counts", "latency", "sequence", "through", "usage", "wait")

    def __init__(
        self, sequence: int = 0, counts: Counts | None = None, latency: Any = None, wait: Any = None, usage: Usage | None = None
    ) -> None:
        self.sequence = self.through = sequence
        self.counts = Counts() if counts is None else counts
        self.latency: BaseDDSketch = DDSketch(ACCURACY) if latency is None else latency
        self.wait: BaseDDSketch = DDSketch(ACCURACY) if wait is None else wait
        self.usage = Usage() if usage is None else usage

    def add(self, other: Window) -> None:
        """Another partition's, or the next window."""
        self.counts.add(other.counts)
        self.latency.merge(other.latency)
        self.wait.merge(other.wait)
        self.usage.add(other.usage)


class _Image(msgspec.Struct, array_like=True):
    sequence: int
    counts: Counts
    latency: bytes
    wait: bytes
    usage: Usage = msgspec.field(default_factory=Usage)  # none in windows of releases that did not count it


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Image)


def encode_window(window: Window) -> bytes:
    """What `decode_window` reads."""
    return _encoder.encode(_Image(window.sequence, window.counts, encode_sketch(window.latency), encode_sketch(window.wait), window.usage))


def decode_window(data: bytes) -> Window:
    """Raises `ValueError` for bytes that are none."""
    image = _decoder.decode(data)
    return Window(image.sequence, image.counts, decode_sketch(image.latency), decode_sketch(image.wait), image.usage)


def encode_sketch(sketch: BaseDDSketch) -> bytes:
    """DDSketch's own message; nothing for an empty one."""
    return b"" if not sketch.count else bytes(_Proto.to_proto(sketch).SerializeToString())


def decode_sketch(data: bytes) -> BaseDDSketch:
    """What `encode_sketch` wrote."""
    if not data:
        return DDSketch(ACCURACY)
    message = _Message()
    message.ParseFromString(data)
    sketch: BaseDDSketch = _Proto.from_proto(message)
    return sketch


class Windows:
    """Those of one partition that frames count in now. `kept` gives what was kept elsewhere of an older one, None for a new one."""

    def __init__(self, size_ms: int, kept: Callable[[Place], bytes | None]) -> None:
        self._size_ms = size_ms
        self._kept = kept
        self._open: dict[Place, Window] = {}
        self._changed: dict[Place, Window] = {}

    def at(self, label: Label, sequence: int, at_ms: int) -> Window | None:
        """The window of a frame, to count in; None when the frame counts there already."""
        place = Place(label, at_ms - at_ms % self._size_ms)
        window = self._open.get(place)
        if window is None:
            kept = self._kept(place)
            window = self._open[place] = Window() if kept is None else decode_window(kept)
        if sequence <= window.through:
            return None
        window.sequence = sequence
        self._changed[place] = window
        return window

    def ended(self, start_ms: int) -> list[tuple[Place, Window]]:
        """Those that began then, as far as they are not forgotten."""
        return [(place, window) for place, window in self._open.items() if place.start_ms == start_ms]

    def changed(self, at_ms: int) -> dict[Place, bytes]:
        """Those that changed since the last call, encoded. Windows that ended before the one before `at_ms` are forgotten here."""
        found = {place: encode_window(window) for place, window in self._changed.items()}
        self._changed = {}
        oldest = at_ms - 2 * self._size_ms
        self._open = {place: window for place, window in self._open.items() if place.start_ms > oldest}
        return found

    def image(self) -> list[tuple[Place, bytes]]:
        """Of those that are not forgotten."""
        return [(place, encode_window(window)) for place, window in self._open.items()]

    def restore(self, image: Iterable[tuple[Place, bytes]]) -> None:
        """Go on from it. All of it counts as changed: whether it was kept elsewhere is not known."""
        for place, data in image:
            self._open[place] = self._changed[place] = decode_window(data)
