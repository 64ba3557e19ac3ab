"""A JSON Schema as rows for people: name, type, whether it is required, default, description. Pure.

It shows what a reader asks first; it is no validator, and what it does not understand it shows as `any`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

MAX_DEPTH = 4
"""Objects inside objects that get rows of their own."""
_VALUES = 8


class Row(NamedTuple):
    """`name` is dotted for a member of a member; `[]` stands for the items of a list; "" for the value itself."""

    name: str
    type: str
    required: bool
    default: str
    description: str


def rows_of(schema: Any) -> list[Row]:
    """One row per member of an object, else one for the value."""
    definitions = _definitions(schema)
    whole = _resolved(schema, definitions)
    found = list(_members(whole, "", definitions, 0))
    return found or [_row("", schema, definitions, required=True)]


def type_of(schema: Any, definitions: Mapping[str, Any], depth: int = 0) -> str:
    """In words: `integer`, `list of string`, `"a" or "b"`, `string or null`."""
    one = _resolved(schema, definitions)
    if not isinstance(one, Mapping) or not one or depth > MAX_DEPTH:
        return "any"
    if "const" in one:
        return _json(one["const"])
    if isinstance(values := one.get("enum"), list):
        more = [f"… ({len(values)} values)"] if len(values) > _VALUES else []
        return " or ".join([*map(_json, values[:_VALUES]), *more])
    for key in ("anyOf", "oneOf"):
        if isinstance(choices := one.get(key), list) and choices:
            return " or ".join(dict.fromkeys(type_of(choice, definitions, depth + 1) for choice in choices))
    kind = one.get("type")
    if isinstance(kind, list):
        return " or ".join(map(str, kind))
    if kind == "array":
        return f"list of {type_of(one.get('items'), definitions, depth + 1)}" if "items" in one else "list"
    return str(kind) if kind else ("object" if "properties" in one else "any")


def _members(one: Any, prefix: str, definitions: Mapping[str, Any], depth: int) -> Iterator[Row]:
    """Rows of an object's members, and of theirs; of a list, those of its items."""
    if not isinstance(one, Mapping) or depth >= MAX_DEPTH:
        return
    if one.get("type") == "array":
        yield from _members(_resolved(one.get("items"), definitions), f"{prefix}[]", definitions, depth)
        return
    properties = one.get("properties")
    required = one.get("required")
    for name, member in properties.items() if isinstance(properties, Mapping) else ():
        path = f"{prefix}.{name}" if prefix else str(name)
        yield _row(path, member, definitions, required=isinstance(required, list) and name in required)
        yield from _members(_resolved(member, definitions), path, definitions, depth + 1)


def _row(name: str, schema: Any, definitions: Mapping[str, Any], *, required: bool) -> Row:
    outer = schema if isinstance(schema, Mapping) else {}
    inner = _resolved(schema, definitions)
    told = {**(inner if isinstance(inner, Mapping) else {}), **outer}  # beside a reference, what is said here counts
    default = _json(told["default"]) if "default" in told else ""
    return Row(name, type_of(schema, definitions), required, default, str(told.get("description") or told.get("title") or ""))


def _definitions(schema: Any) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for key in ("definitions", "$defs"):
        if isinstance(schema, Mapping) and isinstance(schema.get(key), Mapping):
            found |= {f"#/{key}/{name}": value for name, value in schema[key].items()}
    return found


def _resolved(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """Follows local references, each once; an optional object (`anyOf` with null) is that object."""
    for _ in range(len(definitions) + 1):
        if not isinstance(schema, Mapping) or "$ref" not in schema:
            break
        schema = definitions.get(str(schema["$ref"]), {})
    return schema


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
