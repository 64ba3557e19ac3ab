"""The ledger: what worker processes did, written by themselves and by nobody else. The second witness beside the journal.

One append-only file per process; a line when a component begins and one when it ended, each in one write(2) with O_APPEND, so
that a killed process leaves whole lines (a torn last line is told apart). Must not know what the engine believes.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from stepmesh import Context
from stepmesh_broker.protocol.messages import Result

VARIABLE = "STEPMESH_DEMO_LEDGER"
"""Environment: the folder that a worker process keeps its ledger in."""


class Line(msgspec.Struct, frozen=True, array_like=True):
    """`at_us`: wall clock, µs since 1970. `outcome`, of an end: `ok`, `failed`, or `dropped` when nobody wants the result."""

    kind: Literal["start", "end"]
    at_us: int
    pid: int
    pool: str
    run: str
    item: int
    step: str
    attempt: int
    outcome: str = ""


_decoder = msgspec.json.Decoder(Line)


class Execution(NamedTuple):
    """One run of a component's code. `end_us` is None when the process died in it."""

    pid: int
    pool: str
    run: str
    item: int
    step: str
    attempt: int
    start_us: int
    end_us: int | None
    outcome: str


class Ledger:
    """A worker's `Instrument` that writes the ledger of this process."""

    def __init__(self, folder: Path, pool: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._pool = pool
        self._file = os.open(folder / f"{pool}-{os.getpid()}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def start(self, context: Context) -> Line:
        """See `Instrument`."""
        line = Line("start", _now_us(), os.getpid(), self._pool, context.run_id, context.item, context.step_id, context.attempt)
        self._write(line)
        return line

    def finish(self, token: object, result: Result | None) -> None:
        """See `Instrument`."""
        if isinstance(token, Line):
            outcome = "dropped" if result is None else "ok" if result.failure is None else "failed"
            self._write(msgspec.structs.replace(token, kind="end", at_us=_now_us(), outcome=outcome))

    def _write(self, line: Line) -> None:
        os.write(self._file, msgspec.json.encode(line) + b"\n")


def read_lines(folder: Path) -> list[Line]:
    """Every whole line of all processes, in order of time."""
    found = [_decoder.decode(text) for path in sorted(folder.glob("*.jsonl")) for text in _whole_lines(path.read_bytes())]
    return sorted(found, key=lambda line: line.at_us)


def executions(lines: Iterable[Line]) -> list[Execution]:
    """Starts with their ends, in order of start. A start without an end is an execution that its process did not survive."""
    open_: dict[tuple[object, ...], list[Line]] = {}
    done: list[Execution] = []
    for line in lines:
        key = (line.pid, line.run, line.item, line.step, line.attempt)
        if line.kind == "start":
            open_.setdefault(key, []).append(line)
        elif open_.get(key):
            done.append(_execution(open_[key].pop(0), line))
    done.extend(_execution(line, None) for lines_ in open_.values() for line in lines_)
    return sorted(done, key=lambda one: one.start_us)


def _execution(start: Line, end: Line | None) -> Execution:
    ended, outcome = (end.at_us, end.outcome) if end is not None else (None, "killed")
    return Execution(start.pid, start.pool, start.run, start.item, start.step, start.attempt, start.at_us, ended, outcome)


def _whole_lines(text: bytes) -> Iterator[bytes]:
    whole, _, _torn = text.rpartition(b"\n")
    return iter(whole.splitlines())


def _now_us() -> int:
    return time.time_ns() // 1000


class LedgerWatch:
    """Follows ledgers that are being written, reading only what is new."""

    def __init__(self, folder: Path) -> None:
        self.begun = 0
        """Executions that began."""
        self._folder = folder
        self._read: Counter[Path] = Counter()
        self._open: Counter[int] = Counter()

    @property
    def busy(self) -> set[int]:
        """Process ids with an execution under way, those among them that were killed included."""
        return {pid for pid, count in self._open.items() if count > 0}

    def look(self) -> None:
        """Take in what was written since."""
        for path in self._folder.glob("*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._read[path])
                whole, newline, _torn = file.read().rpartition(b"\n")
            self._read[path] += len(whole) + len(newline)
            for text in whole.splitlines():
                line = _decoder.decode(text)
                self.begun += line.kind == "start"
                self._open[line.pid] += 1 if line.kind == "start" else -1
