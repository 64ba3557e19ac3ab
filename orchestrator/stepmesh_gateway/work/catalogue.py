"""What a worker offers, found by the path that a route left of a step's component.

Pure. What a path with parameters matches is the SDK's rule (patterns.py).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NamedTuple

from stepmesh.patterns import Pattern, has_parameters
from stepmesh_gateway.work.line import Offer

_REMEMBERED = 10_000


class Found(NamedTuple):
    """`name`: what the worker calls the component. `params`: what the offer's path captured. `function`: it is a durable one."""

    name: str
    params: dict[str, str]
    function: bool = False


class Catalogue:
    """Offers by path."""

    def __init__(self, offers: Iterable[Offer]) -> None:
        self.offers = tuple(offers)
        self._exact: dict[str, Found] = {}
        self._patterns: list[tuple[Pattern, str]] = []
        for offer in self.offers:
            if has_parameters(offer.path):
                self._patterns.append((Pattern(offer.path), offer.name))
            else:
                self._exact["/" + offer.path.lstrip("/")] = Found(offer.name, {}, offer.function)
        self._patterns.sort(key=lambda entry: entry[0].weight)
        self._matched: dict[str, Found | None] = {}

    def find(self, path: str) -> Found | None:
        """The offer for a path; None when there is none."""
        found = self._exact.get(path)
        return self._match(path) if found is None and self._patterns else found

    def _match(self, path: str) -> Found | None:
        if path in self._matched:
            return self._matched[path]
        matches = ((name, pattern.match(path)) for pattern, name in self._patterns)
        found = next((Found(name, params) for name, params in matches if params is not None), None)
        if len(self._matched) >= _REMEMBERED:
            self._matched.clear()
        self._matched[path] = found
        return found


def as_is(path: str) -> Found:
    """The best guess about a worker that does not say what it offers: its components are named like their paths."""
    return Found(path.lstrip("/"), {})


def missing(path: str, pool: str, catalogues: Iterable[Catalogue]) -> str:
    """A sentence that says that nobody offers `path`, and what is near."""
    known = sorted({offer.path for catalogue in catalogues for offer in catalogue.offers})
    near = difflib.get_close_matches(path, known, n=3, cutoff=0.5)
    offered = f"its workers offer {', '.join(known[:10])}" + (" …" if len(known) > 10 else "") if known else "its workers offer none"
    return f"no component {path} in pool {pool}: " + (f"did you mean {' or '.join(near)}?" if near else offered)
