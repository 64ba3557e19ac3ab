"""What is wrong with a flow, as stepflow.v1 tells it: the same for protobuf and REST.

The numbers are those of the SM codes (`SM-2011` is 2011). Where Stepflow has a diagnostic with the same meaning, `kind` has its name.
"""

from __future__ import annotations

from collections import Counter
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


class Level(IntEnum):
    """`stepflow.v1.DiagnosticLevel`."""

    FATAL = 1
    ERROR = 2
    WARNING = 3


class _Found(msgspec.Struct, frozen=True):
    code: str
    level: str
    message: str
    path: str = "$"
    line: int | None = None
    column: int | None = None
    hint: str = ""


class Diagnostic(msgspec.Struct, frozen=True):
    """`stepflow.v1.Diagnostic`. `data`: `{code, hint?, line?, column?}`."""

    kind: str
    code: int
    level: Level
    formatted: str
    data: dict[str, Any]
    path: str | None
    experimental: bool = False


class Diagnostics(msgspec.Struct, frozen=True):
    """All findings in order."""

    diagnostics: list[Diagnostic]

    def count(self, level: Level) -> int:
        """How many are of a level."""
        return Counter(found.level for found in self.diagnostics)[level]


_decode = msgspec.json.Decoder(list[_Found]).decode


def diagnostics(findings: bytes) -> Diagnostics:
    """From `FlowStored.diagnostics` of api.py."""
    return Diagnostics([_diagnostic(found) for found in _decode(findings)])


def _diagnostic(found: _Found) -> Diagnostic:
    number = int(found.code.removeprefix("SM-"))
    kind = _LABELS.get(found.path, _KINDS[2015]) if number == 2015 else _KINDS.get(number, "invalidFlow")
    formatted = f"{found.message} ({found.hint})" if found.hint else found.message
    data: dict[str, Any] = {"code": found.code}
    more = {"hint": found.hint, "line": found.line, "column": found.column}
    data.update({key: value for key, value in more.items() if value})
    return Diagnostic(kind, number, Level[found.level.upper()], formatted, data, None if found.path == "$" else found.path)
