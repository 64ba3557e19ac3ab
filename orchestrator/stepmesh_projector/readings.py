"""What one process's feeds show at a moment: how far each is, and the figures of the newest windows that ended. Pure.

Invariant: there are never more than `MAX_NAMES` pools and as many flows of one namespace; what is less busy is added up as `OTHER`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from stepmesh_broker.protocol.ids import Namespace, Partition
from stepmesh_projector.feed import Feed
from stepmesh_projector.summary import Summary, summaries
from stepmesh_projector.windows import Place, Window

MAX_NAMES = 100
LATELY_MS = 60_000
OTHER = "(other)"
"""No pool or flow that anybody can write has such a name."""


class Standing(NamedTuple):
    """One partition. `frames` and `rows` were read and stored since the process began; `lag`: records that are still to be read, None when
    that is not known."""

    partition: Partition
    lag: int | None
    frames: int
    rows: int


class Reading(NamedTuple):
    """`size_ms` of a window; `figures` of the ones that ended last, by kind."""

    standings: list[Standing]
    size_ms: int
    figures: dict[str, list[Summary]]


def latest(feeds: Iterable[Feed], size_ms: int, now_ms: int) -> dict[str, list[Summary]]:
    """Of the newest windows that ended, by the journal's time; none when that was long ago."""
    feeds = [*feeds]
    newest_ms = max((feed.at_ms for feed in feeds), default=0)
    if now_ms - newest_ms > max(LATELY_MS, 2 * size_ms):
        return {}
    start_ms = newest_ms - newest_ms % size_ms - size_ms
    return figures(window for feed in feeds for window in feed.windows(start_ms))


def figures(windows: Iterable[tuple[Place, Window]], limit: int = MAX_NAMES) -> dict[str, list[Summary]]:
    """Windows of one time and any partitions, added up."""
    by_kind: defaultdict[str, list[tuple[Place, Window]]] = defaultdict(list)
    for place, window in windows:
        by_kind[place.label.kind].append((place, window))
    return {kind: summaries(_limited(found, limit)) for kind, found in by_kind.items()}


def _limited(windows: list[tuple[Place, Window]], limit: int) -> list[tuple[Place, Window]]:
    busy: defaultdict[Namespace, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for (label, _), window in windows:
        busy[label.namespace][label.name] += sum(msgspec.structs.astuple(window.counts))
    kept = {
        namespace: set(sorted(names, key=lambda name: (-names[name], name))[: limit if len(names) <= limit else limit - 1])
        for namespace, names in busy.items()
    }
    return [
        (place if place.label.name in kept[place.label.namespace] else Place(place.label._replace(name=OTHER), place.start_ms), window)
        for place, window in windows
    ]
