"""`stepmesh demo`: a real batch on this machine, with or without a chaos monkey."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepmesh_cli import exits
from stepmesh_cli.connection import run_to_end
from stepmesh_cli.demo.corpus import DEFAULT_FILES
from stepmesh_cli.demo.stage import Stage, set_up
from stepmesh_cli.errors import CommandError, NotAvailable
from stepmesh_cli.reporting import say
from stepmesh_cli.tables import print_json

if TYPE_CHECKING:
    from stepmesh_cli.demo.chaos import Outcome

FEWEST_FILES = 20
NEEDED = ("numpy", "matplotlib", "yaml")
"""Modules of its workers and its report, looked for before anything starts."""
_SEEDS = re.compile(r"(\d+)\.\.(\d+)")


def demo(
    *,
    chaos: bool = False,
    seed: int = 0,
    seeds: str | None = None,
    files: int | None = None,
    data: Path | None = None,
    json: bool = False,
) -> int:
    """Survey Python's standard library with a real batch: flow, broker, journal, three worker processes, HTML report.

    Example: stepmesh demo

    Parameters
    ----------
    chaos
        Kill -9 workers, orchestrator and broker while it runs, then prove from journal and ledger that nothing was lost or done twice.
    seed
        Chooses the files, and what is killed when.
    seeds
        A..B: chaos with each of these seeds, one line per seed; folders of seeds that pass are removed.
    files
        Size of the batch, 20 or more.
    data
        Folder for journal, broker, ledgers and report; default: a new one below .stepmesh.
    json
        Print the outcome as a JSON line on stdout.
    """
    if files is not None and files < FEWEST_FILES:
        raise CommandError(f"--files {files} is below {FEWEST_FILES}", hint="the report needs something to plot")
    if lacking := [name for name in NEEDED if find_spec(name) is None]:
        raise NotAvailable(f"the demo needs {', '.join(lacking)}, which this install lacks", hint="pip install 'stepmesh[server,demo]'")
    if seeds is not None:
        return _many(_range(seeds), files, data or _fresh("chaos"), json)
    if chaos:
        return _chaos(seed, files, data or _fresh("chaos"), json)
    return _calm(set_up(data or _fresh("demo"), seed, files or DEFAULT_FILES), json)


# --- without chaos ----------------------------------------------------------------------------------------------


def _calm(stage: Stage, as_json: bool) -> int:
    from stepmesh_cli.demo.calm import play

    outcome = run_to_end(play(stage, quiet=as_json))
    if as_json:
        print_json(outcome)
    else:
        _tell_calm(outcome)
    return exits.FAILED if outcome["failed"] else exits.OK


def _tell_calm(outcome: dict[str, Any]) -> None:
    say("")
    say(f"trace of item {outcome['item']}, {outcome['module']}:")
    say(outcome["trace"])
    say("")
    say(
        f"{outcome['files']} files, {outcome['executions']} step executions in {outcome['batch_s']:.1f} s, {outcome['retries']} retries, "
        f"{outcome['unparsed']} files that do not parse, {len(outcome['failed'])} items failed; {outcome['seconds']:.1f} s in all"
    )
    say(f"report: {outcome['report']}")


# --- with chaos -------------------------------------------------------------------------------------------------


def _chaos(seed: int, files: int | None, data: Path, as_json: bool) -> int:
    outcome = _once(seed, files, data, report=True, quiet=as_json)
    if as_json:
        print_json({**asdict(outcome), "holds": outcome.holds, "data": str(data)})
    else:
        _tell_kills(outcome)
        _tell_checks(outcome)
        say(f"report: {outcome.report}" if outcome.report else f"everything it left is in {data}")
    return exits.OK if outcome.holds else exits.FAILED


def _many(seeds: Sequence[int], files: int | None, data: Path, as_json: bool) -> int:
    failed = 0
    for seed in seeds:
        folder = data / f"seed-{seed}"
        outcome = _once(seed, files, folder, report=False, quiet=True)
        failed += not outcome.holds
        if as_json:
            print_json({**asdict(outcome), "holds": outcome.holds, "data": str(folder)})
        else:
            say(f"seed {seed:>4}  {'holds ' if outcome.holds else 'BROKEN'}  {outcome.seconds:5.1f} s  {_in_short(outcome)}")
        if outcome.holds:
            shutil.rmtree(folder)
        else:
            _tell_checks(outcome)
            say(f"  everything it left is in {folder}; again: stepmesh demo --chaos --seed {seed}")
    say(f"{len(seeds) - failed} of {len(seeds)} seeds hold")
    return exits.FAILED if failed else exits.OK


def _once(seed: int, files: int | None, data: Path, *, report: bool, quiet: bool) -> Outcome:
    from stepmesh_cli.demo import chaos

    stage = set_up(data, seed, files or chaos.FILES, chaos.PACE_MS)
    return run_to_end(chaos.play(stage, _silent if quiet else say, report))


def _tell_kills(outcome: Outcome) -> None:
    say("")
    say(f"{'killed':<14}{'after':>8}  {'executions begun':>17}  processes")
    for kill in outcome.kills:
        say(f"{kill.target:<14}{kill.after_s:>6.1f} s  {kill.executions:>17}  {' '.join(map(str, kill.pids))}")


def _tell_checks(outcome: Outcome) -> None:
    say("")
    if outcome.problem:
        say(f"SM-0113 {outcome.problem}")
        for line in outcome.explained:
            say(f"  {line}")
    for check in outcome.checks:
        say(f"{'holds ' if check.holds else 'BROKEN'}  {check.name} ({check.counted})")
        for finding in check.findings:
            say(f"          {finding}")
    say("")
    say(f"{_in_short(outcome)}; {outcome.seconds:.1f} s in all")


def _in_short(outcome: Outcome) -> str:
    kinds = [kill.target for kill in outcome.kills]
    told = ", ".join(f"{kinds.count(kind)} × {kind}" for kind in dict.fromkeys(kinds))
    return f"kills: {told}; {outcome.executions} executions, {outcome.cut} cut by a kill, {outcome.repeated} attempts begun again"


def _range(text: str) -> range:
    found = _SEEDS.fullmatch(text)
    if found is None or int(found[1]) > int(found[2]):
        raise CommandError(f"--seeds {text!r} is not A..B", hint="for example --seeds 1..20")
    return range(int(found[1]), int(found[2]) + 1)


def _fresh(name: str) -> Path:
    return Path(".stepmesh") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def _silent(_: str) -> None:
    """Tells nobody."""
