"""`stepmesh journal verify|dump|repair`: look after a journal, in the data folder of a deployment that does not run, or on a server."""

from __future__ import annotations

import json as json_text
import sys
from pathlib import Path
from typing import Annotated, Any

import uvloop
from cyclopts import App, Parameter

from stepmesh_cli import exits
from stepmesh_cli.journal_repair import print_done, repair_file, repair_server
from stepmesh_cli.journal_source import FileSource, ServerSource, source_of
from stepmesh_orchestrator.journal.inspect import Report, dump, verify

Data = Annotated[Path | None, Parameter(help="Data folder of the deployment, or its journal's file.")]
Address = Annotated[str | None, Parameter(help="Address of a journal on a server, as `stepmesh up` takes it.")]
InNamespace = Annotated[str, Parameter(help="Namespace of the deployment, on a server.", env_var="STEPMESH_NAMESPACE")]
AsJson = Annotated[bool, Parameter(help="One JSON object on stdout.")]

journal = App(name="journal", help="Check, read and repair the journal in a data folder, whose deployment must not run, or on a server.")


@journal.command(name="verify")
def verify_command(*, data: Data = None, journal: Address = None, namespace: InNamespace = "default", json: AsJson = False) -> int:
    """Check every frame and snapshot. Exit code 1 when something is damaged. On a server also beside a running deployment.

    Example: stepmesh journal verify --data .stepmesh
    """
    with source_of(data, journal, namespace) as source:
        reports = uvloop.run(_verify_all(source))
    good = all(report.good for report in reports)
    if json:
        print(json_text.dumps({"good": good, "partitions": [_told(report) for report in reports]}))
    else:
        for report in reports:
            _print_report(report)
        print(f"{source.name}: good" if good else f"{source.name}: DAMAGED; run: stepmesh journal repair {source.flags} (it keeps a copy)")
    return exits.OK if good else exits.FAILED


@journal.command(name="dump")
def dump_command(
    *,
    data: Data = None,
    journal: Address = None,
    namespace: InNamespace = "default",
    partition: Annotated[int | None, Parameter(help="Only this partition.")] = None,
    after: Annotated[int | None, Parameter(help="Only frames with a sequence above this.")] = None,
    run: Annotated[str | None, Parameter(help="Only events of this run.")] = None,
) -> int:
    """Print the journal, one JSON object per frame, with its events.

    Example: stepmesh journal dump --data .stepmesh | jq .events[].event
    """
    from stepmesh_cli import readable_turns

    async def print_all(source: FileSource | ServerSource) -> None:
        async with source.opened() as opened:
            for number in await opened.partitions():
                if partition in (None, number):
                    async for frame in dump(opened, number, readable_turns.decode, after):
                        line = readable_turns.line(number, frame, run)
                        if line is not None:
                            sys.stdout.write(line.decode() + "\n")

    with source_of(data, journal, namespace) as source:
        uvloop.run(print_all(source))
    return exits.OK


@journal.command(name="repair")
def repair_command(
    *,
    data: Data = None,
    journal: Address = None,
    namespace: InNamespace = "default",
    yes: bool = False,
    backup: Path | None = None,
    json: AsJson = False,
) -> int:
    """Keep of each damaged partition what verifies. A file is written anew, the damaged one stays beside it as a copy. On a server this
    shows what would go; with --yes all that is stored is copied to a file, then it goes.

    Example: stepmesh journal repair --journal postgres://db/stepmesh --yes

    Parameters
    ----------
    yes
        Repair a journal on a server. Its deployment must not run.
    backup
        File for the copy of a server's journal; default: stepmesh-journal-NAMESPACE-N.jsonl, here.
    """
    with source_of(data, journal, namespace) as source:
        done = uvloop.run(repair_server(source, backup, yes=yes)) if isinstance(source, ServerSource) else repair_file(source)
    print_done(source, done, as_json=json)
    return exits.FAILED if done.cuts and not done.repaired else exits.OK


async def _verify_all(source: FileSource | ServerSource) -> list[Report]:
    async with source.opened() as opened:
        return [await verify(opened, number) for number in await opened.partitions()]


def _print_report(report: Report) -> None:
    snapshots = ", ".join(map(str, report.snapshots)) or "none"
    print(f"partition {report.partition}: {report.frames} good frames after {report.trimmed}, snapshots: {snapshots}")
    if report.first_bad is not None:
        print(f"  frame {report.first_bad}: {report.reason}")
    if report.torn:
        print("  a frame after them was not written to its end: nobody was told of it, the next owner cuts it off")
    for sequence, trouble in report.damaged_snapshots:
        print(f"  snapshot {sequence}: {trouble}")


def _told(report: Report) -> dict[str, Any]:
    return {**report._asdict(), "good": report.good}
