"""`stepmesh test`: run the test cases that stand in flow files, through a whole deployment."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape

from stepmesh_cli import exits
from stepmesh_cli.cases import Settings, Verdict, run_group
from stepmesh_cli.errors import CommandError
from stepmesh_cli.reporting import show_findings
from stepmesh_cli.suites import Suite, grouped, suites_of
from stepmesh_orchestrator.core.flow.paths import Path as Place

_FEW = 3


def run_tests(
    *paths: Path,
    case: Annotated[str | None, Parameter(help="Only the cases of this name.")] = None,
    config: Annotated[Path | None, Parameter(help="Configuration for all files.")] = None,
    broker: Annotated[str, Parameter(help="memory, embedded, or a nats:// URL.")] = "memory",
    journal: Annotated[str, Parameter(help="memory, sqlite, or sqlite:PATH.")] = "memory",
    timeout: Annotated[float, Parameter(help="Seconds for one case.")] = 60.0,
    diff: Annotated[bool, Parameter(help="Show all that differs, not only the first lines.")] = False,
    update: Annotated[bool, Parameter(help="Write what came out into the files, where it differs.")] = False,
    json: Annotated[bool, Parameter(help="One JSON object on stdout.")] = False,
) -> int:
    """Run the test cases of flows: files, or folders that are searched. Exit code 1 when a case fails, 2 when there is none.

    Example: stepmesh test flows/ --broker embedded --journal sqlite
    """
    if not paths:
        raise CommandError("no file and no folder was given", hint="stepmesh test FILE|DIR…")
    suites = suites_of(paths, config, case)
    if not suites:
        what = "no test case" if case is None else f"no test case named {case!r}"
        raise CommandError(f"{what} in {', '.join(map(str, paths))}", hint="cases stand under `test.cases` of a flow")
    console = Console(file=sys.stderr if json else sys.stdout, highlight=False, soft_wrap=True)
    settings = Settings(broker, journal, timeout)
    verdicts = asyncio.run(_run(suites, settings, lambda verdict: _tell(console, verdict, diff)))
    broken = [suite for suite in suites if suite.problems]
    for suite in broken:
        show_findings(suite.problems, str(suite.path))
    if update:
        verdicts = _update(console, verdicts)
    failed = sum(not verdict.passed for verdict in verdicts) + len(broken)
    passed = len(verdicts) + len(broken) - failed
    if json:
        print(_as_json(verdicts, broken, passed, failed))
    else:
        colour = "red" if failed else "green"
        console.print(f"[{colour}]{passed} passed, {failed} failed[/] ({broker} broker, {journal} journal)")
    return exits.FAILED if failed else exits.OK


async def _run(suites: list[Suite], settings: Settings, ended: Any) -> list[Verdict]:
    return [verdict for group in grouped(suites) for verdict in await run_group(group, settings, ended)]


def _tell(console: Console, verdict: Verdict, diff: bool) -> None:
    what = f"{escape(str(verdict.suite.path))} [bold]{escape(verdict.case.name)}[/] [dim]{verdict.duration_ms} ms[/]"
    console.print(f"[green]passed[/] {what}" if verdict.passed else f"[red]FAILED[/] {what}")
    shown = verdict.differences if diff else verdict.differences[:_FEW]
    for line in shown:
        console.print(f"       {line}", markup=False)
    if len(shown) < len(verdict.differences):
        console.print(f"       … {len(verdict.differences) - len(shown)} more: --diff shows all", markup=False)


def _update(console: Console, verdicts: list[Verdict]) -> list[Verdict]:
    """Write new expectations; those cases count as passed. A case without a result stays failed."""
    from stepmesh_cli.expectations import update_file

    by_file: dict[Path, dict[Place, dict[str, Any]]] = {}
    for verdict in verdicts:
        if verdict.actual is not None and (not verdict.passed or verdict.case.expected is None):
            by_file.setdefault(verdict.suite.path, {})[verdict.case.path] = _expectation(verdict)
    for path, expectations in by_file.items():
        update_file(path, expectations)
        console.print(f"[yellow]updated[/] {escape(str(path))}: {len(expectations)} cases")
    return [one if one.actual is None else dataclasses.replace(one, differences=()) for one in verdicts]


def _expectation(verdict: Verdict) -> dict[str, Any]:
    """What came out; an error's data (tracebacks and the like) only where data was expected."""
    actual = dict(verdict.actual or {})
    expected_error = (verdict.case.expected or {}).get("error") or {}
    if "error" in actual and "data" not in expected_error:
        actual["error"] = {key: value for key, value in actual["error"].items() if key != "data"}
    return actual


def _as_json(verdicts: list[Verdict], broken: list[Suite], passed: int, failed: int) -> str:
    cases = [
        {
            "file": str(one.suite.path), "case": one.case.name, "passed": one.passed, "duration_ms": one.duration_ms,
            "differences": one.differences, "expected": one.case.expected, "actual": one.actual,
        }
        for one in verdicts
    ]  # fmt: skip
    invalid = [
        {"file": str(suite.path), "problems": [f"{one.code} {one.path}: {one.message}" for one in suite.problems]} for suite in broken
    ]
    return json.dumps({"passed": passed, "failed": failed, "cases": cases, "invalid": invalid}, ensure_ascii=False)
