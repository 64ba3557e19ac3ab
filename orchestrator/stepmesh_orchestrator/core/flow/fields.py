"""Reads one object of a document key by key: the type that is wanted, or a finding and a default.

An absent key and an explicit `null` are the same everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from stepmesh_orchestrator.core.flow.codes import Code
from stepmesh_orchestrator.core.flow.findings import Findings
from stepmesh_orchestrator.core.flow.paths import Path

_KINDS = {bool: "a boolean", int: "an integer", float: "a number", str: "a string", list: "a list", dict: "an object"}


def kind_of(value: Any) -> str:
    """How people call the kind of a JSON value."""
    return "null" if value is None else _KINDS[type(value)]


class Fields:
    """An object and its place. What is not an object is reported and read as an empty one."""

    def __init__(self, value: Any, path: Path, findings: Findings, what: str) -> None:
        self.path = path
        self.findings = findings
        self.what = what
        self.is_object = value is None or isinstance(value, dict)
        if not self.is_object:
            findings.add(Code.TYPE, path, f"{what} must be an object, not {kind_of(value)}")
        self.value: dict[str, Any] = value if isinstance(value, dict) else {}

    def at(self, key: str) -> Path:
        """The place of a member."""
        return (*self.path, key)

    def get(self, key: str) -> Any:
        """The member as it is; None when absent."""
        return self.value.get(key)

    def report(self, code: Code, key: str, message: str, hint: str = "") -> None:
        """A finding at a member."""
        self.findings.add(code, self.at(key), message, hint)

    def only(self, known: Iterable[str], what: str) -> None:
        """Report the keys that are not known."""
        self.findings.unknown_keys(self.value, known, self.path, what)

    def inner(self, key: str) -> Fields:
        """A member that is an object itself."""
        return Fields(self.get(key), self.at(key), self.findings, f"`{key}`")

    def items(self, key: str) -> list[Any]:
        """A member that is a list; empty when absent."""
        value: list[Any] = self._typed(key, list, [])
        return value

    def text(self, key: str) -> str | None:
        """A string member."""
        value: str | None = self._typed(key, str, None)
        return value

    def required_text(self, key: str, example: str) -> str:
        """A string member that must be there and not be empty; "" after a finding."""
        if self.get(key) is None and self.is_object:
            self.findings.add(Code.MISSING, self.path, f"{self.what} has no `{key}`", f"add {example}")
            return ""
        value = self.text(key)
        if value == "":
            self.report(Code.VALUE, key, f"`{key}` is empty", f"write {example}")
        return value or ""

    def boolean(self, key: str) -> bool:
        """A boolean member; False when absent."""
        value: bool = self._typed(key, bool, False)
        return value

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        """A whole number within bounds, inclusive."""
        value: int = self._typed(key, int, default)
        return int(self._within(key, value, default, low, high))

    def number(self, key: str, default: float, low: float, high: float) -> float:
        """A number within bounds, inclusive."""
        value = self.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.report(Code.TYPE, key, f"`{key}` must be a number, not {kind_of(value)}")
            return default
        return float(self._within(key, value, default, low, high))

    def choice(self, key: str, allowed: Sequence[str], default: str) -> str:
        """One of a few words."""
        value = self.text(key)
        if value is None:
            return default
        if value not in allowed:
            self.report(
                Code.VALUE, key, f"`{key}` is `{value[:60]}`, which is not one of its values", self.findings.suggest(value, allowed)
            )
            return default
        return value

    def _typed(self, key: str, kind: type, default: Any) -> Any:
        value = self.get(key)
        if value is None:
            return default
        if type(value) is not kind:
            self.report(Code.TYPE, key, f"`{key}` must be {_KINDS[kind]}, not {kind_of(value)}")
            return default
        return value

    def _within(self, key: str, value: Any, default: Any, low: float, high: float) -> Any:
        if not low <= value <= high:
            self.report(Code.VALUE, key, f"`{key}` must lie between {low:,} and {high:,}")
            return default
        return value
