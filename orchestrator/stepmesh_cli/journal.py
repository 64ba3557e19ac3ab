"""`stepmesh journal verify|dump|repair`: look after the journal of a data folder that no process owns."""

from __future__ import annotations

import json as json_text
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import uvloop
from cyclopts import App, Parameter

from stepmesh_broker.protocol.ids import Partition
from stepmesh_cli import exits
from stepmesh_cli.data_folder import DataFolder
from stepmesh_cli.errors import BadInput
from stepmesh_orchestrator.journal.inspect import Report, dump, verify
from stepmesh_orchestrator.journal.repair import Cut, repair
from stepmesh_orchestrator.journal.sqlite import SqliteJournal

T = TypeVar("T")
FILE = "journal.db"
Data = Annotated[Path, Parameter(help="Data folder of the deployment, or its journal's file.")]
AsJson = Annotated[bool, Parameter(help="One JSON object on stdout.")]

journal = App(name="journal", help="Check, read and repair the journal in a data folder. Its deployment must not run.")


@journal.command(name="verify")
def verify_command(*, data: Data, json: AsJson = False) -> int:
    """Check every frame and snapshot. Exit code 1 when something is damaged.

    Example: stepmesh journal verify --data .stepmesh
    """
    with _owned(data) as file:
        reports = uvloop.run(_with(file, _verify_all))
    good = all(report.good for report in reports)
    if json:
        print(json_text.dumps({"good": good, "partitions": [_told(report) for report in reports]}))
    else:
        for report in reports:
            _print_report(report)
        print(f"{file}: good" if good else f"{file}: DAMAGED; run: stepmesh journal repair --data {data} (it keeps a copy)")
    return exits.OK if good else exits.FAILED


@journal.command(name="dump")
def dump_command(
    *,
    data: Data,
    partition: Annotated[int | None, Parameter(help="Only this partition.")] = None,
    after: Annotated[int | None, Parameter(help="Only frames with a sequence above this.")] = None,
    run: Annotated[str | None, Parameter(help="Only events of this run.")] = None,
) -> int:
    """Print the journal, one JSON object per frame, with its events.

    Example: stepmesh journal dump --data .stepmesh | jq .events[].event
    """
    from stepmesh_cli import readable_turns

    async def print_all(opened: SqliteJournal) -> None:
        for number in await opened.partitions():
            if partition in (None, number):
                async for frame in dump(opened, number, readable_turns.decode, after):
                    line = readable_turns.line(number, frame, run)
                    if line is not None:
                        sys.stdout.write(line.decode() + "\n")

    with _owned(data) as file:
        uvloop.run(_with(file, print_all))
    return exits.OK


@journal.command(name="repair")
def repair_command(*, data: Data, json: AsJson = False) -> int:
    """Write a new journal with everything that verifies; the damaged file stays beside it as a copy.

    Example: stepmesh journal repair --data .stepmesh
    """
    with _owned(data) as file:
        done = repair(file)
    if json:
        cuts = [cut._asdict() for cut in done.cuts]
        print(
            json_text.dumps(
                {"repaired": done.copy is not None, "copy": done.copy and str(done.copy), "trouble": done.trouble, "cuts": cuts}
            )
        )
    elif done.copy is None:
        print(f"{file}: nothing is wrong, nothing was changed")
    else:
        for trouble in done.trouble:
            print(f"trouble: {trouble}")
        for cut in done.cuts:
            print(_cut(cut))
        print(f"{file}: repaired; the damaged file is {done.copy}")
    return exits.OK


@contextmanager
def _owned(data: Path) -> Generator[Path]:
    """The journal's file, while this process owns the folder. Raises `BadInput`, `DataFolderInUse`."""
    file = data if data.is_file() else data / FILE
    if not file.is_file():
        raise BadInput(f"there is no journal {file}", hint="--data names the folder of a deployment that used --journal sqlite")
    folder = DataFolder(file.parent)
    folder.own()
    try:
        yield file
    finally:
        folder.release()


@asynccontextmanager
async def _opened(file: Path) -> AsyncGenerator[SqliteJournal]:
    opened = SqliteJournal(file)
    await opened.open()
    try:
        yield opened
    finally:
        await opened.close()


async def _with(file: Path, work: Callable[[SqliteJournal], Coroutine[Any, Any, T]]) -> T:
    async with _opened(file) as opened:
        return await work(opened)


async def _verify_all(opened: SqliteJournal) -> list[Report]:
    return [await verify(opened, Partition(number)) for number in await opened.partitions()]


def _print_report(report: Report) -> None:
    snapshots = ", ".join(map(str, report.snapshots)) or "none"
    print(f"partition {report.partition}: {report.frames} good frames after {report.trimmed}, snapshots: {snapshots}")
    if report.first_bad is not None:
        print(f"  frame {report.first_bad}: {report.reason}")
    for sequence, trouble in report.damaged_snapshots:
        print(f"  snapshot {sequence}: {trouble}")


def _told(report: Report) -> dict[str, Any]:
    return {**report._asdict(), "good": report.good}


def _cut(cut: Cut) -> str:
    kept = f"frames {cut.first} to {cut.last}" if cut.last >= cut.first else "no frames"
    return f"partition {cut.partition}: had frames up to {cut.last_before}, has {kept} now: {cut.reason}"
