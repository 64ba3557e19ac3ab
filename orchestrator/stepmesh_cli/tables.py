"""Rows as aligned text for people, JSON for programs. Times are shown in the local zone. Pure but for printing to stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec


def print_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Left-aligned columns, two spaces between, no trailing blanks."""
    cells = [[name.upper() for name in head], *([_text(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_json(value: Any) -> None:
    """One line of JSON. `value`: plain data; a `msgspec.Raw` in it is spliced."""
    sys.stdout.flush()  # what was printed as text comes first
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()


def raw(payload: bytes | None) -> msgspec.Raw | None:
    """JSON text for `print_json`."""
    return None if payload is None else msgspec.Raw(payload)


def moment(at_ms: int | None) -> str:
    """Date and time to the millisecond; empty for None."""
    if at_ms is None:
        return ""
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def span(start_ms: int | None, end_ms: int | None) -> str:
    """How long it took; empty when it is not known."""
    if start_ms is None or end_ms is None:
        return ""
    took = end_ms - start_ms
    return f"{took} ms" if took < 10_000 else f"{took / 1000:.1f} s"


def _text(value: Any) -> str:
    return "" if value is None else str(value)
