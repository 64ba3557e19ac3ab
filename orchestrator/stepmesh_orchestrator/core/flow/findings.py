"""Collects what is wrong with a document, each with its place, while the compiler goes on to find the rest.

Invariant: an error is never lost, however many warnings there are; the list stays bounded whatever the document holds.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

from stepmesh_orchestrator.core.flow import paths
from stepmesh_orchestrator.core.flow.codes import Code
from stepmesh_orchestrator.core.flow.diagnostics import Diagnostic, Diagnostics, Level
from stepmesh_orchestrator.core.flow.paths import Path

Position = Callable[[Path], tuple[int, int] | None]

MAX_PER_LEVEL = 200
_MAX_CANDIDATES = 1_000
_MAX_NAME = 100


class Findings:
    """A growing list of diagnostics for one document. `strict` turns warnings into errors."""

    def __init__(self, position: Position, *, strict: bool = False) -> None:
        self.diagnostics = Diagnostics()
        self._position = position
        self._strict = strict
        self._count = dict.fromkeys(Level, 0)

    def add(self, code: Code, path: Path, message: str, hint: str = "") -> None:
        """Note one finding at `path` (of the value, or of the key that is wrong)."""
        level = Level.ERROR if self._strict and code.level is Level.WARNING else code.level
        self._count[level] += 1
        if self._count[level] > MAX_PER_LEVEL:
            return
        line, column = self._position(path) or (None, None)
        self.diagnostics.items.append(Diagnostic(code.code, level, message, paths.show(path), line, column, hint))

    @property
    def crowded(self) -> bool:
        """True when hints should not be worked out any more: the list is long enough to act on."""
        return len(self.diagnostics.items) > MAX_PER_LEVEL // 4

    def unknown_keys(self, value: dict[str, Any], known: Iterable[str], path: Path, what: str) -> None:
        """Report each key of `value` that `known` lacks, with the nearest known one. `x-…` keys are anyone's."""
        expected = tuple(known)
        for key in value:
            if key not in expected and not key.startswith("x-"):
                self.add(Code.UNKNOWN_KEY, (*path, key), f"`{_short(key)}` is not a key of {what}", self.suggest(key, expected))

    def suggest(self, name: str, candidates: Iterable[str]) -> str:
        """`did you mean …?`, or the candidates when they are few, or ""."""
        if self.crowded:
            return ""
        names = list(candidates)
        if near := nearest(name, names):
            return "did you mean " + " or ".join(f"`{one}`" for one in near) + "?"
        return f"known: {', '.join(names)}" if 0 < len(names) <= 12 else ""


def nearest(name: str, candidates: Iterable[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """The candidates most like `name` (difflib ratio, case ignored), best first. Bounded work: long names match nothing."""
    if len(name) > _MAX_NAME:
        return []
    by_folded = {one.casefold(): one for one in candidates if len(one) <= _MAX_NAME}
    pool = list(by_folded)
    if len(pool) > _MAX_CANDIDATES:
        pool = [one for one in pool if one[:2] == name.casefold()[:2]][:_MAX_CANDIDATES]
    return [by_folded[one] for one in difflib.get_close_matches(name.casefold(), pool, count, cutoff)]


def _short(text: str) -> str:
    return text if len(text) <= _MAX_NAME else text[:_MAX_NAME] + "…"
