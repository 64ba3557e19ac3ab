"""The demo under a chaos monkey: kill -9 by plan while the batch runs, and the proof afterwards.

Progress is read from the ledgers, so that the monkey needs nobody alive. The audit begins when everything has stopped.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from stepmesh import Client, RunHandle
from stepmesh.errors import WaitTimeout
from stepmesh_broker.errors import StepmeshError
from stepmesh_broker.protocol.ids import RunId
from stepmesh_cli.demo import survey
from stepmesh_cli.demo.audit import Check, repeated
from stepmesh_cli.demo.cast import Cast
from stepmesh_cli.demo.examine import examine, history_of
from stepmesh_cli.demo.kills import Kill, plan
from stepmesh_cli.demo.ledger import LedgerWatch, executions, read_lines
from stepmesh_cli.demo.stage import Stage
from stepmesh_cli.demo.timings import Mark, facts

FILES = 200
"""Size of the batch, when nobody says."""
FUNCTIONS = 4
"""Functions of each file at most."""
PACE_MS = 20.0
"""By how much each component is slowed down, ms."""
PATIENCE_S = 90.0
"""For the whole survey with all its kills."""
_POLL_S = 0.01
_DEFINITION = re.compile(rb"^[ \t]*(?:async )?def ", re.MULTILINE)


class Killed(NamedTuple):
    """`after_s`: since the run was submitted; `executions`: component executions that had begun; `at_us`: wall clock, µs since 1970."""

    target: str
    pids: tuple[int, ...]
    after_s: float
    executions: int
    at_us: int


@dataclass(slots=True)
class Outcome:
    """What a chaos run showed. `cut`: executions that a kill ended; `repeated`: attempts whose code began more than once.
    `problem`: why it did not come to its end; `explained`: what the engine said about that."""

    seed: int
    run: str = ""
    seconds: float = 0.0
    kills: list[Killed] = field(default_factory=list[Killed])
    checks: list[Check] = field(default_factory=list[Check])
    executions: int = 0
    cut: int = 0
    repeated: int = 0
    report: str = ""
    problem: str = ""
    explained: list[str] = field(default_factory=list[str])

    @property
    def holds(self) -> bool:
        """Whether the run ended and every check holds."""
        return not self.problem and bool(self.checks) and all(check.holds for check in self.checks)


async def play(stage: Stage, tell: Callable[[str], None], report: bool = True) -> Outcome:
    """Run, kill, stop, audit. `report`: also reduce to the HTML report. Raises `StepmeshError` when it cannot even begin."""
    for name in ("stepmesh.workers", "stepmesh_broker.nats"):
        logging.getLogger(name).setLevel(logging.ERROR)  # what they warn of is what we do
    outcome, began = Outcome(stage.seed), time.monotonic()
    async with Cast(stage) as cast:
        await cast.begin()
        async with Client.connect(cast.url, patience_s=PATIENCE_S) as client:
            await _perform(stage, cast, client, outcome, tell)
            if report and not outcome.problem:
                outcome.report = await _reduce(stage, client, outcome)
    done = executions(read_lines(stage.ledger))
    outcome.executions, outcome.cut, outcome.repeated = len(done), sum(one.end_us is None for one in done), repeated(done)
    outcome.checks = await examine(stage, done)
    outcome.seconds = round(time.monotonic() - began, 2)
    return outcome


def expected_executions(stage: Stage) -> int:
    """About how many component executions the survey takes without any kill."""
    functions = sum(min(FUNCTIONS, len(_DEFINITION.findall(Path(file.path).read_bytes()))) for file in stage.files)
    return 4 * len(stage.files) + functions


async def _perform(stage: Stage, cast: Cast, client: Client, outcome: Outcome, tell: Callable[[str], None]) -> None:
    kills = plan(stage.seed)
    handle = await survey.submit_survey(client, stage.files, f"chaos-survey-{stage.seed}", FUNCTIONS)
    outcome.run = handle.id
    tell(f"run {handle.id}: {len(stage.files)} files; planned: {', '.join(f'{kill.target} at {kill.at:.0%}' for kill in kills)}")
    monkey = asyncio.create_task(_rage(kills, expected_executions(stage), stage, cast, outcome, tell))
    try:
        await handle.wait(PATIENCE_S)
        if len(outcome.kills) < len(kills):
            outcome.problem = f"the run ended after {len(outcome.kills)} of {len(kills)} kills"
    except WaitTimeout as problem:
        outcome.problem = problem.message
        outcome.explained = await _explain(client, handle)
    finally:
        monkey.cancel()
        await asyncio.gather(monkey, return_exceptions=True)


async def _rage(kills: tuple[Kill, ...], expected: int, stage: Stage, cast: Cast, outcome: Outcome, tell: Callable[[str], None]) -> None:
    """Carry the plan out."""
    watch, began = LedgerWatch(stage.ledger), time.monotonic()
    for kill in kills:
        victims: list[int] = []
        while not victims:
            await asyncio.sleep(_POLL_S)
            watch.look()
            victims = cast.strike(kill, watch.busy) if watch.begun >= kill.at * expected else []
        killed = Killed(kill.target, tuple(victims), round(time.monotonic() - began, 2), watch.begun, time.time_ns() // 1000)
        outcome.kills.append(killed)
        tell(f"  kill -9 {killed.target:<12} after {killed.after_s:4.1f} s and {killed.executions} executions: {_listed(victims)}")


async def _explain(client: Client, handle: RunHandle) -> list[str]:
    try:
        return await client.explain(handle.id)
    except StepmeshError as problem:
        return [f"nobody can explain it: {problem}"]


async def _reduce(stage: Stage, client: Client, outcome: Outcome) -> str:
    """The report, whose path is returned."""
    found = await survey.gather(client.handle(outcome.run))
    kinds = ", ".join(kill.target for kill in outcome.kills)
    note = f"{len(outcome.kills)} times kill -9: {kinds}. “measure” also fails on purpose now and then."
    done = executions(read_lines(stage.ledger))
    marks = [Mark(kill.at_us, f"kill -9 {kill.target}") for kill in outcome.kills]
    run = {**facts(await history_of(stage), done, RunId(outcome.run), marks), "about": stage.about(note)}
    written = await survey.reduce(client, found, run, stage.report, f"chaos-reduce-{stage.seed}", PATIENCE_S)
    return str(written["path"])


def _listed(pids: list[int]) -> str:
    return f"process {pids[0]}" if len(pids) == 1 else f"processes {', '.join(map(str, pids))}"
