"""The path grammar: parse, print, apply.

Invariant: `parse(show(path)) == path` for every field name. A path is a tuple of field names (str) and
list indexes (int). Null or "" is the root; text that does not begin with `$` is one field name; with `$`:
`.name`, `[123]`, `["name"]` (JSON escapes), `['name']`. No wildcards, slices, filters or negative indexes.
"""

from __future__ import annotations

import json
import re

import msgspec

from stepmesh_orchestrator.core.flow.jsontext import child

Path = tuple[str | int, ...]

_NAME = re.compile(r"""[^\s.\[\]*?(),'"\\\x00-\x1f\x7f]+""")
_PLAIN = re.compile(r"[\w$@-]+")  # printed without quotes; more than that is read without them
_INDEX = re.compile(r"\[\s*([0-9]{1,18})\s*\]")
_DOUBLE = re.compile(r'\[\s*("(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*+")\s*\]')
_SINGLE = re.compile(r"\[\s*'((?:[^'\\\x00-\x1f]++|\\.)*+)'\s*\]")


class PathError(ValueError):
    """Not a path. `position` counts characters from 0."""

    def __init__(self, text: str, position: int, expected: str) -> None:
        self.position = position
        shown = text if len(text) <= 80 else text[:80] + "…"
        super().__init__(f"path {shown!r} is not understood at character {position + 1}: expected {expected}")


def parse(text: str | None) -> Path:
    """The path that `text` spells. Raises `PathError`."""
    if not text:
        return ()
    if not text.startswith("$"):
        return (text,)
    parts: list[str | int] = []
    at = 1
    while at < len(text):
        part, at = _part(text, at)
        parts.append(part)
    return tuple(parts)


def _part(text: str, at: int) -> tuple[str | int, int]:
    if text[at] == ".":
        if name := _NAME.match(text, at + 1):
            return name[0], name.end()
        raise PathError(text, at + 1, 'a field name (write ["…"] for one with special characters)')
    if index := _INDEX.match(text, at):
        return int(index[1]), index.end()
    if quoted := _DOUBLE.match(text, at):
        return _unescaped(text, at, quoted[1]), quoted.end()
    if quoted := _SINGLE.match(text, at):
        return _unescaped(text, at, _requoted(quoted[1])), quoted.end()
    if text[at] == "[":
        raise PathError(text, at + 1, "an index from 0, or a name in quotes, then ]")
    raise PathError(text, at, "'.name' or '[…]'")


def _requoted(body: str) -> str:
    """The inside of a single-quoted name as a JSON string."""
    return '"' + re.sub(r"""\\'|"|\\.""", lambda match: {"\\'": "'", '"': '\\"'}.get(match[0], match[0]), body) + '"'


def _unescaped(text: str, at: int, quoted: str) -> str:
    try:
        name: str = json.loads(quoted)
        name.encode()
    except ValueError as problem:
        raise PathError(text, at + 1, "a name with JSON escapes only") from problem
    return name


def show(path: Path) -> str:
    """The canonical text: `$`, then `.name` where that reads back, else `["name"]`, and `[index]`."""
    return "$" + "".join(map(_shown, path))


def _shown(part: str | int) -> str:
    if isinstance(part, int):
        return f"[{part}]"
    return f".{part}" if _PLAIN.fullmatch(part) else f"[{json.dumps(part, ensure_ascii=False)}]"


def apply(raw: bytes, path: Path) -> bytes | None:
    """What lies at `path` in the JSON text `raw`, with its digits and spelling; None when nothing does."""
    found: bytes | msgspec.Raw = raw
    for part in path:
        inner = child(found, part)
        if inner is None:
            return None
        found = inner
    return bytes(found)
