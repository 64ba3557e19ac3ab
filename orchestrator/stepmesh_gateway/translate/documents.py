"""What clients are told about flow documents beside their text: what is wrong with one, and the inputs to try it with.

Works on the JSON that orchestrators answer with; it must not know the flow language beyond those fields.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import msgspec

_KINDS = {
    2001: "invalidSyntax",
    2002: "invalidEncoding",
    2003: "duplicateKey",
    2004: "invalidKey",
    2005: "unsupportedYaml",
    2006: "invalidNumber",
    2007: "limitExceeded",
    2010: "typeMismatch",
    2011: "unknownField",
    2012: "missingField",
    2013: "invalidValue",
    2014: "unusedField",
    2015: "missingLabel",
    2020: "duplicateStepId",
    2021: "forwardReference",
    2022: "selfReference",
    2023: "undefinedStepReference",
    2024: "invalidPath",
    2025: "invalidReferenceExpression",
    2026: "misspelledExpression",
    2027: "undefinedVariable",
    2030: "invalidSchema",
    2031: "flatSchema",
    2032: "remoteSchema",
    2040: "invalidOverride",
    2050: "invalidTestCase",
}
_LABELS = {"$.name": "missingFlowName", "$.description": "missingFlowDescription"}


class DiagnosticLevel(IntEnum):
    """`stepflow.v1.DiagnosticLevel`."""

    UNSPECIFIED = 0
    FATAL = 1
    ERROR = 2
    WARNING = 3


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong. `kind`: Stepflow's name where it has one for the same. `number`: the digits of the SM code. `data`: JSON,
    line, column and hint as far as they are known."""

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


def _kind(number: int, path: str) -> str:
    return _LABELS.get(path, _KINDS[2015]) if number == 2015 else _KINDS.get(number, "invalidFlow")


def _finding(found: _Diagnostic) -> Finding:
    more: dict[str, Any] = {"line": found.line, "column": found.column, "hint": found.hint or None}
    known = {name: value for name, value in more.items() if value is not None}
    level = DiagnosticLevel.__members__.get(found.level.upper(), DiagnosticLevel.UNSPECIFIED)
    number = int(found.code.rpartition("-")[2])
    text = f"{found.code} {found.message}" + (f" ({found.hint})" if found.hint else "")
    return Finding(_kind(number, found.path), number, level, text, msgspec.json.encode(known) if known else None, found.path)
