"""The demo under a chaos monkey: orchestrator and workers as processes that are killed with SIGKILL and started again, and the audit.

The broker is a child of the orchestrator, which starts it again; an orchestrator that is killed takes it along. Progress is read
from the ledgers, so that the monkey needs nobody alive. Nothing is read from the journal before everything stopped.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from stepmesh import Client, RunHandle
from stepmesh.errors import WaitTimeout
from stepmesh_broker.errors import StepmeshError
from stepmesh_broker.nats import read_endpoint
from stepmesh_broker.protocol.ids import RunId
from stepmesh_cli.demo import survey
from stepmesh_cli.demo.audit import Check, audit, repeated
from stepmesh_cli.demo.history import History, read_history
from stepmesh_cli.demo.kills import Kill, plan
from stepmesh_cli.demo.ledger import executions, read_lines
from stepmesh_cli.demo.replay import kept, replayed
from stepmesh_cli.demo.stage import COMMAND, Stage
from stepmesh_cli.demo.timings import facts
from stepmesh_cli.processes import Supervisor, WorkerProcess
from stepmesh_orchestrator.journal.sqlite import SqliteJournal
from stepmesh_orchestrator.store.sqlite import SqliteStore

FUNCTIONS = 4
"""Functions of each file at most."""
PACE_MS = 20.0
"""By how much each component is slowed down, ms."""
PATIENCE_S = 90.0
"""For the whole survey with all its kills."""
_POLL_S = 0.01
_GRACE_S = 10.0
_DEFINITION = re.compile(rb"^[ \t]*(?:async )?def ", re.MULTILINE)
log = logging.getLogger("stepmesh.demo")


class Killed(NamedTuple):
    """`after_s`: since the run was submitted; `executions`: ledger starts at that moment."""

    target: str
    pids: tuple[int, ...]
    after_s: float
    executions: int


@dataclass(slots=True)
class Outcome:
    """What a chaos run showed. `problem`: why it did not come to its end."""

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
    """Run, kill, stop, audit. Raises `StepmeshError` when it cannot even begin."""
    logging.getLogger("stepmesh.workers").setLevel(logging.ERROR)  # its warnings are our kills
    outcome = Outcome(stage.seed)
    began = time.monotonic()
    async with _Cast(stage) as cast:
        await cast.begin()
        async with Client.connect(cast.url, patience_s=PATIENCE_S) as client:
            await _perform(stage, cast, client, outcome, tell)
            if report and not outcome.problem:
                await _reduce(stage, client, outcome)
    await _examine(stage, outcome)
    outcome.seconds = round(time.monotonic() - began, 2)
    return outcome


async def _perform(stage: Stage, cast: _Cast, client: Client, outcome: Outcome, tell: Callable[[str], None]) -> None:
    handle = await survey.submit_survey(client, stage.files, f"chaos-survey-{stage.seed}", FUNCTIONS)
    outcome.run = handle.id
    tell(f"run {handle.id}: {len(stage.files)} files; kills: {', '.join(f'{k.target} at {k.at:.0%}' for k in plan(stage.seed))}")
    monkey = asyncio.create_task(_rage(stage, cast, outcome, tell))
    try:
        await handle.wait(PATIENCE_S)
        if not monkey.done():
            outcome.problem = "the run ended before all kills were made"
    except WaitTimeout as problem:
        outcome.problem = problem.message
        outcome.explained = await _explain(client, handle)
    finally:
        monkey.cancel()
        await asyncio.wait((monkey,))


async def _explain(client: Client, handle: RunHandle) -> list[str]:
    try:
        return await client.explain(handle.id)
    except StepmeshError as problem:
        return [f"nobody can explain it: {problem}"]


async def _rage(stage: Stage, cast: _Cast, outcome: Outcome, tell: Callable[[str], None]) -> None:
    """Carry the plan out."""
    expected, began = expected_executions(stage), time.monotonic()
    counter = _Starts(stage.ledger)
    for kill in plan(stage.seed):
        while counter.count() < kill.at * expected:
            await asyncio.sleep(_POLL_S)
        while not (victims := cast.victims(kill)):
            await asyncio.sleep(_POLL_S)
        for pid in victims:
            _kill(pid)
        killed = Killed(kill.target, tuple(victims), round(time.monotonic() - began, 2), counter.count())
        outcome.kills.append(killed)
        tell(f"  kill -9 {killed.target} ({', '.join(map(str, victims))}) after {killed.after_s:.1f} s, {killed.executions} executions")


async def _reduce(stage: Stage, client: Client, outcome: Outcome) -> None:
    found = await survey.gather(client.handle(outcome.run))
    done = executions(read_lines(stage.ledger))
    note = f"{len(outcome.kills)} kill -9 hit " + ", ".join(kill.target for kill in outcome.kills) + "."
    journal, store = SqliteJournal(stage.data / "journal.db"), SqliteStore(stage.data / "store.db")
    await journal.open()
    await store.open()
    try:
        run = {**facts(await read_history(journal, store), done, RunId(outcome.run)), "about": stage.about(note)}
    finally:
        await store.close()
        await journal.close()
    written = await survey.reduce(client, found, run, stage.report, f"chaos-reduce-{stage.seed}", PATIENCE_S)
    outcome.report = written["path"]


async def _examine(stage: Stage, outcome: Outcome) -> None:
    """The audit, over a journal that nobody has open."""
    done = executions(read_lines(stage.ledger))
    outcome.executions, outcome.cut, outcome.repeated = len(done), sum(one.end_us is None for one in done), repeated(done)
    journal, store = SqliteJournal(stage.data / "journal.db"), SqliteStore(stage.data / "store.db")
    await journal.open()
    await store.open()
    try:
        history = await read_history(journal, store)
        outcome.checks = [*audit(history, done), _nothing_lost(history), await _replays(journal, store)]
    finally:
        await store.close()
        await journal.close()


def _nothing_lost(history: History) -> Check:
    from stepmesh_orchestrator.core.events import ItemEnded

    ended = [entry.event for entry in history.entries if isinstance(entry.event, ItemEnded)]
    failed = [f"item {event.item} of run {event.run}: {event.failure.message}" for event in ended if event.failure is not None]
    return Check("no item failed for a kill", len(ended), tuple(failed[:5]))


async def _replays(journal: SqliteJournal, store: SqliteStore) -> Check:
    frames, first = await replayed(journal, store)
    _, second = await replayed(journal, store)
    wrong = [] if first == second else [f"two replays of {frames} frames differ: {first[:12]} and {second[:12]}"]
    live = await kept(journal, store)
    if live is not None and (await replayed(journal, store, through=live[0]))[1] != live[1]:
        wrong.append(f"the state that the orchestrator had at frame {live[0]} differs from its replay")
    return Check("two replays and the live state have one hash", frames, tuple(wrong))


def expected_executions(stage: Stage) -> int:
    """About how many component executions the survey takes without any kill."""
    functions = sum(min(FUNCTIONS, len(_DEFINITION.findall(Path(file.path).read_bytes()))) for file in stage.files)
    return 4 * len(stage.files) + functions


class _Starts:
    """Counts the starts in the ledgers, reading only what is new."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self._count = 0

    def count(self) -> int:
        """Starts so far."""
        for path in self._folder.glob("*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                fresh = file.read()
                self._count += fresh.count(b'"start"')
                self._read[path] = file.tell()
        return self._count


class _Cast:
    """The processes on stage: the orchestrator (with the broker as its child) and the workers, each started again when it dies."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._trouble: list[str] = []
        self._log = (stage.data / "processes.log").open("a", buffering=1)
        self._orchestrator = Supervisor({}, self._say, self._fail)
        self._workers: Supervisor | None = None
        self.url = ""

    async def __aenter__(self) -> _Cast:
        """Nothing runs before `begin`."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop all, workers first."""
        if self._workers is not None:
            await self._workers.stop(_GRACE_S)
        await self._orchestrator.stop(_GRACE_S)
        self._log.close()

    async def begin(self) -> None:
        """Start everything; returns when the broker takes connections."""
        command = (*COMMAND, "up", "--data", str(self._stage.data))
        self._orchestrator.start((WorkerProcess("orchestrator", command),))
        while not (url := read_endpoint(self._stage.data)):
            await asyncio.sleep(_POLL_S)
        self.url = url
        self._workers = Supervisor({"STEPMESH_URL": url}, self._say, self._fail)
        self._workers.start(self._stage.worker_processes())

    def victims(self, kill: Kill) -> list[int]:
        """Process ids; empty while one that is wanted does not run."""
        workers = sorted(self._workers.pids.items()) if self._workers is not None else []
        orchestrator = list(self._orchestrator.pids.values())
        broker = [pid] if (pid := _broker_pid(self._stage.data)) else []
        if kill.target == "worker":
            return [workers[int(kill.pick * len(workers))][1]] if workers else []
        if kill.target == "orchestrator":
            return orchestrator
        if kill.target == "broker":
            return broker
        return [*orchestrator, *broker, *(pid for _, pid in workers)] if orchestrator and broker else []

    def _say(self, line: str) -> None:
        print(line, file=self._log)

    def _fail(self, problem: BaseException) -> None:
        self._trouble.append(str(problem))
        print(problem, file=self._log)


def _broker_pid(data: Path) -> int:
    """Of the live nats-server; 0 while there is none."""
    try:
        pid = int((data / "nats" / "server.pid").read_text() or 0)
        os.kill(pid, 0)
    except (OSError, ValueError):
        return 0
    return pid


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        log.info("process %d had ended by itself", pid)
