"""JSON Patch (RFC 6902) and JSON Pointer (RFC 6901) over plain values.

Invariant: what is given is never changed, and the work is bounded: values that are copied again and again are counted.
"""

from __future__ import annotations

import copy
import re
from typing import Any

from stepmesh_orchestrator.core.flow.jsontext import same
from stepmesh_orchestrator.core.flow.limits import LIMITS

_INDEX = re.compile(r"0|[1-9][0-9]{0,17}")
_BAD_ESCAPE = re.compile(r"~(?![01])")


class PatchError(ValueError):
    """The patch is malformed, does not apply, or its test fails."""


def json_patch(target: Any, patch: Any) -> Any:
    """`target` after all operations of `patch`, in order. Raises `PatchError`, naming the operation."""
    if not isinstance(patch, list):
        raise PatchError("a JSON patch is a list of operations")
    result = copy.deepcopy(target)
    copied = 0
    for number, operation in enumerate(patch):
        try:
            copied += _copied(result, operation)
            if copied > LIMITS.nodes:
                raise PatchError(f"copies more than {LIMITS.nodes:,} values")
            result = _apply(result, operation)
        except PatchError as problem:
            raise PatchError(f"operation {number}: {problem}") from problem
        except RecursionError as problem:
            raise PatchError(f"operation {number}: nested too deeply") from problem
    return result


def _copied(document: Any, operation: Any) -> int:
    """How many values a `copy` adds; 0 for the other operations, which add what the patch spells out."""
    if not isinstance(operation, dict) or operation.get("op") != "copy":
        return 0
    count, waiting = 0, [_get(document, _pointer(operation, "from"))]
    while waiting:
        value = waiting.pop()
        count += 1
        waiting += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return count


def _apply(document: Any, operation: Any) -> Any:
    if not isinstance(operation, dict):
        raise PatchError("not an object")
    if operation.get("op") in ("copy", "move"):
        return _transferred(document, operation)
    return _edited(document, operation)


def _transferred(document: Any, operation: dict[str, Any]) -> Any:
    path, source = _pointer(operation, "path"), _pointer(operation, "from")
    value = _get(document, source)
    if operation["op"] == "copy":
        return _added(document, path, copy.deepcopy(value))
    if path == source:
        return document
    if path[: len(source)] == source:
        raise PatchError("a value cannot be moved into itself")
    return _added(_removed(document, source), path, value)


def _edited(document: Any, operation: dict[str, Any]) -> Any:
    kind = operation.get("op")
    path = _pointer(operation, "path")
    if kind in ("add", "replace", "test"):
        if "value" not in operation:
            raise PatchError(f"`{kind}` has no `value`")
        return _with_value(document, kind, path, operation["value"])
    if kind == "remove":
        return _removed(document, path)
    raise PatchError(f"unknown operation {str(kind)[:40]!r}")


def _with_value(document: Any, kind: str, path: list[str], value: Any) -> Any:
    if kind == "test":
        if not same(_get(document, path), value):
            raise PatchError("the test failed")
        return document
    if kind == "replace" and path:
        parent = _get(document, path[:-1])
        parent[_place(parent, path[-1])] = copy.deepcopy(value)
        return document
    return _added(document, path, copy.deepcopy(value))


def _pointer(operation: dict[str, Any], key: str) -> list[str]:
    text = operation.get(key)
    if not isinstance(text, str) or (text and not text.startswith("/")) or _BAD_ESCAPE.search(text):
        raise PatchError(f"`{key}` is not a JSON pointer")
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _place(parent: Any, part: str) -> Any:
    """The key or index under which an existing member stands."""
    if isinstance(parent, dict) and part in parent:
        return part
    if isinstance(parent, list) and _INDEX.fullmatch(part) and int(part) < len(parent):
        return int(part)
    raise PatchError(f"nothing stands at {part[:60]!r}")


def _get(document: Any, path: list[str]) -> Any:
    for part in path:
        document = document[_place(document, part)]
    return document


def _added(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent, last = _get(document, path[:-1]), path[-1]
    if isinstance(parent, dict):
        parent[last] = value
    elif isinstance(parent, list) and (last == "-" or (_INDEX.fullmatch(last) and int(last) <= len(parent))):
        parent.insert(len(parent) if last == "-" else int(last), value)
    else:
        raise PatchError(f"nothing can be added at {last[:60]!r}")
    return document


def _removed(document: Any, path: list[str]) -> Any:
    if not path:
        return None
    parent = _get(document, path[:-1])
    del parent[_place(parent, path[-1])]
    return document
