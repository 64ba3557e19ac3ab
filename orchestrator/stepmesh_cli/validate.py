"""`stepmesh validate`: what is wrong with flow files, as a compiler tells it: the place, the line, a caret, the fix."""

from __future__ import annotations

import json as json_text
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape

from stepmesh_cli import exits
from stepmesh_cli.errors import BadInput, CommandError
from stepmesh_orchestrator.core.flow.compile import compile_flow
from stepmesh_orchestrator.core.flow.diagnostics import Diagnostic, FlowInvalid, Level
from stepmesh_orchestrator.core.flow.document import load

_COLOURS = {Level.FATAL: "red", Level.ERROR: "red", Level.WARNING: "yellow"}
_WIDTH = 160
"""Characters of a source line that are shown, around the place."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A file, its lines and what was found."""

    path: str
    lines: tuple[str, ...]
    findings: tuple[Diagnostic, ...]

    def count(self, *levels: Level) -> int:
        """How many findings are of these levels."""
        return sum(finding.level in levels for finding in self.findings)


def validate(
    *files: Path,
    strict: Annotated[bool, Parameter(help="Warnings are errors.")] = False,
    json: Annotated[bool, Parameter(help="One JSON object on stdout.")] = False,
) -> int:
    """Check flow files without running them. Exit code 1 when one has an error.

    Example: stepmesh validate flow.yaml --strict
    """
    if not files:
        raise CommandError("no flow file was given", hint="stepmesh validate FILE…")
    checked = [check(path, strict=strict) for path in files]
    if json:
        print(as_json(checked))
    else:
        console = Console(file=sys.stdout, highlight=False, soft_wrap=True, emoji=False)
        for one in checked:
            for line in shown(one):
                console.print(line)
    return exits.FAILED if any(one.count(Level.FATAL, Level.ERROR) for one in checked) else exits.OK


def check(path: Path, *, strict: bool = False) -> Checked:
    """Everything that is found in one file. Raises `BadInput` when it cannot be read."""
    try:
        text = path.read_bytes()
    except OSError as problem:
        raise BadInput(f"{path} cannot be read: {problem.strerror}", hint="check the path") from problem
    lines = tuple(text.decode(errors="replace").removeprefix("\ufeff").split("\n"))
    try:
        document = load(text, name=str(path))
    except FlowInvalid as problem:
        return Checked(str(path), lines, tuple(problem.diagnostics.items))
    _, diagnostics = compile_flow(document, strict=strict)
    return Checked(str(path), lines, tuple(sorted(diagnostics.items, key=lambda one: (one.line or 0, one.column or 0))))


def shown(checked: Checked) -> Iterator[str]:
    """Lines of console markup: the findings, then the file's verdict."""
    for finding in checked.findings:
        yield from _finding(checked, finding)
    errors, warnings = checked.count(Level.FATAL, Level.ERROR), checked.count(Level.WARNING)
    if errors or warnings:
        colour = "red" if errors else "yellow"
        yield f"[{colour}]{escape(checked.path)}: {_counted(errors, 'error')}, {_counted(warnings, 'warning')}[/]"
    else:
        yield f"[green]{escape(checked.path)}: good[/]"


def _finding(checked: Checked, finding: Diagnostic) -> Iterator[str]:
    colour = _COLOURS[finding.level]
    place = f"{checked.path}:{finding.line}:{finding.column}" if finding.line is not None else checked.path
    level = finding.level.name.lower()
    yield f"[bold]{escape(place)}[/]: [{colour}]{level} {finding.code}[/] {escape(finding.message)}"
    if finding.line is not None and 0 < finding.line <= len(checked.lines):
        yield from _source(checked.lines[finding.line - 1], finding.line, finding.column or 1, colour)
    if finding.hint:
        yield f"  [dim]→ {escape(finding.hint)}[/]"


def _source(line: str, number: int, column: int, colour: str) -> Iterator[str]:
    """The line and a caret under the place; of a long line the part around it."""
    start = max(0, column - 1 - _WIDTH // 2)
    text = line[start : start + _WIDTH].rstrip("\r").replace("\t", " ")
    before = f"{number} | " + ("…" if start else "")
    indent = " " * (cell_len(before) + cell_len(text[: column - 1 - start]))
    yield f"  [dim]{before}[/]{escape(text)}"
    yield f"  {indent}[{colour}]^[/]"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def as_json(checked: Sequence[Checked]) -> str:
    """`{files: [{file, valid, findings: [{code, level, message, path, line, column, hint}]}]}`."""
    files = [
        {
            "file": one.path,
            "valid": not one.count(Level.FATAL, Level.ERROR),
            "findings": [
                {
                    "code": finding.code, "level": finding.level.name.lower(), "message": finding.message, "path": finding.path,
                    "line": finding.line, "column": finding.column, "hint": finding.hint,
                }
                for finding in one.findings
            ],
        }
        for one in checked
    ]  # fmt: skip
    return json_text.dumps({"files": files}, ensure_ascii=False)
