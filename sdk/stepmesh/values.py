"""Expressions of the flow language as Python values: references that know how to go deeper, literals, conditions.

Invariant: `expression(v)` is the JSON that a YAML author would write for `v`. Nothing is evaluated here, and whether a
reference makes sense is the compiler's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from stepmesh.errors import BadFlow
from stepmesh.paths import path_text


class Value:
    """An expression. Make one with `Value.input`, `Value.step`, `Value.variable`, `Value.literal`, `if_` or `coalesce`."""

    def to_expression(self) -> Any:
        """JSON-like data as it stands in a flow document."""
        raise BadFlow("a bare Value() is no expression", hint="use Value.input(), Value.step(…), Value.variable(…) or Value.literal(…)")

    @staticmethod
    def input(path: str | None = None) -> Reference:
        """The item's input, or what lies at `path` in it (a field name, or `$.a.b[0]`)."""
        return Reference("$input", None, path)

    @staticmethod
    def step(step_id: str, path: str | None = None) -> Reference:
        """The result of a step, or what lies at `path` in it."""
        return Reference("$step", step_id, path)

    @staticmethod
    def variable(name: str, default: Any = None) -> Reference:
        """A variable of the run; `default` is an expression, None = no default."""
        return Reference("$variable", None, name, more={} if default is None else {"default": expression(default)})

    @staticmethod
    def error(path: str | None = None) -> Reference:
        """Inside a step's `on_error` default: the error, `{code, message, data?}`."""
        return Reference("$error", None, path)

    @staticmethod
    def literal(value: Any) -> Value:
        """`value` as it is: nothing in it is an expression, whatever its keys."""
        return _Form({"$literal": plain(value)})


class Reference(Value):
    """A reference. `ref["field"]`, `ref[0]` and `ref.path.field` go deeper and give references."""

    def __init__(
        self,
        kind: str,
        target: str | None,
        written: str | None,
        parts: tuple[str | int, ...] = (),
        more: Mapping[str, Any] | None = None,
    ) -> None:
        self._kind = kind
        self._target = target
        self._written = written
        self._parts = parts
        self._more = dict(more or {})

    def __getitem__(self, part: str | int) -> Reference:
        """What lies at a field or index (from 0) of this."""
        if isinstance(part, bool) or not isinstance(part, (str, int)) or (isinstance(part, int) and part < 0):
            raise BadFlow(f"{part!r} is not a field name or an index from 0")
        return Reference(self._kind, self._target, self._written, (*self._parts, part), self._more)

    def __iter__(self) -> Any:
        """Refused: without it Python would iterate by index for ever."""
        raise BadFlow("a reference cannot be iterated: its value is known only in a run", hint="use /builtin/map")

    @property
    def path(self) -> Fields:
        """Go deeper by attribute: `ref.path.user.name`."""
        return Fields(self)

    def if_skipped(self, default: Any) -> Reference:
        """The value to use when the step was skipped; without it the referring step is skipped too."""
        skip = {"action": "useDefault", "defaultValue": expression(default)}
        return Reference(self._kind, self._target, self._written, self._parts, {**self._more, "onSkip": skip})

    def to_expression(self) -> Any:
        """`{$step: id, path?}`, `{$input: path}`, …"""
        path = self._path()
        if self._kind == "$step":
            where = {} if path is None else {"path": path}
            return {"$step": self._target, **where, **self._more}
        return {self._kind: "$" if path is None else path, **self._more}

    def _path(self) -> str | None:
        if not self._parts:
            return self._written
        start = self._written or "$"
        if not start.startswith("$"):
            start = path_text([start])
        first = self._parts[0]
        if start == "$" and len(self._parts) == 1 and isinstance(first, str) and first and not first.startswith("$"):
            return first
        return start + path_text(self._parts)[1:]


class Fields(Value):
    """Attribute access to what lies under a reference. Names that begin with `_` need `ref["_name"]`."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference

    def __getattr__(self, name: str) -> Fields:
        if name.startswith("_"):
            raise AttributeError(name)
        return Fields(self._reference[name])

    def __getitem__(self, part: str | int) -> Fields:
        """A field or index."""
        return Fields(self._reference[part])

    def to_expression(self) -> Any:
        """That of the reference."""
        return Reference.to_expression(self._reference)


class _Form(Value):
    def __init__(self, form: dict[str, Any]) -> None:
        self._form = form

    def to_expression(self) -> Any:
        return self._form


def if_(condition: Any, then: Any, else_: Any = None) -> Value:
    """`then` when `condition` is neither null nor false, else `else_`. Only the taken branch's steps run."""
    form = {"$if": expression(condition), "then": expression(then)}
    return _Form(form if else_ is None else {**form, "else": expression(else_)})


def coalesce(*values: Any) -> Value:
    """The first value that is not null; a skipped step counts as null."""
    return _Form({"$coalesce": [expression(value) for value in values]})


def expression(value: Any) -> Any:
    """The expression for any Python value: Values anywhere inside it become their form, everything else stays itself."""
    if isinstance(value, Value):
        return value.to_expression()
    if isinstance(value, Mapping):
        return {_key(key): expression(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [expression(part) for part in value]
    return plain(value)


def plain(value: Any) -> Any:
    """JSON-like data for structs, dataclasses and builtins. Raises `BadFlow` for what is not JSON."""
    if isinstance(value, Value):
        raise BadFlow("a literal holds a reference", hint="a literal is data only; leave Value.literal out")
    try:
        return msgspec.to_builtins(value, str_keys=True)
    except (TypeError, ValueError, RecursionError) as problem:
        raise BadFlow(f"a flow cannot hold {type(value).__qualname__}: {problem}") from problem


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise BadFlow(f"a flow's object has the key {key!r}", hint="keys are text")
    return key
