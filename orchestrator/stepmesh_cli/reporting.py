"""How the command line talks to a person on stderr: errors, findings, warnings. Results go to stdout and are not made here."""

from __future__ import annotations

import dataclasses
import sys
import traceback
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from stepmesh_broker.errors import StepmeshError
from stepmesh_cli import exits

if TYPE_CHECKING:
    from stepmesh_orchestrator.core.flow.diagnostics import Diagnostic

DEFECT = "SM-0199"
_RED, _YELLOW, _DIM, _END = "\033[31m", "\033[33m", "\033[2m", "\033[0m"


def say(line: str) -> None:
    """One line to stderr, at once."""
    print(line, file=sys.stderr, flush=True)


def warn(line: str) -> None:
    """A warning to stderr."""
    say(f"{_coloured('warning', _YELLOW)}: {line}")


def show_findings(findings: Iterable[Diagnostic | Mapping[str, Any]], name: str) -> None:
    """One line per diagnostic of a flow or configuration (or mapping with the same names): place, level, code, message, hint."""
    for finding in findings:
        one = finding if isinstance(finding, Mapping) else _as_mapping(finding)
        level = one["level"]
        place = ":".join(str(part) for part in (name, one.get("line"), one.get("column")) if part is not None)
        hint = f" ({one['hint']})" if one.get("hint") else ""
        say(f"{place}: {_coloured(level, _YELLOW if level == 'warning' else _RED)} {one['code']} {one['path']}: {one['message']}{hint}")


def _as_mapping(finding: Diagnostic) -> dict[str, Any]:
    return {**dataclasses.asdict(finding), "level": finding.level.name.lower()}


def report(problem: BaseException, *, debug: bool) -> int:
    """Tell what ended the command; returns the exit code. A traceback only with `debug`."""
    if debug:
        traceback.print_exception(problem)
    if isinstance(problem, StepmeshError):
        known = problem
    elif isinstance(problem, ImportError):
        known = StepmeshError(f"this install lacks {problem.name}", code="SM-0111", hint="pip install 'stepmesh[server]'")
    else:
        what = f"{type(problem).__name__}: {problem}"
        known = StepmeshError(f"a defect of Stepmesh, not of your flow: {what}", code=DEFECT, hint="--debug shows where; please report it")
    say(f"{_coloured(known.code, _RED)} {known.message}")
    if known.hint:
        say(_coloured(f"  → {known.hint}", _DIM))
    return exits.exit_code(known)


def _coloured(text: str, colour: str) -> str:
    return f"{colour}{text}{_END}" if sys.stderr.isatty() else text
