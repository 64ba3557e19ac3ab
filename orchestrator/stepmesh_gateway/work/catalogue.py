"""What a worker offers, found by the path that a route left of a step's component.

Pure. A literal segment goes before `{name}`, and that before a last `{*rest}`, whatever the order of registration.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NamedTuple

from stepmesh_gateway.work.line import Offer

_REMEMBERED = 10_000


class Found(NamedTuple):
    """`name`: what the worker calls the component. `params`: what the offer's path captured."""

    name: str
    params: dict[str, str]


class Catalogue:
    """Offers by path."""

    def __init__(self, offers: Iterable[Offer]) -> None:
        self.offers = tuple(offers)
        self._exact: dict[str, Found] = {}
        self._patterns: list[_Pattern] = []
        for offer in self.offers:
            if "{" in offer.path:
                self._patterns.append(_Pattern(offer))
            else:
                self._exact["/" + offer.path.lstrip("/")] = Found(offer.name, {})
        self._patterns.sort(key=lambda pattern: pattern.weight)
        self._matched: dict[str, Found | None] = {}

    def find(self, path: str) -> Found | None:
        """The offer for a path; None when there is none."""
        found = self._exact.get(path)
        return self._match(path) if found is None and self._patterns else found

    def _match(self, path: str) -> Found | None:
        if path in self._matched:
            return self._matched[path]
        found = next((match for pattern in self._patterns if (match := pattern.match(path)) is not None), None)
        if len(self._matched) >= _REMEMBERED:
            self._matched.clear()
        self._matched[path] = found
        return found


class _Pattern:
    def __init__(self, offer: Offer) -> None:
        self._name = offer.name
        self._segments = _segments(offer.path)
        last = self._segments[-1]
        self._rest = last[2:-1] if last.startswith("{*") else None
        if self._rest is not None:
            self._segments.pop()

    @property
    def weight(self) -> tuple[bool, int, list[bool]]:
        return self._rest is not None, -len(self._segments), [segment.startswith("{") for segment in self._segments]

    def match(self, path: str) -> Found | None:
        given = _segments(path)
        if len(given) < len(self._segments) or (self._rest is None) != (len(given) == len(self._segments)):
            return None
        params: dict[str, str] = {}
        for wanted, segment in zip(self._segments, given, strict=False):
            if wanted.startswith("{"):
                params[wanted[1:-1]] = segment
            elif wanted != segment:
                return None
        if self._rest is not None:
            params[self._rest] = "/".join(given[len(self._segments) :])
        return Found(self._name, params)


def _segments(path: str) -> list[str]:
    return path.strip("/").split("/")


def as_is(path: str) -> Found:
    """The best guess about a worker that does not say what it offers: its components are named like their paths."""
    return Found(path.lstrip("/"), {})


def missing(path: str, pool: str, catalogues: Iterable[Catalogue]) -> str:
    """A sentence that says that nobody offers `path`, and what is near."""
    known = sorted({offer.path for catalogue in catalogues for offer in catalogue.offers})
    near = difflib.get_close_matches(path, known, n=3, cutoff=0.5)
    offered = f"its workers offer {', '.join(known[:10])}" + (" …" if len(known) > 10 else "") if known else "its workers offer none"
    return f"no component {path} in pool {pool}: " + (f"did you mean {' or '.join(near)}?" if near else offered)
