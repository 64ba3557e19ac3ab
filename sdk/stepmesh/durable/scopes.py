"""Names for what a body does that stay the same over replays and small edits: the path of the task, the name, and a count.

Invariant: a scope numbers its child tasks and its commands by itself, so siblings that run at the same time never change each other's
names. No two commands of a body have the same one: what stands behind the last `#` is always a count.
"""

from __future__ import annotations

import re
from collections import Counter
from contextvars import ContextVar

_COUNTED = re.compile(r".*#[0-9]+", re.DOTALL)
"""A name that looks as if it had its count already."""


class Scope:
    """One asyncio task of a body. `path`: `r`, `r.1`, `r.1.2`, …, in the order in which the tasks were made."""

    __slots__ = ("_children", "_named", "path")

    def __init__(self, path: str = "r") -> None:
        self.path = path
        self._children = 0
        self._named: Counter[str] = Counter()

    def child(self) -> Scope:
        """For the next task that is made in this one."""
        self._children += 1
        return Scope(f"{self.path}.{self._children}")

    def name(self, name: str) -> str:
        """`path/name`, and `path/name#2` from the second on; of a name such as `a#2` the first is `path/a#2#1`."""
        self._named[name] += 1
        count = self._named[name]
        is_bare = count == 1 and ("#" not in name or _COUNTED.fullmatch(name) is None)
        return f"{self.path}/{name}" if is_bare else f"{self.path}/{name}#{count}"


undoing: ContextVar[str] = ContextVar("stepmesh_undoing")
"""Where a saga is undone: the command before its beginning, "" for none. Unset elsewhere."""
current: ContextVar[Scope] = ContextVar("stepmesh_scope")
"""Of the task that runs now; unset outside of bodies."""
