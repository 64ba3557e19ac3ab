"""`stepmesh demo`: a real batch on this machine, with or without a chaos monkey."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from stepmesh_cli import exits
from stepmesh_cli.connection import run_to_end
from stepmesh_cli.demo.corpus import DEFAULT_FILES
from stepmesh_cli.demo.stage import Stage, set_up
from stepmesh_cli.errors import CommandError
from stepmesh_cli.reporting import say
from stepmesh_cli.tables import print_json

FEWEST_FILES = 20


def demo(
    *,
    seed: int = 0,
    files: int = DEFAULT_FILES,
    data: Path | None = None,
    json: bool = False,
) -> int:
    """Survey Python's standard library with a real batch: flow, broker, journal, three worker processes, HTML report.

    Example: stepmesh demo

    Parameters
    ----------
    seed
        Chooses the files.
    files
        Size of the batch, 20 or more.
    data
        Folder for journal, broker, ledgers and report; default: a new one below .stepmesh.
    json
        Print the outcome as a JSON line on stdout.
    """
    if files < FEWEST_FILES:
        raise CommandError(f"--files {files} is below {FEWEST_FILES}", hint="the report needs something to plot")
    return _calm(set_up(data or _fresh("demo"), seed, files), json)


def _calm(stage: Stage, as_json: bool) -> int:
    from stepmesh_cli.demo.calm import play

    outcome = run_to_end(play(stage, quiet=as_json))
    if as_json:
        print_json(outcome)
    else:
        _tell(outcome)
    return exits.FAILED if outcome["failed"] else exits.OK


def _tell(outcome: dict[str, Any]) -> None:
    say("")
    say(f"trace of item {outcome['item']}, {outcome['module']}:")
    for line in outcome["trace"]:
        say(line)
    say("")
    say(
        f"{outcome['files']} files, {outcome['executions']} step executions in {outcome['batch_s']:.1f} s, {outcome['retries']} retries, "
        f"{outcome['unparsed']} files that do not parse; {len(outcome['failed'])} items failed; {outcome['seconds']:.1f} s in all"
    )
    say(f"report: {outcome['report']}")


def _fresh(name: str) -> Path:
    return Path(".stepmesh") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
