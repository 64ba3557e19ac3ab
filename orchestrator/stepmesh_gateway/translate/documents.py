"""What clients are told about flow documents beside their text: what is wrong with one, and the inputs to try it with.

Works on the JSON that orchestrators answer with; it must not know the flow language beyond those fields.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import msgspec


class DiagnosticLevel(IntEnum):
    """`stepflow.v1.DiagnosticLevel`."""

    UNSPECIFIED = 0
    FATAL = 1
    ERROR = 2
    WARNING = 3


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong. `kind`: `SM-2xxx`, `number`: its digits. `data`: JSON, line, column and hint as far as they are known."""

    kind: str
    number: int
    level: DiagnosticLevel
    text: str
    data: bytes | None
    path: str


class Example(msgspec.Struct, frozen=True):
    """An input that the flow's author wrote down. `input`: JSON."""

    name: str
    input: bytes
    description: str | None = None


class _Diagnostic(msgspec.Struct, frozen=True):
    code: str
    level: str
    message: str
    path: str = "$"
    line: int | None = None
    column: int | None = None
    hint: str | None = None


class _Case(msgspec.Struct, frozen=True):
    name: str = ""
    input: msgspec.Raw = msgspec.Raw(b"null")
    description: str | None = None


class _Tests(msgspec.Struct, frozen=True):
    cases: list[_Case] = []


class _Document(msgspec.Struct, frozen=True):
    examples: list[_Case] | None = None
    test: _Tests | None = None


def findings(diagnostics: bytes) -> list[Finding]:
    """Those of a `FlowStored`."""
    return [_finding(found) for found in msgspec.json.decode(diagnostics, type=list[_Diagnostic])]


def examples(document: bytes) -> list[Example]:
    """The `examples` of a flow, then the inputs of its test cases. None for a document whose examples are of another shape."""
    try:
        found = msgspec.json.decode(document, type=_Document)
    except msgspec.ValidationError:
        return []
    cases = [*(found.examples or []), *(found.test.cases if found.test is not None else [])]
    return [Example(case.name, bytes(case.input), case.description) for case in cases]


def _finding(found: _Diagnostic) -> Finding:
    more: dict[str, Any] = {"line": found.line, "column": found.column, "hint": found.hint or None}
    known = {name: value for name, value in more.items() if value is not None}
    level = DiagnosticLevel.__members__.get(found.level.upper(), DiagnosticLevel.UNSPECIFIED)
    number = int(found.code.rpartition("-")[2])
    text = f"{found.code} {found.message}" + (f" ({found.hint})" if found.hint else "")
    return Finding(found.code, number, level, text, msgspec.json.encode(known) if known else None, found.path)
