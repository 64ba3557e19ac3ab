"""Builds plain values from a stream of reading events, YAML's or JSON's, with all limits and the place of each part.

Invariant: what comes out is JSON (string keys, each once; finite numbers), at most as large, deep and
wide as the limits say *after* aliases are expanded. Aliases share one Python object, so a bomb is
counted, never built. Must not know where the events come from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stepmesh_orchestrator.core.flow.codes import Code
from stepmesh_orchestrator.core.flow.limits import Limits
from stepmesh_orchestrator.core.flow.paths import Path

Mark = Any
"""Where a part begins, in characters from 0: an int for a scalar, (int, {key: Mark} | [Mark]) for a container.
A member of an object begins at its key."""


class Unreadable(Exception):
    """The text is refused at `offset` (characters from 0)."""

    def __init__(self, code: Code, message: str, offset: int, hint: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.offset, self.hint = code, message, offset, hint


@dataclass(slots=True)
class _Cost:
    """What a subtree weighs when aliases are expanded."""

    nodes: int = 1
    size: int = 0
    height: int = 0


@dataclass(slots=True)
class _Open:
    """A list or object whose end has not been read yet."""

    value: Any
    marks: Any
    offset: int
    anchor: str | None
    cost: _Cost = field(default_factory=_Cost)
    key: str | None = None
    key_offset: int = 0


class TreeBuilder:
    """Call in reading order: `scalar`, `open_list`/`open_object` … `close`, `key` before each member, `alias`. Raises `Unreadable`."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Any, Any, _Cost]] = {}
        self._nodes = 0
        self._size = 0
        self.root: Any = None
        self.marks: Mark = 0

    @property
    def wants_key(self) -> bool:
        """True when the next scalar names a member."""
        return bool(self._open) and isinstance(self._open[-1].value, dict) and self._open[-1].key is None

    def scalar(self, value: Any, offset: int, anchor: str | None = None) -> None:
        """A string, number, bool or null."""
        self._attach(value, offset, offset, _Cost(1, _length(value)), anchor)

    def key(self, name: str, offset: int, anchor: str | None = None) -> None:
        """The name of the next member."""
        top = self._open[-1]
        if name in top.value:
            shown = name if len(name) <= 60 else name[:60] + "…"
            raise Unreadable(Code.DUPLICATE_KEY, f"the key `{shown}` stands twice in one object", offset, "keep one of the two")
        if anchor is not None:
            self._anchors[anchor] = (name, offset, _Cost(1, len(name)))
        top.key, top.key_offset = name, offset
        self._count(_Cost(1, len(name)), offset)
        top.cost.nodes += 1
        top.cost.size += len(name)

    def open_list(self, offset: int, anchor: str | None = None) -> None:
        """A list begins."""
        self._start(_Open([], [], offset, anchor))

    def open_object(self, offset: int, anchor: str | None = None) -> None:
        """An object begins."""
        self._start(_Open({}, {}, offset, anchor))

    def _start(self, opened: _Open) -> None:
        if len(self._open) >= self._limits.depth:
            self._too_much(f"nested more than {self._limits.depth} deep", opened.offset)
        self._count(_Cost(), opened.offset)
        if opened.anchor is not None:
            self._anchors.pop(opened.anchor, None)
        self._open.append(opened)

    def close(self) -> None:
        """The innermost list or object ends."""
        done = self._open.pop()
        done.cost.height += 1
        self._place(done.value, (done.offset, done.marks), done.cost, done.anchor)

    def alias(self, name: str, offset: int) -> None:
        """The value anchored as `name`, once more."""
        if name not in self._anchors:
            inside = any(part.anchor == name for part in self._open)
            reason = "refers to the value that it stands in" if inside else "has no anchor before it"
            raise Unreadable(Code.SYNTAX, f"the alias `*{name}` {reason}", offset)
        value, marks, cost = self._anchors[name]
        if len(self._open) + cost.height > self._limits.depth:
            self._too_much(f"nested more than {self._limits.depth} deep once `*{name}` is expanded", offset)
        self._attach(value, marks, offset, cost, None)

    def _attach(self, value: Any, mark: Mark, offset: int, cost: _Cost, anchor: str | None) -> None:
        self._count(cost, offset)
        self._place(value, mark, cost, anchor)

    def _place(self, value: Any, mark: Mark, cost: _Cost, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = (value, mark, cost)
        if not self._open:
            self.root, self.marks = value, mark
            return
        top = self._open[-1]
        top.cost.nodes += cost.nodes
        top.cost.size += cost.size
        top.cost.height = max(top.cost.height, cost.height)
        if top.key is None:
            top.value.append(value)
            top.marks.append(mark)
        else:
            top.value[top.key] = value
            top.marks[top.key] = (top.key_offset, mark[1]) if isinstance(mark, tuple) else top.key_offset
            top.key = None

    def _count(self, cost: _Cost, offset: int) -> None:
        self._nodes += cost.nodes
        self._size += cost.size
        if self._nodes > self._limits.nodes:
            self._too_much(f"more than {self._limits.nodes:,} values once aliases are expanded", offset)
        if self._size > self._limits.expanded_characters:
            self._too_much(f"more than {self._limits.expanded_characters:,} characters once aliases are expanded", offset)

    def _too_much(self, what: str, offset: int) -> None:
        raise Unreadable(Code.LIMIT, what, offset, "split the flow, or store the data as a blob")


def _length(value: Any) -> int:
    """About the length of a scalar in JSON, worked out from the value: a document weighs the same from YAML, JSON and memory."""
    if isinstance(value, str):
        return len(value)
    return value.bit_length() // 3 if isinstance(value, int) else 4


def offset_of(marks: Mark, path: Path) -> int:
    """Where the part at `path` begins; of the nearest part around it when it does not exist."""
    found = marks
    for part in path:
        members = found[1] if isinstance(found, tuple) else None
        try:
            found = members[part]  # type: ignore[index]  # None, a list or a dict: what does not fit is caught
        except (TypeError, KeyError, IndexError):
            break
    offset: int = found[0] if isinstance(found, tuple) else found
    return offset
