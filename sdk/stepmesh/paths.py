"""Prints JSON paths in the grammar of the flow language: `$`, then `.name`, `["any name"]` or `[index]`."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


def step_text(part: str | int) -> str:
    """One step of a path."""
    if isinstance(part, int):
        return f"[{part}]"
    return f".{part}" if part.isidentifier() and part.isascii() else f"[{msgspec.json.encode(part).decode()}]"


def path_text(parts: Iterable[str | int]) -> str:
    """The whole path; `$` alone is the root."""
    return "$" + "".join(map(step_text, parts))
